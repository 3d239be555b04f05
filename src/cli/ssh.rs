//! `outpost ssh`, `outpost ping` and `outpost config-ssh`.

mod client;
mod command;
mod config;
mod silence;
mod terminal;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use http::StatusCode;
use serde::Serialize;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use self::terminal::Screen;
pub(super) use self::{command::run_command, config::ConfigSsh};
use super::{
    complete,
    exit::{Hint as _, Interrupted, RemoteStatus},
    headers::Headers,
    output::{self, Output, Row},
    remote::Remote,
    values,
};
use crate::{
    connect::{
        Agent, AgentConn, SSH_PORT, Server, Workspace,
        ssh::{self, SshError},
    },
    stop::Stop,
    tailnet::{Stream, Via},
    transport::coder::DialError,
};

/// Delay before a progress note.
const NOTE_AFTER: Duration = Duration::from_secs(2);
/// Interval at which a build is looked at that is waited for.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time for the remaining work once the SSH client that we serve is gone.
const REST: Duration = Duration::from_secs(3);

/// Paths to agents.
#[derive(Debug, clap::Args)]
struct Paths {
    /// Reach agents only through relays, never directly by UDP
    #[arg(long, env = "CODER_DISABLE_DIRECT_CONNECTIONS", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = values::boolean)]
    disable_direct_connections: bool,
}

impl Paths {
    fn apply(&self, server: Server) -> Server {
        match self.disable_direct_connections {
            true => server.without_direct_paths(),
            false => server,
        }
    }
}

/// Open a shell in a workspace, or run a command there
///
/// Exits with the status of the command.
#[derive(Debug, clap::Args)]
pub(super) struct Ssh {
    /// The workspace, as NAME or OWNER/NAME; append .AGENT if it has several agents
    #[arg(value_name = "WORKSPACE", add = complete::workspaces())]
    workspace: String,
    /// Command to run, with its options; if missing, a login shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
    /// Allocate a terminal for the command
    #[arg(long, short = 't', requires = "command")]
    tty: bool,
    /// Connect standard input and output to the agent's SSH server, for use as a ProxyCommand
    #[arg(long, conflicts_with = "command")]
    stdio: bool,
    /// Host name suffix to strip from WORKSPACE, as passed by `config-ssh`
    #[arg(long, value_name = "SUFFIX", hide = true)]
    hostname_suffix: Option<String>,
    /// Time to wait for the agent
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    wait: humantime::Duration,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    headers: Headers,
}

/// Measure the latency to a workspace's agent
#[derive(Debug, clap::Args)]
pub(super) struct Ping {
    /// The workspace, as NAME or OWNER/NAME; append .AGENT if it has several agents
    #[arg(value_name = "WORKSPACE", add = complete::workspaces())]
    workspace: String,
    /// Number of pings to send
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 4)]
    count: u32,
    /// Time to wait for each answer
    #[arg(long, short = 't', value_name = "DURATION", default_value = "5s")]
    timeout: humantime::Duration,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    headers: Headers,
}

/// Suffix of host names that [`ConfigSsh`] claims.
const SUFFIX: &str = ".outpost";

/// Splits a name into the workspace and the agent; names of workspaces have no dots.
pub(super) fn parts(named: &str) -> (&str, &str) {
    let named = named.strip_suffix(SUFFIX).unwrap_or(named);
    named.split_once('.').unwrap_or((named, ""))
}

/// Finds the agent of a `WORKSPACE[.AGENT]`, and starts connecting to it. A build that starts the workspace is waited
/// for, at most for `limit`.
pub(super) async fn dial_agent(
    server: &Server,
    named: &str,
    limit: Duration,
) -> anyhow::Result<(Agent, AgentConn)> {
    let (workspace, agent) = parts(named);
    let found = started(server, workspace, limit).await?;
    let agent = found.agent(agent)?;
    let conn = patiently(server.dial_agent(agent.id)).await?;
    Ok((agent, conn))
}

