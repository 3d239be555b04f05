//! One script: its directories and its log file, its process, and how that ended.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
        process::ExitStatusExt as _,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use outpost_base::stop::Stop;
use outpost_process::{self as process, Limits, Pipe, Request};
use outpost_provision::Memory;
use outpost_wire::proto::coder::agent::v2::{
    WorkspaceAgentScript as Script,
    log::Level,
    timing::{Stage, Status},
};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{report, say};
use crate::{HANG_UP, Shared, command, private_dir};

/// Limits on the wait for a script.
const LIMITS: Limits = Limits {
    request: Request::HangUp,
    exit_timeout: HANG_UP,
    pipe_grace: Duration::from_secs(10),
    line_bytes: 64 << 10,
    precious_bytes: 0,
    must_keep_whole: |_| false,
};
/// Exit status of a process that has none.
const UNKNOWN_STATUS: i32 = 255;

/// Runs a script, reports its result, and returns it.
pub(super) async fn run(
    shared: &Arc<Shared>,
    script: &Script,
    stage: Stage,
    stop: &Stop,
) -> Status {
    let began = Timestamp::now();
    let limit = script.timeout.and_then(|it| u64::try_from(it.seconds).ok());
    let limit = limit.filter(|limit| *limit > 0).map(Duration::from_secs);
    let stop = stop.child();
    let (status, exit_code) = match prepare(shared, script) {
        Ok((command, file)) => execute(shared, script, command, file, limit, &stop).await,
        Err(error) => {
            say(
                shared,
                script,
                Level::Error,
                format!("cannot run the script: {error}"),
            );
            (Status::ExitFailure, UNKNOWN_STATUS)
        }
    };
    info!(
        script = script.display_name,
        ?stage,
        ?status,
        exit_code,
        "a script ended"
    );
    let times = (began, Timestamp::now().max(began));
    report(shared, script, stage, times, (status, exit_code));
    status
}

fn prepare(shared: &Shared, script: &Script) -> std::io::Result<(process::Command, fs::File)> {
    let source = hex::encode(&script.log_source_id);
    let directory = shared.scripts_dir.as_ref().ok_or_else(|| {
        std::io::Error::other("the agent has no directory for the files of scripts")
    })?;
    let (data, bin) = (directory.join(&source), directory.join("bin"));
    for directory in [&data, &bin] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let file = match script.log_path.as_str() {
        "" => log_file(&shared.config.log_dir, &source, directory)?,
        path => OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            // Opening a pipe without a reader fails instead of blocking.
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(shared.account.expand(path))?,
    };
    let mut variables = shared.variables();
    let own = [
        ("CODER_SCRIPT_DATA_DIR", data),
        ("CODER_SCRIPT_BIN_DIR", bin),
    ];
    variables.extend(own.map(|(name, path)| (name.into(), path.into())));
    let invocation = command::invocation(&shared.account.shell, script.script.as_ref());
    let command = process::Command {
        program: invocation.program,
        args: invocation.args,
        env: variables.into_iter().collect(),
        dir: shared.directory(),
        confinement: None,
        outlives_us: true,
        shim: None,
        memory: Memory::default(),
    };
    Ok((command, file))
}

/// Opens the log of a script whose template names none. Its name can be guessed: whatever another user has put there
/// instead is left alone.
fn log_file(log_dir: &Path, source: &str, scripts: &Path) -> std::io::Result<fs::File> {
    let name = format!("coder-script-{source}.log");
    private_dir::append(log_dir, &name).or_else(|error| {
        let (path, instead) = (log_dir.join(&name), scripts.join(&name));
        let (path, instead) = (path.display(), instead.display());
        warn!(%path, %error, %instead, "cannot open the script's log file; using another file");
        private_dir::append(scripts, &name)
    })
}

async fn execute(
    shared: &Arc<Shared>,
    script: &Script,
    command: process::Command,
    mut file: fs::File,
    limit: Option<Duration>,
    stop: &Stop,
) -> (Status, i32) {
    let mut on_line = |pipe: Pipe, line: process::Line| {
        let text = line.into_text();
        // A full disk must not end the script.
        let _ = writeln!(file, "{text}");
        let level = match pipe {
            Pipe::Stdout => Level::Info,
            Pipe::Stderr => Level::Error,
        };
        say(shared, script, level, text);
    };
    let running = process::run(&command, &LIMITS, stop, &mut on_line);
    tokio::pin!(running);
    let mut is_late = false;
    let ended = loop {
        let late = async {
            match limit.filter(|_| !is_late) {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut running => break ended,
            () = late => {
                is_late = true;
                stop.cancel();
            }
        }
    };
    match ended {
        Ok(exit) => {
            let code = exit.status.code();
            let code = code.or(exit.status.signal().map(|signal| 128 + signal));
            let status = match (is_late, exit.is_success(), exit.left_pipes_open) {
                (true, ..) => Status::TimedOut,
                (false, false, _) => Status::ExitFailure,
                (false, true, true) => {
                    let text = "a process that the script started still holds its output; its \
                                further output is discarded";
                    say(shared, script, Level::Error, text.to_owned());
                    Status::PipesLeftOpen
                }
                (false, true, false) => Status::Ok,
            };
            (status, code.unwrap_or(UNKNOWN_STATUS))
        }
        Err(error) => {
            say(shared, script, Level::Error, error.to_string());
            (Status::ExitFailure, UNKNOWN_STATUS)
        }
    }
}
