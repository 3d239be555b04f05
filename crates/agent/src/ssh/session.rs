//! SSH session: a shell, a command or SFTP, with or without a terminal.

use std::{
    ffi::{OsStr, OsString},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        process::ExitStatusExt as _,
    },
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use outpost_base::stop::Stop;
use outpost_wire::proto::coder::agent::v2::{
    Connection,
    connection::{Action, Type},
};
use pty_process::Size;
use russh::{
    Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf,
    server::{Handle, Msg},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    process::Child,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::{Instrument as _, debug};
use uuid::Uuid;

use super::{
    forward::Keys,
    inbox::{self, inbox},
    signal,
};
use crate::{
    HANG_UP, Shared,
    command::invocation,
    environment::Variables,
    sftp, stamp,
    stats::{App, Silence},
};

/// Number of variables that a client may set, and their total size in bytes.
const MAX_VARIABLES: (usize, usize) = (256, 64 << 10);
/// Bytes that are read at a time.
const CHUNK: usize = 32 << 10;
/// Time for the remaining output in its terminal after a shell has ended.
const TERMINAL_REST: Duration = Duration::from_millis(50);
/// Exit status of a command that a signal ended, and of one that we could not run.
const SIGNALLED: u32 = 255;
const FAILED: u32 = 229;
/// Exit status of a command that is refused here.
const REFUSED: u32 = 65;
/// Commands that transfer files.
const FILE_COMMANDS: [&str; 4] = ["nc", "rsync", "scp", "sftp"];
const REFUSAL: &str = "\u{2}File transfer has been disabled.\n";
/// Variable in which a client names its app; not passed to its command.
const SESSION_TYPE: &str = "CODER_SSH_SESSION_TYPE";

/// Terminal that a client requested.
struct Terminal {
    term: String,
    size: Size,
}

fn size(columns: u32, rows: u32) -> Size {
    let side = |length| u16::try_from(length).unwrap_or(u16::MAX);
    Size::new(side(rows), side(columns))
}

/// Client that opened a session.
pub(super) struct Client {
    /// State of the agent that outlasts the connection.
    pub(super) shared: Arc<Shared>,
    /// Address of the client in the overlay.
    pub(super) peer: String,
    /// Time for which the client has left something unanswered.
    pub(super) silence: Silence,
    /// Handle of the SSH connection.
    pub(super) handle: Handle,
    /// Permits for further channels of the connection.
    pub(super) channels: Arc<Semaphore>,
    /// Drains when the agent stops, and everything that it started stops as well.
    pub(super) stop: Stop,
}

/// Handles the requests of the client on its channel, once.
pub(super) async fn run(client: Client, mut channel: Channel<Msg>) {
    let shared = client.shared.clone();
    let mut keys = None;
    let mut variables = Variables::new();
    let mut room = MAX_VARIABLES.1;
    let mut terminal = None;
    let command = loop {
        match channel.wait().await {
            Some(ChannelMsg::SetEnv {
                variable_name,
                variable_value,
                ..
            }) => {
                let bytes = variable_name.len() + variable_value.len();
                if bytes <= room && variables.len() < MAX_VARIABLES.0 {
                    room -= bytes;
                    variables.insert(variable_name.into(), variable_value.into());
                }
            }
            Some(ChannelMsg::RequestPty {
                term,
                col_width,
                row_height,
                ..
            }) => {
                let size = size(col_width, row_height);
                terminal = Some(Terminal { term, size });
            }
            Some(ChannelMsg::WindowChange {
                col_width,
                row_height,
                ..
            }) => {
                if let Some(terminal) = &mut terminal {
                    terminal.size = size(col_width, row_height);
                }
            }
            Some(ChannelMsg::RequestShell { .. }) => break Some(OsString::new()),
            // The names in it need not be UTF-8.
            Some(ChannelMsg::Exec { command, .. }) => break Some(OsString::from_vec(command)),
            Some(ChannelMsg::RequestSubsystem { name, .. }) if name == "sftp" => break None,
            Some(ChannelMsg::AgentForward { .. }) => {
                match Keys::offer(client.handle.clone(), client.channels.clone()) {
                    Ok(offered) => keys = Some(offered),
                    Err(error) => {
                        debug!(%error, "cannot create the socket for SSH agent forwarding")
                    }
                }
            }
            Some(ChannelMsg::Close) | None => return,
            Some(_) => {}
        }
    };
    let app = variables.remove(OsStr::new(SESSION_TYPE));
    let app = app.map_or_else(App::ssh, |name| App::named(&name.to_string_lossy()));
    if let Some(keys) = &keys {
        variables.insert("SSH_AUTH_SOCK".into(), keys.path().into());
    }
    // JetBrains sessions are counted by the port that they forward.
    let report = (app.kind() != Type::Jetbrains)
        .then(|| Report::begin(&shared, client.peer, app, client.silence));
    let session = Session {
        shared: &shared,
        variables,
        stop: client.stop,
    };
    let status = match command {
        Some(command) => session.run(channel, &command, terminal).await,
        None => serve_files(&shared, channel, &session.stop).await,
    };
    if let Some(report) = report {
        report.end(status);
    }
    drop(keys);
}

/// Report of a session, which counts it while it is open.
pub(super) struct Report<'a> {
    shared: &'a Shared,
    /// Number of the session among those in use.
    number: u64,
    connection: Connection,
}

