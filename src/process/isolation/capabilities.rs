//! Capabilities that would make the rest of isolation pointless, given up for good.

use std::io;

use caps::{CapSet, Capability, CapsError};

use super::Denied;

/// What lets root past Landlock: into other processes, devices, the kernel, or a file without its path.
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

/// Sets in the order in which the kernel lets us take from them; to drop from the first one needs a capability.
const SETS: [CapSet; 5] = [
    CapSet::Bounding,
    CapSet::Ambient,
    CapSet::Inheritable,
    CapSet::Effective,
    CapSet::Permitted,
];

/// Gives up all. With `no_new_privs` set, no program that is executed later gets any back.
pub(super) fn drop_all() -> Result<(), Denied> {
    SETS.into_iter()
        .filter(|set| *set != CapSet::Bounding || may_drop_bounds())
        .try_for_each(|set| caps::clear(None, set))
        .map_err(failed)
}

/// Gives up those that lead past Landlock, if this process has them.
pub(super) fn drop_dangerous() -> Result<(), Denied> {
    for set in SETS {
        if set == CapSet::Bounding && !may_drop_bounds() {
            continue;
        }
        for capability in DANGEROUS {
            // A kernel that does not know a capability has none to give up.
            if caps::has_cap(None, set, capability).unwrap_or(false) {
                caps::drop(None, set, capability).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn may_drop_bounds() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false)
}

fn failed(error: CapsError) -> Denied {
    Denied::kernel("give up capabilities", io::Error::other(error))
}
