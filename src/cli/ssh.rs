//! `outpost ssh`, `outpost ping` and `outpost config-ssh`.

use std::{
    fs, io,
    io::IsTerminal as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::termios::{self, SetArg, Termios};
use serde::Serialize;
use tokio::{
    io::AsyncWriteExt as _,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

use super::{
    exit::{Hint as _, Interrupted, RemoteStatus, UsageError},
    output::{self, Output, Row},
    remote::Remote,
};
use crate::{
    connect::{Agent, SSH_PORT, Server, Way, ssh},
    files,
    stop::Stop,
};

/// After so long somebody who waits is told what for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Open a shell in a workspace, or run a command there
///
/// The status is that of the command.
#[derive(Debug, clap::Args)]
pub(super) struct Ssh {
    /// The workspace, as NAME or OWNER/NAME, with .AGENT if it has several
    #[arg(value_name = "WORKSPACE")]
    workspace: String,
    /// What to run; a login shell if missing
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
    /// Carry SSH over standard input and output, for another client's ProxyCommand
    #[arg(long, conflicts_with = "command")]
    stdio: bool,
    /// Wait no longer than this for the agent
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    wait: humantime::Duration,
    #[command(flatten)]
    remote: Remote,
}

/// Measure the way to a workspace's agent
#[derive(Debug, clap::Args)]
pub(super) struct Ping {
    /// The workspace, as NAME or OWNER/NAME, with .AGENT if it has several
    #[arg(value_name = "WORKSPACE")]
    workspace: String,
    /// How often
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 4)]
    count: u32,
    /// Time for each answer
    #[arg(long, short = 't', value_name = "DURATION", default_value = "5s")]
    timeout: humantime::Duration,
    #[command(flatten)]
    remote: Remote,
}

/// Let `ssh WORKSPACE.outpost` lead to workspaces
///
/// Writes one section into the configuration of OpenSSH, and leaves the rest of the file alone.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigSsh {
    /// The file
    #[arg(
        long,
        value_name = "FILE",
        env = "OUTPOST_SSH_CONFIG_FILE",
        default_value = "~/.ssh/config"
    )]
    ssh_config_file: PathBuf,
    /// Print the section, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Ends of host names that [`ConfigSsh`] claims.
const SUFFIX: &str = ".outpost";

/// The workspace and the agent that are meant; names of workspaces have no dots.
fn parts(named: &str) -> (&str, &str) {
    let named = named.strip_suffix(SUFFIX).unwrap_or(named);
    named.split_once('.').unwrap_or((named, ""))
}

/// Finds the agent of a `WORKSPACE[.AGENT]`, and sets out for it.
pub(super) async fn set_out(server: &Server, named: &str) -> anyhow::Result<(Agent, Way)> {
    let (workspace, agent) = parts(named);
    let found = server.workspace(workspace).await;
    let found = found.with_context(|| format!("failed to find the workspace `{workspace}`"))?;
    let agent = found.agent(agent)?;
    let way = server.set_out(agent.id).await?;
    Ok((agent, way))
}

/// Waits for the agent, and says so if that takes long.
pub(super) async fn arrive(way: &mut Way, agent: &Agent, limit: Duration) -> anyhow::Result<()> {
    let arriving = way.arrive();
    tokio::pin!(arriving);
    if let Ok(arrived) = timeout(PATIENCE, &mut arriving).await {
        arrived?;
        return Ok(());
    }
    output::note(&format!("Waiting for the agent {} to come up.", agent.name));
    let arrived = timeout(limit.saturating_sub(PATIENCE), arriving).await;
    let late = || format!("agent `{}` did not come up in time", agent.name);
    arrived
        .with_context(late)
        .hint("look at the log of its bootstrap script on the machine of the workspace")??;
    Ok(())
}

impl Ssh {
    pub(super) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let (agent, mut way) = set_out(&self.remote.server()?, &self.workspace).await?;
        tokio::select! {
            arrived = arrive(&mut way, &agent, *self.wait) => arrived?,
            () = stop.draining() => return Err(Interrupted.into()),
        }
        let stream = way.connect(SSH_PORT).await;
        let stream = stream.with_context(|| format!("agent `{}` takes no SSH", agent.name))?;
        if self.stdio {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
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
            let copied = tokio::select! {
                copied = from_agent => copied,
                () = to_agent => Ok(()),
                () = stop.draining() => Ok(()),
            };
            // While the way is there the agent hears that this is over.
            drop((reader, writer));
            way.leave().await;
            return Ok(copied?);
        }
        let command = (!self.command.is_empty()).then(|| self.command.join(" "));
        let screen = match command.is_none() && io::stdin().is_terminal() {
            true => Some(Screen::enter()?),
            false => None,
        };
        let terminal = match &screen {
            Some(_) => Some(ssh::Terminal {
                term: std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".to_owned()),
                size: sizes()?,
            }),
            None => None,
        };
        let session = ssh::run(
            stream,
            command.as_deref(),
            terminal,
            tokio::io::stdin(),
            tokio::io::stdout(),
            tokio::io::stderr(),
        );
        let ended = tokio::select! {
            ended = session => ended.map_err(anyhow::Error::from),
            () = stop.draining() => Err(Interrupted.into()),
        };
        drop(screen);
        way.leave().await;
        match ended? {
            0 => Ok(()),
            status => Err(RemoteStatus(u8::try_from(status).unwrap_or(u8::MAX)).into()),
        }
    }
}

/// Our terminal, which lets everything through until this is dropped.
struct Screen(Termios);