impl<'a> Report<'a> {
    /// Reports the beginning of a session.
    pub(super) fn begin(shared: &'a Shared, ip: String, app: App, silence: Silence) -> Self {
        let kind = app.kind();
        let app_name = app.name().to_owned();
        let number = shared.usage.begin(app, silence);
        let connection = Connection {
            id: Bytes::copy_from_slice(Uuid::new_v4().as_bytes()),
            action: Action::Connect.into(),
            r#type: kind.into(),
            timestamp: Some(stamp(Timestamp::now())),
            ip,
            app_name,
            ..Connection::default()
        };
        shared.connections.push(connection.clone());
        Self {
            shared,
            number,
            connection,
        }
    }

    fn end(mut self, status: Option<u32>) {
        let status = status.and_then(|status| i32::try_from(status).ok());
        self.connection.status_code = status.unwrap_or_default();
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.shared.usage.end(self.number);
        self.connection.action = Action::Disconnect.into();
        self.connection.timestamp = Some(stamp(Timestamp::now()));
        self.shared.connections.push(self.connection.clone());
    }
}

struct Session<'a> {
    shared: &'a Shared,
    variables: Variables,
    stop: Stop,
}

impl Session<'_> {
    /// Runs the command and returns the status that was sent to the client; `None` if the client went away.
    async fn run(
        mut self,
        channel: Channel<Msg>,
        command: &OsStr,
        terminal: Option<Terminal>,
    ) -> Option<u32> {
        let (reader, writer) = channel.split();
        if self.shared.config.blocks.file_transfer && is_file_command(command) {
            let _ = writer.extended_data(1, REFUSAL.as_bytes()).await;
            return finish(&writer, REFUSED).await;
        }
        let mut variables = self.shared.variables();
        variables.append(&mut self.variables);
        let own = [
            // OpenSSH sets these, and programs recognize SSH sessions by them; the addresses are empty as with
            // Coder's agent.
            ("SSH_CLIENT", "0.0.0.0 0 0"),
            ("SSH_CONNECTION", "0.0.0.0 0 0.0.0.0 0"),
        ];
        variables.extend(own.map(|(name, value)| (name.into(), value.into())));
        let done = match terminal {
            Some(terminal) => {
                variables.insert("TERM".into(), terminal.term.clone().into());
                self.in_terminal(reader, &writer, command, variables, &terminal)
                    .await
            }
            None => self.with_pipes(reader, &writer, command, variables).await,
        };
        match done {
            Ok(Some(status)) => finish(&writer, status_code(status)).await,
            Ok(None) => None,
            Err(error) => {
                let text = format!("cannot run the command: {error}\r\n");
                let _ = writer.extended_data(1, text.as_bytes()).await;
                finish(&writer, FAILED).await
            }
        }
    }

    /// Runs a command with pipes. Returns `None` if the client closes the channel before the command has ended; the
    /// command goes on then.
    async fn with_pipes(
        &self,
        mut reader: ChannelReadHalf,
        writer: &ChannelWriteHalf<Msg>,
        command: &OsStr,
        variables: Variables,
    ) -> std::io::Result<Option<ExitStatus>> {
        let invocation = invocation(&self.shared.account.shell, command);
        let mut child = tokio::process::Command::new(&invocation.program);
        child
            .args(&invocation.args)
            .env_clear()
            .envs(variables)
            .current_dir(self.shared.directory())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = child.spawn()?;
        let leader = leader(&child);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let output = async {
            tokio::join!(
                copy(stdout, writer.make_writer()),
                copy(stderr, writer.make_writer_ext(Some(1))),
            );
            child.wait().await
        };
        let input = listen(&mut reader, stdin, leader, |_| {});
        tokio::select! {
            status = output => return status.map(Some),
            () = input => {}
            () = self.stop.draining() => {}
        }
        self.leave(child);
        Ok(None)
    }

    /// Leaves a command whose client is gone to itself. It ends with the agent: hung up at first, and killed if that
    /// does not help.
    fn leave(&self, mut child: Child) {
        let (stop, leader) = (self.stop.clone(), leader(&child));
        let left = async move {
            tokio::select! {
                _ = child.wait() => return,
                () = stop.draining() => {}
            }
            // Signal the group and not only the shell, whose children would be left behind.
            let signal = |signal| leader.into_iter().for_each(|leader| send(leader, signal));
            signal(Signal::SIGHUP);
            if timeout(HANG_UP, child.wait()).await.is_err() {
                signal(Signal::SIGKILL);
                let _ = child.wait().await;
            }
        };
        self.shared.children.spawn(left.in_current_span());
    }

    async fn in_terminal(
        &self,
        mut reader: ChannelReadHalf,
        writer: &ChannelWriteHalf<Msg>,
        command: &OsStr,
        mut variables: Variables,
        terminal: &Terminal,
    ) -> std::io::Result<Option<ExitStatus>> {
        let failed = |error: pty_process::Error| std::io::Error::other(error);
        let (pty, pts) = pty_process::open().map_err(failed)?;
        pty.resize(terminal.size).map_err(failed)?;
        if let Ok(name) = nix::unistd::ttyname(&pts) {
            variables.insert("SSH_TTY".into(), name.into());
        }
        // Only for login shells: programs that run a command parse its output.
        if command.as_bytes().trim_ascii().is_empty() {
            self.greet(writer).await;
        }
        let invocation = invocation(&self.shared.account.shell, command);
        let child = pty_process::Command::new(&invocation.program)
            .args(&invocation.args)
            .env_clear()
            .envs(variables)
            .current_dir(self.shared.directory());
        let mut child = child.spawn(pts).map_err(failed)?;
        let leader = leader(&child);
        let (mut screen, keyboard) = pty.into_split();
        let resize = Arc::new(std::sync::Mutex::new(None));
        let (resizes, mut resized) = mpsc::channel(1);
        let wanted = resize.clone();
        let input = async {
            let (pieces, mut waiting) = inbox();
            let mut keyboard = keyboard;
            let typing = async {
                loop {
                    tokio::select! {
                        Some(()) = resized.recv() => {
                            let size = resize.lock().ok().and_then(|mut it: std::sync::MutexGuard<'_, Option<Size>>| it.take());
                            if let Some(size) = size {
                                let _ = keyboard.resize(size);
                            }
                        }
                        piece = waiting.recv() => match piece {
                            Some(piece) => if keyboard.write_all(&piece).await.is_err() { return },
                            // The end of the client's input does not end a terminal.
                            None => std::future::pending().await,
                        },
                    }
                }
            };
            let on_resize = |size| {
                if let Ok(mut wanted) = wanted.lock() {
                    *wanted = Some(size);
                }
                // If one is queued already, its receiver will see the newest size.
                let _ = resizes.try_send(());
            };
            tokio::select! {
                () = hear(&mut reader, Some(pieces), leader, on_resize) => {}
                () = typing => std::future::pending().await,
            }
        };
        let mut out = writer.make_writer();
        let output = async {
            let mut buffer = vec![0; CHUNK];
            let mut ended = None;
            loop {
                let read = async {
                    match ended {
                        None => screen.read(&mut buffer).await,
                        // Background processes that hold the terminal must not delay the end.
                        Some(_) => timeout(TERMINAL_REST, screen.read(&mut buffer)).await?,
                    }
                };
                tokio::select! {
                    // Reading fails once no process holds the other end.
                    read = read => match read {
                        Ok(0) | Err(_) => match ended {
                            Some(status) => return Ok(status),
                            None => return child.wait().await,
                        },
                        Ok(length) => out.write_all(&buffer[..length]).await?,
                    },
                    status = child.wait(), if ended.is_none() => ended = Some(status?),
                }
            }
        };
        // Closing the channel hangs up: the terminal disappears with its last holder.
        tokio::select! {
            status = output => return status.map(Some),
            () = input => {}
            () = self.stop.draining() => {}
        }
        self.leave(child);
        Ok(None)
    }

    /// Prints the server's announcements, and the template's message of the day unless the user has turned it off.
    async fn greet(&self, writer: &ChannelWriteHalf<Msg>) {
        let banners = self.shared.banners.lock();
        let banners = banners.unwrap_or_else(PoisonError::into_inner).clone();
        for banner in banners {
            let _ = writer.data(for_terminal(banner.trim()).as_bytes()).await;
        }
        let manifest = self.shared.manifest.borrow().clone().unwrap_or_default();
        let is_hushed = self.shared.account.home.join(".hushlogin").exists();
        if manifest.motd_path.is_empty() || is_hushed {
            return;
        }
        let path = self.shared.account.expand(&manifest.motd_path);
        match read_beginning(&path).await {
            Ok(text) => {
                let _ = writer.data(for_terminal(&text).as_bytes()).await;
            }
            Err(error) => {
                debug!(path = %path.display(), %error, "cannot read the message of the day")
            }
        }
    }
}

