//! Capabilities that would defeat the rest of isolation, given up permanently.

use std::{error::Error, io};

use caps::{CapSet, Capability};

use super::Denied;

/// Capabilities that lead root past Landlock: into other processes, devices, the kernel, or a file without its path.
const DANGEROUS: [Capability; 8] = [
    Capability::CAP_BPF,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_MKNOD,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RAWIO,
];

/// Gives up all capabilities. With `no_new_privs` set, no program that is executed later regains any.
pub(super) fn drop_all() -> Result<(), Denied> {
    sets()
        .into_iter()
        .try_for_each(|set| caps::clear(None, set))
        .map_err(failed)
}

/// Capabilities for mounting, for creating a file in an empty directory that nobody may write, and for giving all of
/// them up.
const MOUNTING: [Capability; 3] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_SETPCAP,
    Capability::CAP_SYS_ADMIN,
];

/// Lets programs that this process executes mount, in the user namespace that it has created.
pub(super) fn pass_on_mounting() -> Result<(), Denied> {
    for set in [CapSet::Inheritable, CapSet::Ambient] {
        for capability in MOUNTING {
            caps::raise(None, set, capability).map_err(failed)?;
        }
    }
    Ok(())
}

/// Gives up the capabilities that lead past Landlock, if this process has them.
pub(super) fn drop_dangerous() -> Result<(), Denied> {
    for set in sets() {
        for capability in DANGEROUS {
            // A capability that the kernel does not know need not be given up.
            if caps::has_cap(None, set, capability).unwrap_or(false) {
                caps::drop(None, set, capability).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Returns all sets, in the order in which the kernel lets us reduce them. The bounding set can be reduced only with
/// a capability, and need not be otherwise.
fn sets() -> Vec<CapSet> {
    let mut sets = Vec::new();
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        sets.push(CapSet::Bounding);
    }
    sets.extend([
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ]);
    sets
}

fn failed(error: impl Error + Send + Sync + 'static) -> Denied {
    Denied::kernel("give up capabilities", io::Error::other(error))
}
