//! Agents of workspaces that were really built: they must connect, and commands are run at them.

use async_trait::async_trait;
use outpost_base::{job::Resource, stop::Stop};

use super::{Failure, Place, Run, Ssh};

/// Longest output in a report, in characters.
const MAX_SHOWN: usize = 500;

/// The server of the agents of one scenario.
#[async_trait]
pub trait Agents: Send + Sync {
    /// URL that agents connect to.
    fn url(&self) -> String;

    /// Announces the result of a build to the server, which then admits its agents.
    ///
    /// # Errors
    /// The server's reason.
    async fn announce(&self, resources: &[Resource]) -> Result<(), String>;

    /// Runs a command at an agent once it is connected.
    ///
    /// # Errors
    /// Reason why the agent cannot be reached, or the command does not end.
    async fn run(&self, agent: &str, command: &str) -> Result<CommandOutput, String>;

    /// Ends the server.
    async fn end(&self);
}

/// Result of a command at an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandOutput {
    /// Beginning of its output.
    pub stdout: Vec<u8>,
    /// Status that it exited with.
    pub status: u32,
}

/// Waits until all agents of a build are connected, then runs the commands of the run.
pub(super) async fn connect(
    agents: &dyn Agents,
    (run, place): (&Run, &Place),
    resources: &[Resource],
    stop: &Stop,
) -> Vec<Failure> {
    let failure = |place: &Place, text: String| Failure::new(place.clone(), text);
    let connecting = async {
        if let Err(reason) = agents.announce(resources).await {
            return vec![failure(
                place,
                format!("the agents cannot be announced: {reason}"),
            )];
        }
        let mut names: Vec<_> = resources
            .iter()
            .flat_map(|it| &it.agents)
            .map(|it| it.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return vec![failure(
                place,
                "the build has no agent that could connect".to_owned(),
            )];
        }
        for name in &names {
            if let Err(reason) = agents.run(name, "exit 0").await {
                return vec![failure(
                    place,
                    format!("the agent `{name}` did not connect: {reason}"),
                )];
            }
        }
        let mut failures = Vec::new();
        for ssh in &run.ssh {
            if let Err(text) = command(agents, ssh, &names).await {
                failures.push(failure(&ssh.place, text));
            }
        }
        failures
    };
    tokio::select! {
        failures = connecting => failures,
        () = stop.draining() => vec![failure(place, "interrupted".to_owned())],
    }
}

/// Runs one command and looks at what it printed.
async fn command(agents: &dyn Agents, ssh: &Ssh, names: &[&str]) -> Result<(), String> {
    let agent = match (ssh.agent.as_deref(), names) {
        (Some(name), _) if names.contains(&name) => name,
        (Some(name), _) => {
            let near = crate::similar::suggestion(name, names.iter().copied());
            return Err(format!("the build has no agent `{name}`{near}"));
        }
        (None, [only]) => *only,
        (None, _) => {
            return Err(format!(
                "there are several agents, name one with `agent`: {}",
                names.join(", ")
            ));
        }
    };
    let ran = agents.run(agent, &ssh.command).await?;
    let printed = String::from_utf8_lossy(&ran.stdout);
    let shown: String = printed.trim_end().chars().take(MAX_SHOWN).collect();
    let what = format!("`{}` at the agent `{agent}`", ssh.command);
    if i64::from(ran.status) != ssh.status {
        return Err(format!(
            "{what} exited with {}, not {}, and printed: {shown}",
            ran.status, ssh.status
        ));
    }
    match &ssh.stdout {
        Some(pattern) if !pattern.is_match(&printed) => Err(format!(
            "{what} printed nothing that matches `{pattern}`, but: {shown}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
