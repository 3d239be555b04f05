//! The hidden command that holds itself to a policy and then becomes the child.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

pub use super::shim::ended_well;
use super::{Access, Confinement, Denied, Mechanism, Policy, landlock, namespaces, probe, shim};

/// The first argument of the launcher.
pub const COMMAND: &str = "isolated-engine";

/// Ends the rules; the child's command line follows.
pub(super) const END: &str = "--";
/// Ends the rules; instead of a child the policy itself is tried.
pub(super) const PROBE: &str = "--probe";

/// The beginning of what the launcher says when it cannot start the child.
pub const COMPLAINT: &str = "cannot isolate the engine: ";

/// Stands for the mechanism of a child that is held to nothing.
const UNBOUND: &str = "none";
/// Stands for the mechanism of the child of a shim: the number of the shim, and the child's command line follow.
pub(super) const BOUND: &str = "bound";

/// The file for the end of the child: then the launcher stays as its parent.
const REPORT: &str = "--report";
const HIDDEN: &str = "--hidden";
const READ_ONLY: &str = "--read-only";
const OPEN: &str = "--open";

/// The launcher's arguments up to the child's. Paths are no secrets.
pub(super) fn arguments(confinement: Option<&Confinement>, report: Option<&Path>) -> Vec<OsString> {
    let mechanism = confinement.map_or(UNBOUND, |it| it.mechanism.as_str());
    let mut args = vec![COMMAND.into(), mechanism.into()];
    let rules = confinement.iter().flat_map(|it| it.policy.rules());
    for (path, access) in rules {
        let flag = match access {
            Access::Open => OPEN,
            Access::ReadOnly => READ_ONLY,
            Access::Hidden => HIDDEN,
        };
        args.extend([OsString::from(flag), path.as_os_str().to_owned()]);
    }
    if let Some(report) = report {
        args.extend([OsString::from(REPORT), report.as_os_str().to_owned()]);
    }
    args
}

/// Whether the arguments of this process, the program included, are those of the launcher.
pub fn is_asked(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|first| first == COMMAND)
}

/// Holds this process to the policy of its arguments, and becomes the child, or its parent. The process must have one
/// thread.
///
/// # Errors
/// [`Denied`]; otherwise it returns only from a probe, which leaves nothing to do.
pub fn run(arguments: &[OsString]) -> Result<(), Denied> {
    if let [_, _, word, parent, program, args @ ..] = arguments
        && word == BOUND
    {
        let error = shim::bind(parent, program, args);
        return Err(start_failed(program, error));
    }
    let asked = parse(arguments).ok_or(Denied::Arguments)?;
    if let Some(mechanism) = asked.mechanism {
        let dir = hold(mechanism, &asked.policy)?;
        if asked.end == PROBE {
            return probe::check(&dir);
        }
    }
    let [program, args @ ..] = asked.child else {
        return Err(Denied::Arguments);
    };
    let error = match &asked.report {
        Some(report) => match shim::run(program, args, report) {
            Ok(never) => match never {},
            Err(error) => error,
        },
        None => std::process::Command::new(program).args(args).exec(),
    };
    Err(start_failed(program, error))
}

fn start_failed(program: &OsStr, error: std::io::Error) -> Denied {
    Denied::kernel(format!("start {}", program.to_string_lossy()), error)
}

/// Holds this process to a policy, and returns the directory that it works in.
fn hold(mechanism: Mechanism, policy: &Policy) -> Result<PathBuf, Denied> {
    let policy = policy.resolve()?;
    // The way back to it must lead through what is mounted, not below it.
    let dir = std::env::current_dir()
        .and_then(|dir| dir.canonicalize())
        .map_err(|error| Denied::kernel("find the working directory", error))?;
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| Denied::kernel("give up new privileges", error))?;
    match mechanism {
        Mechanism::Namespaces => namespaces::apply(&policy, &dir)?,
        Mechanism::Landlock => landlock::apply(&policy)?,
    }
    std::env::set_current_dir(&dir)
        .map_err(|error| Denied::kernel(format!("enter {}", dir.display()), error))?;
    Ok(dir)
}

/// What the launcher is asked to do.
struct Asked<'a> {
    /// `None` for a child that is held to nothing.
    mechanism: Option<Mechanism>,
    policy: Policy,
    report: Option<PathBuf>,
    /// [`END`] or [`PROBE`].
    end: &'a OsStr,
    child: &'a [OsString],
}

fn parse(arguments: &[OsString]) -> Option<Asked<'_>> {
    let [_program, _command, mechanism, rest @ ..] = arguments else {
        return None;
    };
    let mechanism = match mechanism.to_str()? {
        UNBOUND => None,
        word => Some(Mechanism::parse(word)?),
    };
    let (mut policy, mut report, mut rest) = (Policy::default(), None, rest);
    loop {
        let (flag, after) = rest.split_first()?;
        let access = match flag.to_str()? {
            HIDDEN => Some(Access::Hidden),
            READ_ONLY => Some(Access::ReadOnly),
            OPEN => Some(Access::Open),
            REPORT => None,
            END | PROBE => {
                return Some(Asked {
                    mechanism,
                    policy,
                    report,
                    end: flag,
                    child: after,
                });
            }
            _ => return None,
        };
        let (path, after) = after.split_first()?;
        match access {
            Some(access) => policy.set(path, access),
            None => report = Some(PathBuf::from(path)),
        }
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
            let report = Path::new("/state/--report");
            arguments.extend(super::arguments(Some(&confinement), Some(report)));
            arguments.extend(child.clone());

            let read = parse(&arguments).unwrap();

            assert!(is_asked(&arguments));
            assert_eq!(
                (read.mechanism, read.policy),
                (Some(mechanism), policy.clone())
            );
            assert_eq!(read.report.as_deref(), Some(report));
            assert_eq!((read.end, read.child), (OsStr::new(END), &child[1..]));
        }
    }

    #[test]
    fn a_child_that_is_held_to_nothing_can_have_a_shim() {
        let mut arguments = vec![OsString::from("/bin/outpost")];
        arguments.extend(super::arguments(None, Some(Path::new("/r"))));
        arguments.extend(["--", "sh"].map(OsString::from));

        let read = parse(&arguments).unwrap();

        assert_eq!((read.mechanism, read.policy), (None, Policy::default()));
        assert_eq!(
            (read.report, read.child),
            (Some("/r".into()), &["sh".into()][..])
        );
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
