//! Waiting for a workspace's agents.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{sleep, timeout};

use super::super::{
    exit::{Hint as _, Interrupted},
    outage::{self, Outage},
    output,
};
use crate::{
    client::Api,
    proto::outpost::v1::{Agent, ShowBuildRequest, Workspace as Remembered},
    stop::Stop,
};

/// Interval at which agents are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Advice about an agent that does not connect.
const NEVER_CAME: &str = "see the log of the agent's bootstrap script on the workspace's machine; if the workspace is a \
    process of a daemon's machine, that daemon needs `--background-processes keep`";

/// `--wait` of commands that start a workspace.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Wait {
    /// Wait until the agents are connected and their startup scripts have ended, but no longer than this
    #[arg(
        long,
        conflicts_with = "no_wait",
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10m"
    )]
    wait: Option<humantime::Duration>,
}

/// Progress of an agent's start.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Ready,
    /// Not ready yet; says what is missing.
    Waits(String),
    /// Failed for good; says why.
    Failed(String),
}

impl Wait {
    /// Waits, if that is wanted, for the agents that the latest build of `workspace` created.
    ///
    /// # Errors
    /// If a startup script fails, or the time is over.
    pub(super) async fn for_agents(
        self,
        api: &mut Api,
        workspace: &Remembered,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let Some(limit) = self.wait else {
            return Ok(());
        };
        let build = workspace.latest_build.as_ref();
        let build = build.context("the workspace has no build")?.id.clone();
        let mut missing = String::new();
        let ready = timeout(*limit, until_ready(api, build, &mut missing));
        let ready = tokio::select! {
            ready = ready => ready,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        match ready {
            Ok(ready) => ready,
            Err(_) => Err(anyhow::anyhow!("after {limit}, {missing}")).hint(NEVER_CAME),
        }
    }
}

async fn until_ready(api: &mut Api, build: String, missing: &mut String) -> anyhow::Result<()> {
    let ended = outage::through(Outage::default(), async |outage| {
        loop {
            let request = ShowBuildRequest {
                build: build.clone(),
            };
            let details = api.show_build(request).await?.into_inner();
            outage.over(output::note);
            let agents = details.resources.iter().flat_map(|it| &it.agents);
            match progress(agents) {
                Progress::Ready => return Ok(None),
                Progress::Failed(why) => return Ok(Some(why)),
                Progress::Waits(what) if *missing != what => {
                    output::note(&format!("Waiting: {what}."));
                    *missing = what;
                }
                Progress::Waits(_) => {}
            }
            sleep(EVERY).await;
        }
    });
    match ended.await? {
        None => Ok(()),
        Some(why) => bail!("{why}"),
    }
}

/// Returns the progress of the slowest agent.
fn progress<'a>(agents: impl IntoIterator<Item = &'a Agent>) -> Progress {
    let mut slowest = Progress::Ready;
    for agent in agents {
        let name = &agent.name;
        let is_connected = agent.status == "connected";
        match agent.lifecycle.as_str() {
            "start_error" => {
                return Progress::Failed(format!("a startup script of the agent {name} failed"));
            }
            "start_timeout" => {
                return Progress::Failed(format!(
                    "a startup script of the agent {name} took too long"
                ));
            }
            "ready" if is_connected => {}
            lifecycle if is_connected => {
                slowest = Progress::Waits(format!("the agent {name} is {lifecycle}"));
            }
            _ => {
                slowest = Progress::Waits(match agent.status.as_str() {
                    "timeout" => format!("the agent {name} has not connected in time"),
                    status => format!("the agent {name} is {status}"),
                });
            }
        }
    }
    slowest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, status: &str, lifecycle: &str) -> Agent {
        Agent {
            name: name.to_owned(),
            status: status.to_owned(),
            lifecycle: lifecycle.to_owned(),
            ..Agent::default()
        }
    }

    #[test]
    fn all_agents_must_be_ready_and_one_failure_is_enough() {
        let ready = agent("a", "connected", "ready");
        assert_eq!(progress([]), Progress::Ready);
        assert_eq!(progress([&ready]), Progress::Ready);

        let starting = agent("b", "connected", "starting");
        let waits = Progress::Waits("the agent b is starting".to_owned());
        assert_eq!(progress([&ready, &starting, &ready]), waits);
        let away = agent("c", "connecting", "created");
        let waits = Progress::Waits("the agent c is connecting".to_owned());
        assert_eq!(progress([&starting, &away]), waits);

        let late = agent("c", "timeout", "created");
        let waits = Progress::Waits("the agent c has not connected in time".to_owned());
        assert_eq!(progress([&late]), waits);

        let failed = agent("d", "connected", "start_error");
        let why = "a startup script of the agent d failed".to_owned();
        assert_eq!(progress([&away, &failed]), Progress::Failed(why));
    }
}
