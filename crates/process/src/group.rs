//! Process group of a child, and the signals to it.

use std::sync::Arc;

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::Child;

use super::{Command, Request, control_group::ControlGroup, isolation::Background, tree};

/// Group of a child, killed when nobody waits for the child any more.
pub(super) struct Group {
    pub(super) leader: Option<Pid>,
    /// Control group, which also contains processes that left the process group.
    pub(super) control_group: Option<Arc<ControlGroup>>,
    /// Set if processes that left it are killed as well.
    is_whole: bool,
    pub(super) is_abandoned_when_dropped: bool,
}

impl Group {
    pub(super) fn of(child: &Child, command: &Command) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let confinement = command.confinement.as_ref();
        Self {
            leader: id.map(Pid::from_raw),
            control_group: confinement.and_then(|it| it.control_group.clone()),
            is_whole: confinement.is_some_and(|it| it.background == Background::Ends),
            is_abandoned_when_dropped: true,
        }
    }

    /// Asks the child to end. It may be gone already, and then there is nobody to tell.
    pub(super) fn request_end(&self, request: Request) {
        let _ = match (self.leader, request) {
            (Some(leader), Request::Interrupt) => kill(leader, Signal::SIGINT),
            (Some(leader), Request::HangUp) => killpg(leader, Signal::SIGHUP),
            (None, _) => Ok(()),
        };
    }

    pub(super) fn kill(&self) {
        if let Some(control_group) = &self.control_group {
            control_group.kill();
        }
        match self.leader {
            Some(leader) if self.is_whole => tree::kill(leader),
            Some(leader) => {
                let _ = killpg(leader, Signal::SIGKILL);
            }
            None => {}
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_abandoned_when_dropped {
            self.kill();
        }
    }
}