/// Returns a workspace once no build that starts it is queued or running, or else after `limit`.
async fn started(server: &Server, workspace: &str, limit: Duration) -> anyhow::Result<Workspace> {
    let begun = tokio::time::Instant::now();
    let mut is_told = false;
    loop {
        let found = patiently(server.workspace(workspace)).await;
        let found = found.map_err(|error| not_found(error, workspace))?;
        if !found.is_starting() || begun.elapsed() >= limit {
            return Ok(found);
        }
        if !std::mem::replace(&mut is_told, true) {
            let status = &found.latest_build.status;
            output::note(&format!("Waiting: the workspace {workspace} is {status}."));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits for an answer of the server, and prints that it does if that takes long.
async fn patiently<T>(answering: impl Future<Output = T>) -> T {
    tokio::pin!(answering);
    if let Ok(answer) = timeout(NOTE_AFTER, &mut answering).await {
        return answer;
    }
    output::note("Waiting for the server to answer.");
    answering.await
}

/// A server says the same of a workspace that does not exist and of one that the caller may not see.
fn not_found(error: DialError, workspace: &str) -> anyhow::Error {
    let is_missing = matches!(
        error,
        DialError::Refused { status: StatusCode::NOT_FOUND, ref answer, .. } if !answer.message.is_empty()
    );
    match is_missing {
        true => anyhow::anyhow!("there is no workspace `{workspace}`, or you may not see it"),
        false => anyhow::Error::from(error)
            .context(format!("failed to find the workspace `{workspace}`")),
    }
}

/// Waits for the agent; prints a note if that takes long.
pub(super) async fn wait_for_agent(
    conn: &mut AgentConn,
    agent: &Agent,
    limit: Duration,
) -> anyhow::Result<()> {
    let arriving = conn.wait_until_reachable();
    tokio::pin!(arriving);
    if let Ok(arrived) = timeout(NOTE_AFTER, &mut arriving).await {
        arrived?;
        return Ok(());
    }
    output::note(&format!("Waiting for the agent {} to come up.", agent.name));
    let arrived = timeout(limit.saturating_sub(NOTE_AFTER), arriving).await;
    let late = || format!("agent `{}` did not come up in time", agent.name);
    arrived
        .with_context(late)
        .hint("see the log of its bootstrap script on the workspace's machine")??;
    Ok(())
}

impl Ssh {
    /// Returns the workspace without the suffix that a deployment gives to its host names.
    fn named(&self) -> &str {
        let suffix = self.hostname_suffix.as_deref();
        let named =
            suffix.and_then(|suffix| self.workspace.strip_suffix(suffix)?.strip_suffix('.'));
        named.unwrap_or(&self.workspace)
    }

    pub(super) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        if self.stdio {
            return self.carry(stop).await;
        }
        let server = self.paths.apply(self.remote.server(&self.headers)?);
        let reaching = async {
            let (agent, mut conn) = dial_agent(&server, self.named(), *self.wait).await?;
            wait_for_agent(&mut conn, &agent, *self.wait).await?;
            anyhow::Ok((agent, conn))
        };
        let (agent, conn) = tokio::select! {
            reached = reaching => reached?,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        let stream = connect(&conn, &agent).await?;
        let command = (!self.command.is_empty()).then(|| self.command.join(" "));
        let screen = match self.tty || command.is_none() {
            true => Screen::enter()?,
            false => None,
        };
        let terminal = screen.as_ref().map(Screen::terminal).transpose()?;
        let session = ssh::run(
            stream,
            command.as_deref(),
            terminal,
            terminal::input()?,
            tokio::io::stdout(),
            tokio::io::stderr(),
            stop.draining(),
        );
        let ended = tokio::select! {
            ended = session => match ended {
                Err(SshError::HungUp) => Err(Interrupted.into()),
                ended => ended.map_err(anyhow::Error::from),
            },
            gone = silence::watch(&server, self.named(), &agent, &conn) => Err(gone),
        };
        drop(screen);
        conn.leave().await;
        match ended? {
            0 => Ok(()),
            status => Err(RemoteStatus(u8::try_from(status).unwrap_or(u8::MAX)).into()),
        }
    }

    /// Forwards SSH for a client such as OpenSSH; stops when the client exits, even while still connecting.
    async fn carry(self, stop: Stop) -> anyhow::Result<()> {
        let mut client = client::gone()?;
        let server = self.paths.apply(self.remote.server(&self.headers)?);
        let reaching = async {
            let (agent, mut conn) = dial_agent(&server, self.named(), *self.wait).await?;
            wait_for_agent(&mut conn, &agent, *self.wait).await?;
            let stream = connect(&conn, &agent).await?;
            anyhow::Ok((agent, conn, stream))
        };
        let (agent, conn, stream) = tokio::select! {
            reached = reaching => reached?,
            // The client is gone, so there is nobody to tell why.
            Ok(()) = &mut client => return Ok(()),
            () = stop.draining() => return Err(Interrupted.into()),
        };
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (mut input, mut output) = (terminal::input()?, tokio::io::stdout());
        let to_agent = async {
            // The end of the input is the end of the session, however it ends.
            let _ = tokio::io::copy(&mut input, &mut writer).await;
            let _ = writer.shutdown().await;
            std::future::pending::<()>().await
        };
        let from_agent = async {
            let copied = tokio::io::copy(&mut reader, &mut output).await;
            copied.and(output.flush().await)
        };
        let client_gone = async {
            if client.await.is_err() {
                std::future::pending::<()>().await;
            }
            // An agent that is connected ends the session by itself; its last output and the status are waited for.
            tokio::time::sleep(REST).await;
        };
        let carried = tokio::select! {
            copied = from_agent => copied.map_err(anyhow::Error::from),
            () = to_agent => Ok(()),
            () = client_gone => Ok(()),
            gone = silence::watch(&server, self.named(), &agent, &conn) => Err(gone),
            () = stop.draining() => Ok(()),
        };
        // Dropped while the tunnel exists, so that the agent hears of the end.
        drop((reader, writer));
        conn.leave().await;
        carried
    }
}

/// Connects to the agent's SSH server.
async fn connect(conn: &AgentConn, agent: &Agent) -> anyhow::Result<Stream> {
    let stream = conn.connect(SSH_PORT).await;
    stream.with_context(|| format!("agent `{}` does not accept SSH connections", agent.name))
}

/// One reply to a ping, as it is printed.
#[derive(Serialize)]
struct Answer {
    number: u32,
    milliseconds: Option<f64>,
    /// Region of the relay, unless the answer came directly.
    region: Option<i32>,
    /// Endpoint of the agent, if the answer came from there by UDP.
    endpoint: Option<SocketAddr>,
}

impl Row for Answer {
    const COLUMNS: &'static [&'static str] = &["Ping", "Took", "By"];

    fn cells(&self) -> Vec<String> {
        let took = match self.milliseconds {
            Some(took) => format!("{took:.1} ms"),
            None => "no answer".to_owned(),
        };
        let by = match (self.endpoint, self.region) {
            (Some(endpoint), _) => format!("direct to {endpoint}"),
            (None, Some(id)) => format!("relay of region {id}"),
            (None, None) => String::new(),
        };
        vec![self.number.to_string(), took, by]
    }
}

impl Ping {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let server = self.paths.apply(self.remote.server(&self.headers)?);
        let limit = *self.timeout * self.count.max(1);
        let reaching = async {
            let (agent, mut conn) = dial_agent(&server, &self.workspace, limit).await?;
            wait_for_agent(&mut conn, &agent, limit).await?;
            anyhow::Ok((agent, conn))
        };
        let (agent, conn) = tokio::select! {
            reached = reaching => reached?,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        let mut answers = Vec::new();
        for number in 1..=self.count {
            let answered = tokio::select! {
                answered = conn.ping(*self.timeout) => answered.ok(),
                () = stop.draining() => break,
            };
            let (region, endpoint) = match answered {
                Some((_, Via::Relay(region))) => (Some(region), None),
                Some((_, Via::Direct(endpoint))) => (None, Some(endpoint)),
                None => (None, None),
            };
            answers.push(Answer {
                number,
                milliseconds: answered.map(|(took, _)| took.as_secs_f64() * 1e3),
                region,
                endpoint,
            });
        }
        conn.leave().await;
        let is_reached = answers.iter().any(|answer| answer.milliseconds.is_some());
        output.list(&answers)?;
        match is_reached {
            true => Ok(()),
            false => anyhow::bail!("agent `{}` does not answer", agent.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_an_agent_and_our_suffix() {
        assert_eq!(parts("dev"), ("dev", ""));
        assert_eq!(parts("amy/dev.gpu"), ("amy/dev", "gpu"));
        assert_eq!(parts("dev.gpu.outpost"), ("dev", "gpu"));
    }
}
