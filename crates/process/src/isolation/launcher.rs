//! Hidden command that confines itself to a policy and then becomes the child.
//!
//! It is called up to three times for one child, each time with another role: as the shim that stays outside, as the
//! first process of a namespace, and as what becomes the engine.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

pub use super::shim::ended_well;
use super::{
    Access, Background, Confinement, Denied, Mechanism, Policy, Shown, init, landlock, namespaces,
    probe, shim,
};
use crate::control_group;

/// First argument of the launcher.
pub const COMMAND: &str = "isolated-engine";

/// End of the rules; the child's command line follows.
pub(super) const END: &str = "--";
/// End of the rules; the policy itself is tested instead of running a child.
pub(super) const PROBE: &str = "--probe";

/// Beginning of the launcher's message when it cannot start the child.
pub const COMPLAINT: &str = "cannot isolate the engine: ";

/// Name of the mechanism for a child that is not confined.
const UNBOUND: &str = "none";

/// Option with the file for the child's exit status: then the launcher stays as its parent.
const REPORT: &str = "--report";
/// Option with which the launcher stays as the child's parent, and ends whatever the child leaves behind.
const ENDS_ALL: &str = "--ends-all";
/// Option with a directory of the job's control group, which the launcher joins.
const CONTROL_GROUP: &str = "--control-group";
/// Option with the process id of the parent with which the child ends.
const PARENT: &str = "--parent";
/// Option for the launcher as the first process of a namespace that its parent created.
const INIT: &str = "--init";
const HIDDEN: &str = "--hidden";
const READ_ONLY: &str = "--read-only";
const OPEN: &str = "--open";
/// Option with a path that is shown, read-only, in a root of its own.
const SHOWN: &str = "--shown";
/// Option with an empty directory in that root.
const EMPTY: &str = "--empty";

/// Returns the launcher's arguments up to the child's. Paths are no secrets.
pub(super) fn arguments(confinement: Option<&Confinement>, report: Option<&Path>) -> Vec<OsString> {
    let mut args = match confinement {
        Some(it) => beginning(Some(it.mechanism), &it.policy, &it.shown),
        None => beginning(None, &Policy::default(), &Shown::default()),
    };
    if confinement.is_some_and(|it| it.background == Background::Ends) {
        args.push(ENDS_ALL.into());
    }
    let group = confinement.and_then(|it| it.control_group.as_ref());
    for dir in group.iter().flat_map(|group| group.dirs()) {
        args.extend([OsString::from(CONTROL_GROUP), dir.as_os_str().to_owned()]);
    }
    if let Some(report) = report {
        args.extend([OsString::from(REPORT), report.as_os_str().to_owned()]);
    }
    args
}

fn beginning(mechanism: Option<Mechanism>, policy: &Policy, shown: &Shown) -> Vec<OsString> {
    let mechanism = mechanism.map_or(UNBOUND, Mechanism::as_str);
    let mut args = vec![COMMAND.into(), mechanism.into()];
    let rules = policy.rules().map(|(path, access)| (flag(access), path));
    let paths = shown.paths.iter().map(|path| (SHOWN, path.as_path()));
    let empty = shown.empty.iter().map(|path| (EMPTY, path.as_path()));
    for (flag, path) in rules.chain(paths).chain(empty) {
        args.extend([OsString::from(flag), path.as_os_str().to_owned()]);
    }
    args
}

/// Returns whether the arguments of this process, including the program, are those of the launcher.
pub fn is_asked(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|first| first == COMMAND)
}

/// Confines this process to the policy of its arguments, and becomes the child, or its parent. The process must have
/// a single thread.
///
/// # Errors
/// [`Denied`]; otherwise it returns only from a probe, which leaves nothing to do.
pub fn run(arguments: &[OsString]) -> Result<(), Denied> {
    let asked = parse(arguments).ok_or(Denied::Arguments)?;
    for group in &asked.control_groups {
        control_group::join(group)
            .map_err(|error| Denied::kernel(format!("join {}", group.display()), error))?;
    }
    match asked.role {
        Role::Shim => stay(&asked),
        Role::Init => init::run(&asked),
        Role::Engine => become_child(&asked),
    }
}

