//! SSH session at an agent: a shell or a command, with or without a terminal.
//!
//! The agent's host key is not checked: the tunnel has already authenticated its other end.

use std::{io, sync::Arc, time::Duration};

use russh::{
    Channel, ChannelMsg, ChannelReadHalf, Disconnect, Sig,
    client::{self, AuthResult, Handle, Msg},
    keys::PublicKeyOrCertificate,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::timeout,
};

/// Longest time for an agent to hear that a session is over.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes that are read at a time.
const CHUNK: usize = 32 << 10;
/// Number of messages that wait for our own output.
const BUFFER: usize = 64;

/// Reasons why a session did not end properly.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// A broken connection, or a peer that violates the protocol.
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    /// A failure of our own input or output.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An agent that requires authentication.
    #[error("the agent requires a login, which Coder's agents never do")]
    Login,
    /// A session that was hung up before it ended; the agent and its processes were told.
    #[error("session was hung up")]
    HungUp,
    /// A session that ended without an exit status.
    #[error("the session ended without a status: the connection to the agent was lost")]
    Lost,
}

/// A terminal, with its size whenever that changes.
pub struct Terminal {
    /// Type of the terminal, such as `xterm-256color`.
    pub term: String,
    /// Number of columns and rows.
    pub size: watch::Receiver<(u32, u32)>,
}

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// Runs `command`, or a login shell if there is none, with our input and output. Returns its exit status. Once
/// `leaving` is done, the command gets a SIGHUP, as it would from a terminal that is closed.
///
/// # Errors
/// [`SshError`]
pub async fn run<S>(
    stream: S,
    command: Option<&str>,
    terminal: Option<Terminal>,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    mut errors: impl AsyncWrite + Unpin,
    leaving: impl Future<Output = ()>,
) -> Result<u32, SshError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::pin!(leaving);
    let opening = open(stream, command, terminal.as_ref());
    let (session, channel) = tokio::select! {
        opened = opening => opened?,
        () = &mut leaving => return Err(SshError::HungUp),
    };
    let size = terminal.map(|terminal| terminal.size);
    let (mut reader, writer) = channel.split();
    let typing = async {
        let mut buffer = vec![0; CHUNK];
        let mut sink = writer.make_writer();
        loop {
            match input.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    if sink.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
            }
        }
        // A session that has ended by now cannot receive it.
        let _ = writer.eof().await;
        std::future::pending::<()>().await
    };
    let resizing = async {
        if let Some(mut size) = size {
            while size.changed().await.is_ok() {
                let (columns, rows) = *size.borrow_and_update();
                let _ = writer.window_change(columns, rows, 0, 0).await;
            }
        }
        std::future::pending::<()>().await
    };
    let showing = async {
        let mut status = None;
        while let Some(message) = reader.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    output.write_all(&data).await?;
                    output.flush().await?;
                }
                ChannelMsg::ExtendedData { data, ext: 1 } => {
                    errors.write_all(&data).await?;
                    errors.flush().await?;
                }
                ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                ChannelMsg::ExitSignal { .. } => status = Some(255),
                ChannelMsg::Close => break,
                _ => {}
            }
        }
        status.ok_or(SshError::Lost)
    };
    let status = tokio::select! {
        status = showing => status?,
        () = &mut leaving => {
            let _ = writer.signal(Sig::HUP).await;
            let _ = writer.close().await;
            let _ = timeout(GOODBYE, closed(&mut reader)).await;
            return Err(SshError::HungUp);
        }
        () = typing => return Err(SshError::Lost),
        () = resizing => return Err(SshError::Lost),
    };
    // Errors do not matter: the session is over. Once it has ended, its stream has been released.
    let _ = session.disconnect(Disconnect::ByApplication, "", "").await;
    let _ = timeout(GOODBYE, session).await;
    Ok(status)
}

async fn open<S>(
    stream: S,
    command: Option<&str>,
    terminal: Option<&Terminal>,
) -> Result<(Handle<Trusting>, Channel<Msg>), SshError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = client::Config {
        channel_buffer_size: BUFFER,
        ..client::Config::default()
    };
    let mut session = client::connect_stream(Arc::new(config), stream, Trusting).await?;
    if !matches!(
        session.authenticate_none("coder").await?,
        AuthResult::Success
    ) {
        return Err(SshError::Login);
    }
    let channel = session.channel_open_session().await?;
    if let Some(terminal) = terminal {
        let (columns, rows) = *terminal.size.borrow();
        channel
            .request_pty(false, &terminal.term, columns, rows, 0, 0, &[])
            .await?;
    }
    match command {
        Some(command) => channel.exec(false, command).await?,
        None => channel.request_shell(false).await?,
    }
    Ok((session, channel))
}

/// Reads until the agent has closed the session, and so has heard of its end.
async fn closed(reader: &mut ChannelReadHalf) {
    while let Some(message) = reader.wait().await {
        if matches!(message, ChannelMsg::Close) {
            return;
        }
    }
}