/// Ends each line as terminals need it.
fn for_terminal(text: &str) -> String {
    let lines = text.lines();
    lines.map(|line| format!("{line}\r\n")).collect()
}

async fn read_beginning(path: &Path) -> std::io::Result<String> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(CHUNK as u64).read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn is_file_command(command: &OsStr) -> bool {
    let mut words = command.as_bytes().split(u8::is_ascii_whitespace);
    let first = words.find(|word| !word.is_empty()).unwrap_or_default();
    let name = Path::new(OsStr::from_bytes(first)).file_name();
    name.is_some_and(|name| FILE_COMMANDS.iter().any(|it| name == *it))
}

fn leader(child: &Child) -> Option<Pid> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    id.map(Pid::from_raw)
}

fn status_code(status: ExitStatus) -> u32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u32::try_from(code).unwrap_or(FAILED),
        (None, _) => SIGNALLED,
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    // Another task notices a client that has closed its channel.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Forwards the client's input and signals to a command until the client closes the channel.
async fn listen(
    reader: &mut ChannelReadHalf,
    mut stdin: impl AsyncWrite + Unpin,
    leader: Option<Pid>,
    on_resize: impl FnMut(Size),
) {
    let (pieces, mut waiting) = inbox();
    let writing = async {
        while let Some(piece) = waiting.recv().await {
            if stdin.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = stdin.shutdown().await;
        drop(stdin);
        // A command that reads no input may still print output.
        while waiting.recv().await.is_some() {}
        std::future::pending().await
    };
    tokio::select! {
        () = hear(reader, Some(pieces), leader, on_resize) => {}
        () = writing => {}
    }
}

/// Reads messages of the client until it closes the channel.
async fn hear(
    reader: &mut ChannelReadHalf,
    mut input: Option<inbox::Sender>,
    leader: Option<Pid>,
    mut on_resize: impl FnMut(Size),
) {
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if let Some(input) = &input {
                    input.send(data).await;
                }
            }
            ChannelMsg::Eof => input = None,
            ChannelMsg::WindowChange {
                col_width,
                row_height,
                ..
            } => on_resize(size(col_width, row_height)),
            ChannelMsg::Signal { signal: wanted } => {
                if let (Some(leader), Some(signal)) = (leader, signal(&wanted)) {
                    send(leader, signal);
                }
            }
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

/// Sends a signal to the group, because a shell does not pass it on; the group may be gone already.
fn send(leader: Pid, signal: Signal) {
    if killpg(leader, signal).is_err() {
        let _ = kill(leader, signal);
    }
}

/// Sends the exit status of a command, and returns it.
async fn finish(writer: &ChannelWriteHalf<Msg>, status: u32) -> Option<u32> {
    writer.exit_status(status).await.ok()?;
    writer.eof().await.ok()?;
    writer.close().await.ok()?;
    Some(status)
}

/// Serves files until the client has no more requests; returns the status that was sent to it.
async fn serve_files(shared: &Shared, channel: Channel<Msg>, stop: &Stop) -> Option<u32> {
    let (mut reader, writer) = channel.split();
    if shared.config.blocks.file_transfer {
        return finish(&writer, REFUSED).await;
    }
    // The channel must stay open for the exit status after the stream has ended.
    let (near, far) = tokio::io::duplex(CHUNK);
    let carrying = async {
        let (answers, mut questions) = tokio::io::split(near);
        let asking = async {
            copy(reader.make_reader(), &mut questions).await;
            let _ = questions.shutdown().await;
        };
        tokio::join!(asking, copy(answers, writer.make_writer()));
    };
    let serving = async { tokio::join!(sftp::serve(far, shared.directory()), carrying) };
    tokio::select! {
        ((), ()) = serving => finish(&writer, 0).await,
        () = stop.draining() => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_carry_files_are_known_by_their_names() {
        for (command, is_one) in [
            ("scp -t /x", true),
            ("/usr/bin/rsync --server", true),
            ("nc", true),
            ("cat scp", false),
            ("", false),
        ] {
            assert_eq!(is_file_command(OsStr::new(command)), is_one, "{command}");
        }
    }

    #[test]
    fn an_end_by_a_signal_has_its_own_status() {
        assert_eq!(status_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(status_code(ExitStatus::from_raw(9)), SIGNALLED);
    }
}