/// Starts the child as a process of its own, and ends as it does.
fn stay(asked: &Asked<'_>) -> Result<(), Denied> {
    let mut role = INIT;
    let has_namespaces = matches!(
        asked.mechanism,
        Some(Mechanism::Namespaces | Mechanism::FreshRoot)
    );
    let is_apart = asked.ends_all && has_namespaces && namespaces::enter_with_processes()?;
    if !is_apart {
        role = PARENT;
    }
    let mut child = Command::new(super::own_launcher());
    child.args(asked.for_child(role));
    let shim = shim::Shim {
        report: asked.report.as_deref(),
        ends_all: asked.ends_all,
        is_apart,
    };
    match shim.run(&mut child) {
        Ok(never) => match never {},
        Err(error) => Err(Denied::kernel("start the launcher", error)),
    }
}

/// Confines this process, and executes the child in its place.
fn become_child(asked: &Asked<'_>) -> Result<(), Denied> {
    if let Some(mechanism) = asked.mechanism {
        let held = hold(mechanism, asked)?;
        if asked.end == PROBE {
            return probe::check(&held, asked.child);
        }
    }
    let [program, args @ ..] = asked.child else {
        return Err(Denied::Arguments);
    };
    let error = shim::execute(asked.parent, program, args);
    Err(start_failed(program, error))
}

pub(super) fn start_failed(program: &OsStr, error: std::io::Error) -> Denied {
    Denied::kernel(format!("start {}", program.to_string_lossy()), error)
}

/// Restrictions of a confined process.
pub(super) struct Held {
    /// Working directory of the process.
    pub(super) dir: PathBuf,
    /// Set if Landlock prevents signals to processes outside, and the use of abstract sockets there.
    pub(super) is_scoped: bool,
    /// Set if the number of its processes is limited, so that others can still start theirs.
    pub(super) is_counted: bool,
    /// Set if processes that it leaves behind are ended.
    pub(super) ends_all: bool,
}

/// Confines this process to a policy.
pub(super) fn hold(mechanism: Mechanism, asked: &Asked<'_>) -> Result<Held, Denied> {
    // Reopening it must resolve through the new mounts, not below them.
    let dir = std::env::current_dir()
        .and_then(|dir| dir.canonicalize())
        .map_err(|error| Denied::kernel("find the working directory", error))?;
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| Denied::kernel("give up new privileges", error))?;
    let setup = namespaces::Setup {
        policy: &asked.policy,
        dir: &dir,
        root: (mechanism == Mechanism::FreshRoot).then_some(&asked.shown),
    };
    match mechanism {
        Mechanism::Landlock => landlock::apply(&asked.policy.resolve()?)?,
        Mechanism::Namespaces | Mechanism::FreshRoot => match asked.role {
            Role::Init => setup.apply_as_init()?,
            Role::Engine | Role::Shim => setup.apply()?,
        },
    }
    let is_scoped = asked.ends_all && landlock::scope()?;
    let is_counted =
        asked.ends_all && mechanism != Mechanism::Landlock && !nix::unistd::geteuid().is_root();
    if is_counted {
        namespaces::limit_tasks()?;
    }
    std::env::set_current_dir(&dir)
        .map_err(|error| Denied::kernel(format!("enter {}", dir.display()), error))?;
    Ok(Held {
        dir,
        is_scoped,
        is_counted,
        ends_all: asked.ends_all,
    })
}

/// Role of a process between daemon and engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Process outside of everything that confines the engine.
    Shim,
    /// First process of a namespace.
    Init,
    /// Process that becomes the engine.
    Engine,
}

/// Request to the launcher, parsed from its arguments.
pub(super) struct Asked<'a> {
    /// Mechanism; `None` for a child that is not confined.
    pub(super) mechanism: Option<Mechanism>,
    policy: Policy,
    shown: Shown,
    report: Option<PathBuf>,
    ends_all: bool,
    control_groups: Vec<PathBuf>,
    /// Process id of the parent with which this process ends, as the parent knows it.
    pub(super) parent: Option<&'a OsStr>,
    pub(super) role: Role,
    /// Either [`END`] or [`PROBE`].
    pub(super) end: &'a OsStr,
    pub(super) child: &'a [OsString],
}

impl Asked<'_> {
    /// Returns the arguments for a child of this process.
    fn for_child(&self, role: &str) -> Vec<OsString> {
        let mut args = beginning(self.mechanism, &self.policy, &self.shown);
        if self.ends_all {
            args.push(ENDS_ALL.into());
        }
        if role == INIT {
            args.push(INIT.into());
        }
        args.extend([PARENT.into(), std::process::id().to_string().into()]);
        args.push(self.end.to_owned());
        args.extend(self.child.iter().cloned());
        args
    }
}

