//! Silent agents: the session waits for one, and the person is told.

use std::time::Duration;

use tokio::time::sleep;

use super::parts;
use crate::{
    cli::output,
    connect::{Agent, AgentConn, Server},
};

/// Interval at which the agent's silence is checked.
const LOOK: Duration = Duration::from_secs(5);
/// Silence after which the person is told: two keep-alives are unanswered.
const SILENT: Duration = Duration::from_secs(30);
/// Number of checks between two questions to the server whether a silent agent may still come back.
const ASK: u32 = 6;

/// Prints when the agent does not answer, and when it does again. Returns once it cannot come back, because its
/// workspace was stopped, deleted or built anew.
pub(super) async fn watch(
    server: &Server,
    named: &str,
    agent: &Agent,
    conn: &AgentConn,
) -> anyhow::Error {
    let name = &agent.name;
    let mut silent = 0;
    loop {
        sleep(LOOK).await;
        if conn.silent_for() < SILENT {
            if silent > 0 {
                tell(&format!("The agent {name} answers again."));
            }
            silent = 0;
            continue;
        }
        if silent == 0 {
            tell(&format!(
                "The agent {name} does not answer. The session continues when it does."
            ));
        }
        if silent % ASK == 0
            && let Some(why) = gone(server, named, agent).await
        {
            return why;
        }
        silent += 1;
    }
}

/// Returns why an agent will not come back; `None` if it may, or the server does not say.
async fn gone(server: &Server, named: &str, agent: &Agent) -> Option<anyhow::Error> {
    let (workspace, name) = parts(named);
    let found = match server.workspace(workspace).await {
        Ok(found) => found.agent(name),
        Err(error) if error.is_not_found() => {
            return Some(anyhow::anyhow!("workspace `{workspace}` no longer exists"));
        }
        Err(_) => return None,
    };
    match found {
        Ok(found) if found.id == agent.id => None,
        Ok(_) => Some(anyhow::anyhow!(
            "workspace `{workspace}` was rebuilt and now has a new agent `{}`",
            agent.name
        )),
        Err(error) => Some(error.into()),
    }
}

/// Prints a text on a line of its own, also on a terminal that a session has set to raw mode.
fn tell(text: &str) {
    output::note(&format!("\r{text}\r"));
}
