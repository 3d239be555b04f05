//! The hidden command that holds itself to a policy and then becomes the child.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::PathBuf,
};

use super::{Access, Confinement, Denied, Mechanism, Policy, landlock, namespaces, probe};

/// The first argument of the launcher.
pub const COMMAND: &str = "isolated-engine";

/// Ends the rules; the child's command line follows.
pub(super) const END: &str = "--";
/// Ends the rules; instead of a child the policy itself is tried.
pub(super) const PROBE: &str = "--probe";

/// The beginning of what the launcher says when it cannot start the child.
pub const COMPLAINT: &str = "cannot isolate the engine: ";

const HIDDEN: &str = "--hidden";
const READ_ONLY: &str = "--read-only";
const OPEN: &str = "--open";

/// The launcher's arguments up to the child's. Paths are no secrets.
pub(super) fn arguments(confinement: &Confinement) -> Vec<OsString> {
    let mut args = vec![COMMAND.into(), confinement.mechanism.as_str().into()];
    for (path, access) in confinement.policy.rules() {
        let flag = match access {
            Access::Open => OPEN,
            Access::ReadOnly => READ_ONLY,
            Access::Hidden => HIDDEN,
        };
        args.extend([OsString::from(flag), path.as_os_str().to_owned()]);
    }
    args
}

/// Whether the arguments of this process, the program included, are those of the launcher.
pub fn is_asked(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|first| first == COMMAND)
}

/// Holds this process to the policy of its arguments, and becomes the child. The process must have one thread.
///
/// # Errors
/// [`Denied`]; otherwise it returns only from a probe, which leaves nothing to do.
pub fn run(arguments: &[OsString]) -> Result<(), Denied> {
    let (confinement, end, rest) = parse(arguments).ok_or(Denied::Arguments)?;
    let policy = confinement.policy.resolve()?;
    // The way back to it must lead through what is mounted, not below it.
    let dir = std::env::current_dir()
        .and_then(|dir| dir.canonicalize())
        .map_err(|error| Denied::kernel("find the working directory", error))?;
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| Denied::kernel("give up new privileges", error))?;
    match confinement.mechanism {
        Mechanism::Namespaces => namespaces::apply(&policy, &dir)?,
        Mechanism::Landlock => landlock::apply(&policy)?,
    }
    std::env::set_current_dir(&dir)
        .map_err(|error| Denied::kernel(format!("enter {}", dir.display()), error))?;
    if end == PROBE {
        return probe::check(&dir);
    }
    let [program, args @ ..] = rest else {
        return Err(Denied::Arguments);
    };
    let error = std::process::Command::new(program).args(args).exec();
    let program = program.to_string_lossy();
    Err(Denied::kernel(format!("start {program}"), error))
}

fn parse(arguments: &[OsString]) -> Option<(Confinement, &OsStr, &[OsString])> {
    let [program, _command, mechanism, rest @ ..] = arguments else {
        return None;
    };
    let mut confinement = Confinement {
        mechanism: Mechanism::parse(mechanism.to_str()?)?,
        launcher: PathBuf::from(program),
        policy: Policy::default(),
    };
    let mut rest = rest;
    loop {
        let (flag, after) = rest.split_first()?;
        let access = match flag.to_str()? {
            HIDDEN => Access::Hidden,
            READ_ONLY => Access::ReadOnly,
            OPEN => Access::Open,
            END | PROBE => return Some((confinement, flag, after)),
            _ => return None,
        };
        let (path, after) = after.split_first()?;
        confinement.policy.set(path, access);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_launcher_is_told_is_what_it_reads() {
        let mut policy = Policy::default();
        policy.set("/state", Access::Hidden);
        policy.set("/state/--", Access::Open);
        policy.set("/store", Access::ReadOnly);
        for mechanism in Mechanism::ALL {
            let confinement = Confinement {
                mechanism,
                launcher: "/bin/outpost".into(),
                policy: policy.clone(),
            };
            let child = ["--", "terraform", "apply", "--hidden"].map(OsString::from);
            let mut arguments = vec![OsString::from("/bin/outpost")];
            arguments.extend(super::arguments(&confinement));
            arguments.extend(child.clone());

            let (read, end, rest) = parse(&arguments).unwrap();

            assert!(is_asked(&arguments));
            assert_eq!((read.mechanism, read.policy), (mechanism, policy.clone()));
            assert_eq!((end, rest), (OsStr::new(END), &child[1..]));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &["x", COMMAND][..],
            &["x", COMMAND, "magic", "--", "sh"],
            &["x", COMMAND, "landlock", "--hidden"],
            &["x", COMMAND, "landlock", "--hidden", "/x", "sh"],
        ] {
            let wrong: Vec<OsString> = wrong.iter().map(OsString::from).collect();
            assert!(parse(&wrong).is_none(), "{wrong:?}");
        }
    }
}
