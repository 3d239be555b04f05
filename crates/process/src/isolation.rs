//! Isolation of a child process: files that it must not see, and files that it must not change.
//!
//! A child is started through a launcher: this program executes itself, permanently gives up the access that the
//! [`Policy`] denies, and becomes the child by another `exec`. Everything that the child starts is restricted in the
//! same way. Paths that the policy does not name stay accessible, because templates use sockets, keys and files of
//! their own.
//!
//! | | namespaces | Landlock |
//! |---|---|---|
//! | what it does | mounts something empty over what is hidden | allows everything but what is hidden |
//! | needs | user and mount namespaces for everybody | Linux 6.2 |
//! | beside what is hidden | everything works | directories above it cannot be listed, and nothing new be made in them |
//! | processes | a namespace of process ids, whose end ends all in it | a parent that takes in orphans and ends them |
//! | signals | cannot name a process outside; Landlock's scope on top | Landlock's scope: Linux 6.12 |
//!
//! So namespaces are preferred. Either way the child is not allowed to look into processes that are not its own, and
//! never gains privileges from setuid programs. The rows about processes and signals apply only to
//! [`Background::Ends`].
//!
//! ```text
//! Background::Ends    namespaces   shim ─ init (process 1) ─ engine         shim is the process that the daemon started,
//!                     Landlock     shim ─ engine                            and the engine below it is held
//! Background::LivesOn              engine, or shim ─ engine for an apply
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "no runtime yet, and the kernel's files and mount points are written in place"
)]

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

/// Mechanism by which the kernel enforces a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Namespaces of users and of mounts.
    Namespaces,
    /// Landlock, the security module.
    Landlock,
    /// Namespaces, with a root file system that has only what a job needs.
    FreshRoot,
}

impl Mechanism {
    /// Mechanisms under which a job finds the machine as it is, the best one first.
    pub const OPEN: [Self; 2] = [Self::Namespaces, Self::Landlock];
    /// All mechanisms, for probes.
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

/// Fate of processes that a child leaves behind when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Kept running, and within reach of signals of the user's other processes: workspaces may be such processes.
    LivesOn,
    /// Ended with the child; they can neither send signals to processes outside nor connect to abstract sockets
    /// there.
    Ends,
}

/// Confinement of a child, with its mechanism.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// Mechanism that enforces the policy.
    pub mechanism: Mechanism,
    /// Path of this program, which starts the child.
    pub launcher: PathBuf,
    /// Policy for the child's access to files.
    pub policy: Policy,
    /// Further paths that it sees, with [`Mechanism::FreshRoot`].
    pub shown: Shown,
    /// Fate of the processes that it leaves behind.
    pub background: Background,
    /// Control group of its job, if there is one.
    pub control_group: Option<Arc<ControlGroup>>,
}

/// Reasons why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// An operation that the kernel, or its configuration, does not allow.
    #[error("{what}: {source}")]
    Kernel {
        /// Operation that was refused.
        what: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A mechanism that works, but does not protect what it should.
    #[error("an isolated child process could still {0}")]
    Leaks(&'static str),
    /// Arguments with which the launcher must not be called.
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

/// Returns the path of this program, which works even if its file was replaced since it started.
pub fn own_launcher() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Returns the command that starts `command`, through the launcher if that is needed.
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
