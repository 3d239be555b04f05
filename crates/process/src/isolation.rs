//! Keeps a child from what is not its business: files that it must not see, and files that it must not change.
//!
//! A child is started through a launcher: this program executes itself, gives up for good what the [`Policy`] says,
//! and becomes the child by another `exec`. Everything that the child starts is bound by it, too, and lives as long
//! as it likes. What is not named by the policy stays as it is, as templates use sockets, keys and files of their own.
//!
//! | | namespaces | Landlock |
//! |---|---|---|
//! | what it does | mounts something empty over what is hidden | allows everything but what is hidden |
//! | needs | user and mount namespaces for everybody | Linux 6.2 |
//! | beside what is hidden | everything works | directories above it cannot be listed, and nothing new be made in them |
//! | processes | a namespace of process ids, whose end ends all in it | a parent that takes in orphans and ends them |
//! | signals | cannot name a process outside; Landlock's scope on top | Landlock's scope: Linux 6.12 |
//!
//! So namespaces are preferred. Either way the child is not allowed to look into processes that are not its own,
//! and never gains privileges from setuid programs. What is said of processes and signals holds for
//! [`Background::Ends`] only.
//!
//! ```text
//! Background::Ends    namespaces   shim ─ init (process 1) ─ engine         shim is the process that the daemon started,
//!                     Landlock     shim ─ engine                            and the engine below it is held
//! Background::LivesOn              engine, or shim ─ engine for an apply
//! ```

mod capabilities;
mod fresh_root;
mod init;
mod landlock;
pub mod launcher;
mod namespaces;
pub mod network;
mod policy;
mod probe;
mod shim;

use std::{ffi::OsString, fmt, io, path::PathBuf, sync::Arc};

pub use self::{
    fresh_root::Shown,
    policy::{Access, Policy},
    probe::{Held, Probed, probe},
};
use super::{Command, control_group::ControlGroup};

/// By what means the kernel holds a child to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// A user and a mount namespace.
    Namespaces,
    /// Landlock.
    Landlock,
    /// Namespaces as well, and in them a root that has only what a job needs.
    FreshRoot,
}

impl Mechanism {
    /// Those under which a job finds the machine as it is, the best one first.
    pub const OPEN: [Self; 2] = [Self::Namespaces, Self::Landlock];
    /// All.
    pub const ALL: [Self; 3] = [Self::Namespaces, Self::Landlock, Self::FreshRoot];

    fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
            Self::FreshRoot => "fresh-root",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of processes that a child leaves behind when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// They live on, and can be reached by signals of the user's other processes: workspaces may be such processes.
    LivesOn,
    /// They end with it, and can neither send signals to processes outside nor connect to abstract sockets there.
    Ends,
}

/// How a child is held, and to what.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// By what means.
    pub mechanism: Mechanism,
    /// This program, which starts the child.
    pub launcher: PathBuf,
    /// What the child may do.
    pub policy: Policy,
    /// What it sees beside that, with [`Mechanism::FreshRoot`].
    pub shown: Shown,
    /// What becomes of those it leaves behind.
    pub background: Background,
    /// The control group of its job, if there is one.
    pub control_group: Option<Arc<ControlGroup>>,
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The kernel, or who configured it, does not let us.
    #[error("{what}: {source}")]
    Kernel {
        /// What we wanted.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// It works, but does not keep a child from what it should.
    #[error("an isolated child process could still {0}")]
    Leaks(&'static str),
    /// The launcher was called in a way that it is not meant to be.
    #[error("the engine launcher was given invalid arguments")]
    Arguments,
}

impl Denied {
    fn kernel(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// This program, even if its file was replaced since it started.
pub fn own_launcher() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// The command that starts `command`, by way of the launcher if something is asked of that.
pub(super) fn wrap(command: &Command) -> (PathBuf, Vec<OsString>) {
    let (confinement, shim) = (command.confinement.as_ref(), command.shim.as_ref());
    let launcher = confinement.map(|it| &it.launcher);
    let Some(launcher) = launcher.or(shim.map(|it| &it.launcher)) else {
        return (command.program.clone(), command.args.clone());
    };
    let report = shim.map(|it| it.report.as_path());
    let mut args = launcher::arguments(confinement, report);
    args.push(launcher::END.into());
    args.push(command.program.clone().into_os_string());
    args.extend(command.args.iter().cloned());
    (launcher.clone(), args)
}
