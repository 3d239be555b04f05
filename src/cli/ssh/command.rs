//! One command at an agent, for programs: what it prints and the status that it exits with.

use std::{
    io,
    pin::Pin,
    task::{Context as Cx, Poll},
    time::Duration,
};

use anyhow::Context;
use tokio::{io::AsyncWrite, time::sleep};

use super::{dial_agent, wait_for_agent};
use crate::connect::{self, SSH_PORT, Server, ssh::SshError};

/// Longest output that is kept, in bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// Keeps the beginning of what is written.
struct Beginning(Vec<u8>);

impl AsyncWrite for Beginning {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Cx<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = MAX_OUTPUT.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Cx<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Cx<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs a command at the agent `WORKSPACE.AGENT`. Waits for at most the first limit until the agent is connected, and for at
/// most the second one until the command ends. Returns the first MiB of its output, and its exit status.
///
/// # Errors
/// If the agent cannot be reached, or the command does not end in time.
pub(in crate::cli) async fn run_command(
    server: &Server,
    named: &str,
    command: &str,
    (agent_limit, command_limit): (Duration, Duration),
) -> anyhow::Result<(Vec<u8>, u32)> {
    let (agent, mut conn) = dial_agent(server, named, agent_limit).await?;
    wait_for_agent(&mut conn, &agent, agent_limit).await?;
    let stream = conn.connect(SSH_PORT).await;
    let stream = stream
        .with_context(|| format!("agent `{}` does not accept SSH connections", agent.name))?;
    let mut printed = Beginning(Vec::new());
    let session = connect::ssh::run(
        stream,
        Some(command),
        None,
        tokio::io::empty(),
        &mut printed,
        tokio::io::sink(),
        sleep(command_limit),
    );
    let ended = session.await;
    conn.leave().await;
    match ended {
        Err(SshError::HungUp) => anyhow::bail!("the command did not end in time"),
        ended => Ok((printed.0, ended?)),
    }
}