impl Screen {
    fn enter() -> anyhow::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).context("failed to read the terminal")?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)
            .context("failed to set the terminal")?;
        Ok(Self(before))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Columns and rows of our terminal.
fn size() -> (u32, u32) {
    match terminal_size::terminal_size_of(io::stdin()) {
        Some((columns, rows)) => (columns.0.into(), rows.0.into()),
        None => (80, 24),
    }
}

/// The terminal's size now and whenever it changes.
fn sizes() -> anyhow::Result<watch::Receiver<(u32, u32)>> {
    let (sender, receiver) = watch::channel(size());
    let mut changes = signal(SignalKind::window_change())?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            if sender.send(size()).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// One answer, as it is printed.
#[derive(Serialize)]
struct Answer {
    number: u32,
    milliseconds: Option<f64>,
    region: Option<i32>,
}

impl Row for Answer {
    const COLUMNS: &'static [&'static str] = &["Ping", "Took", "By"];

    fn cells(&self) -> Vec<String> {
        let took = match self.milliseconds {
            Some(took) => format!("{took:.1} ms"),
            None => "no answer".to_owned(),
        };
        let by = self
            .region
            .map_or(String::new(), |id| format!("relay of region {id}"));
        vec![self.number.to_string(), took, by]
    }
}

impl Ping {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let (agent, mut way) = set_out(&self.remote.server()?, &self.workspace).await?;
        tokio::select! {
            arrived = arrive(&mut way, &agent, *self.timeout * self.count.max(1)) => arrived?,
            () = stop.draining() => return Err(Interrupted.into()),
        }
        let mut answers = Vec::new();
        for number in 1..=self.count {
            let answered = tokio::select! {
                answered = way.ping(*self.timeout) => answered.ok(),
                () = stop.draining() => break,
            };
            answers.push(Answer {
                number,
                milliseconds: answered.map(|(took, _)| took.as_secs_f64() * 1e3),
                region: answered.map(|(_, region)| region),
            });
        }
        way.leave().await;
        let is_reached = answers.iter().any(|answer| answer.region.is_some());
        output.list(&answers)?;
        match is_reached {
            true => Ok(()),
            false => anyhow::bail!("agent `{}` does not answer", agent.name),
        }
    }
}

const BEGIN: &str = "# ---- outpost: begin ----";
const END: &str = "# ---- outpost: end ----";

/// The file with our section replaced, or added at its end.
fn with_section(text: &str, section: &str) -> Result<String, UsageError> {
    let block = format!("{BEGIN}\n{section}{END}\n");
    match (text.find(BEGIN), text.find(END)) {
        (None, None) => {
            let gap = if text.is_empty() || text.ends_with("\n\n") {
                ""
            } else {
                "\n"
            };
            let gap = if text.is_empty() || text.ends_with('\n') {
                gap
            } else {
                "\n\n"
            };
            Ok(format!("{text}{gap}{block}"))
        }
        (Some(begin), Some(end)) if begin < end => {
            let rest = &text[end + END.len()..];
            let rest = rest.strip_prefix('\n').unwrap_or(rest);
            Ok(format!("{}{block}{rest}", &text[..begin]))
        }
        (_, _) => Err(UsageError(
            "the configuration has one of the two lines that enclose our section; remove it".into(),
        )),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('%', "%%").replace('"', "\\\""))
}

impl ConfigSsh {
    pub(super) async fn exec(self) -> anyhow::Result<()> {
        let server: Server = self.remote.server()?;
        // Whoever is refused now would be so at each login.
        let workspaces = server.workspaces().await?;
        let program = std::env::current_exe().context("failed to find this program")?;
        let program = quoted(&program.display().to_string());
        let options: Vec<String> = self.remote.options().iter().map(|it| quoted(it)).collect();
        let options = options.join(" ");
        let section = format!(
            "# Written by `outpost config-ssh`; what is between these lines will be replaced.\n\
             Host *{SUFFIX}\n\
             \x20 ConnectTimeout 0\n\
             \x20 StrictHostKeyChecking no\n\
             \x20 UserKnownHostsFile /dev/null\n\
             \x20 LogLevel ERROR\n\
             \x20 ProxyCommand {program} ssh --stdio {options} %h\n"
        );
        if self.dry_run {
            output::line(section.trim_end())?;
            return Ok(());
        }
        let path = expanded(&self.ssh_config_file);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).context(format!("failed to read `{}`", path.display()));
            }
        };
        let text = with_section(&text, &section)?;
        if let Some(parent) = path.parent() {
            files::create_private_dir(parent)?;
        }
        files::write_private(&path, text.as_bytes())
            .with_context(|| format!("failed to write `{}`", path.display()))?;
        let first = workspaces.first().map_or("WORKSPACE", |it| &*it.name);
        output::note(&format!(
            "Wrote `{}`. Try: ssh {first}{SUFFIX}",
            path.display()
        ));
        Ok(())
    }
}

fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        (_, _) => path.to_owned(),
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

    #[test]
    fn our_section_is_replaced_and_the_rest_stays() {
        let first = with_section("Host a\n  User b\n", "x\n").unwrap();
        assert_eq!(first, format!("Host a\n  User b\n\n{BEGIN}\nx\n{END}\n"));
        let second = with_section(&format!("{first}Host c\n"), "y\n").unwrap();
        assert_eq!(
            second,
            format!("Host a\n  User b\n\n{BEGIN}\ny\n{END}\nHost c\n")
        );
        assert!(with_section(BEGIN, "x\n").is_err());
    }
}