/// Returns the arguments of a launcher that becomes `child` and ends with this process.
pub(super) fn bound(child: &[OsString]) -> Vec<OsString> {
    let mut args = vec![COMMAND.into(), UNBOUND.into(), PARENT.into()];
    args.extend([std::process::id().to_string().into(), END.into()]);
    args.extend(child.iter().cloned());
    args
}

fn flag(access: Access) -> &'static str {
    match access {
        Access::Open => OPEN,
        Access::ReadOnly => READ_ONLY,
        Access::Hidden => HIDDEN,
    }
}

fn parse(arguments: &[OsString]) -> Option<Asked<'_>> {
    let [_program, _command, mechanism, rest @ ..] = arguments else {
        return None;
    };
    let mechanism = match mechanism.to_str()? {
        UNBOUND => None,
        word => Some(Mechanism::parse(word)?),
    };
    let mut asked = Asked {
        mechanism,
        policy: Policy::default(),
        shown: Shown::default(),
        report: None,
        ends_all: false,
        control_groups: Vec::new(),
        parent: None,
        role: Role::Engine,
        end: OsStr::new(END),
        child: &[],
    };
    let (mut is_init, mut rest) = (false, rest);
    loop {
        let (flag, after) = rest.split_first()?;
        rest = after;
        let mut value = || {
            let (value, after) = rest.split_first()?;
            rest = after;
            Some(value)
        };
        match flag.to_str()? {
            HIDDEN => asked.policy.set(value()?, Access::Hidden),
            READ_ONLY => asked.policy.set(value()?, Access::ReadOnly),
            OPEN => asked.policy.set(value()?, Access::Open),
            SHOWN => asked.shown.paths.push(value()?.into()),
            EMPTY => asked.shown.empty.push(value()?.into()),
            REPORT => asked.report = Some(value()?.into()),
            CONTROL_GROUP => asked.control_groups.push(value()?.into()),
            PARENT => asked.parent = Some(value()?),
            ENDS_ALL => asked.ends_all = true,
            INIT => is_init = true,
            END | PROBE => {
                (asked.end, asked.child) = (flag, rest);
                break;
            }
            _ => return None,
        }
    }
    let stays = asked.report.is_some() || asked.ends_all;
    asked.role = match asked.parent {
        None if stays => Role::Shim,
        Some(_) if is_init => Role::Init,
        _ => Role::Engine,
    };
    Some(asked)
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
                shown: Shown {
                    paths: vec!["/opt/engine".into()],
                    empty: vec!["/home/me".into()],
                },
                background: Background::Ends,
                control_group: None,
            };
            let child = ["--", "terraform", "apply", "--hidden"].map(OsString::from);
            let mut arguments = vec![OsString::from("/bin/outpost")];
            let report = Path::new("/state/--report");
            arguments.extend(super::arguments(Some(&confinement), Some(report)));
            arguments.extend(child.clone());

            let read = parse(&arguments).unwrap();

            assert!(is_asked(&arguments));
            assert_eq!(
                (read.mechanism, &read.policy, read.role),
                (Some(mechanism), &policy, Role::Shim)
            );
            assert_eq!(read.report.as_deref(), Some(report));
            assert_eq!((read.end, read.child), (OsStr::new(END), &child[1..]));
            for (flag, role) in [(INIT, Role::Init), (PARENT, Role::Engine)] {
                let mut arguments = vec![OsString::from("/bin/outpost")];
                arguments.extend(read.for_child(flag));

                let below = parse(&arguments).unwrap();

                assert_eq!((below.role, &below.policy), (role, &policy));
                assert_eq!(below.shown, confinement.shown);
                assert_eq!((below.report, below.ends_all), (None, true));
                assert_eq!(below.child, &child[1..]);
            }
        }
    }

    #[test]
    fn a_child_that_is_held_to_nothing_can_have_a_shim() {
        let mut arguments = vec![OsString::from("/bin/outpost")];
        arguments.extend(super::arguments(None, Some(Path::new("/r"))));
        arguments.extend(["--", "sh"].map(OsString::from));

        let read = parse(&arguments).unwrap();

        assert_eq!(
            (read.mechanism, &read.policy, read.role),
            (None, &Policy::default(), Role::Shim)
        );
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
            &["x", COMMAND, "landlock", "--parent"],
        ] {
            let wrong: Vec<OsString> = wrong.iter().map(OsString::from).collect();
            assert!(parse(&wrong).is_none(), "{wrong:?}");
        }
    }
}
