//! Scripts of a template: at the start, at the end, and at set times.
//!
//! # Source
//! coder `agent/agentscripts/agentscripts.go`, `codersdk/agentsdk/logs.go`.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
        process::ExitStatusExt as _,
    },
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use nix::fcntl::OFlag;
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    Shared, command,
    order::{Ended, Event, Order},
    private_dir,
    schedule::Schedule,
    stamp,
};
use crate::{
    process::{self, Limits, Pipe},
    proto::coder::agent::v2::{
        Log, Manifest, Timing, WorkspaceAgentScript as Script,
        log::Level,
        timing::{Stage, Status},
    },
    provision::Memory,
    stop::Stop,
};

/// How a script is waited for.
const LIMITS: Limits = Limits {
    exit_timeout: Duration::from_secs(10),
    pipe_grace: Duration::from_secs(10),
    line_bytes: 64 << 10,
    precious_bytes: 0,
    is_precious: |_| false,
};
/// Name of the directory of scripts' files, which templates know from Coder.
pub(super) const DIRECTORY: &str = "coder-script-data";
/// The status of what did not say one.
const UNKNOWN_STATUS: i32 = 255;

/// How the scripts of a stage ended, the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// All well.
    Done,
    /// One failed.
    Failed,
    /// One took too long.
    TimedOut,
}

/// A line of a script's output, with the source that it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The source.
    pub(super) source: Bytes,
    /// The line.
    pub(super) log: Log,
}

/// Runs all scripts of a stage: at the same time, but for those that wait for others. Once `stop` drains nothing more
/// starts, and what runs is waited for.
pub(super) async fn run_all(shared: &Arc<Shared>, stage: Stage, stop: &Stop) -> Outcome {
    let Some(manifest) = shared.manifest.borrow().clone() else {
        return Outcome::Done;
    };
    let is_due = |script: &&Script| match stage {
        Stage::Start => script.run_on_start,
        Stage::Stop => script.run_on_stop,
        Stage::Cron => false,
    };
    let due: Vec<_> = manifest.scripts.iter().filter(is_due).cloned().collect();
    match Order::new(&due, Instant::now()) {
        Ok(order) => Running::new(shared, &due, stage, stop).finish(order).await,
        Err(error) => {
            warn!(?stage, %error, "the scripts have no order that can be kept; none of them runs");
            for script in &due {
                say(
                    shared,
                    script,
                    Level::Error,
                    format!("no script runs: {error}"),
                );
            }
            Outcome::Failed
        }
    }
}

/// Scripts of a stage while they run.
struct Running<'a> {
    shared: &'a Arc<Shared>,
    scripts: &'a [Script],
    stage: Stage,
    stop: &'a Stop,
    tasks: JoinSet<Status>,
    by_task: HashMap<tokio::task::Id, usize>,
    worst: Outcome,
}

impl<'a> Running<'a> {
    fn new(shared: &'a Arc<Shared>, scripts: &'a [Script], stage: Stage, stop: &'a Stop) -> Self {
        Self {
            shared,
            scripts,
            stage,
            stop,
            tasks: JoinSet::new(),
            by_task: HashMap::new(),
            worst: Outcome::Done,
        }
    }

    async fn finish(mut self, mut order: Order) -> Outcome {
        let mut is_cancelled = false;
        loop {
            while let Some(event) = order.poll_event() {
                self.handle_event(event);
            }
            let line = async {
                match order.poll_timeout() {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.draining(), if !is_cancelled => {
                    is_cancelled = true;
                    order.cancel();
                }
                ended = self.tasks.join_next_with_id() => match ended {
                    None => return self.worst,
                    Some(ended) => self.handle_end(ended, &mut order),
                },
                () = line => order.handle_timeout(Instant::now()),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Run(at) => {
                let (shared, script) = (self.shared.clone(), self.scripts[at].clone());
                let (stage, stop) = (self.stage, self.stop.clone());
                let run = async move { run(&shared, &script, stage, &stop).await };
                self.by_task.insert(self.tasks.spawn(run).id(), at);
            }
            Event::Wait(at, line) => say(self.shared, &self.scripts[at], Level::Info, line),
            Event::Skip(at, line) => {
                let script = &self.scripts[at];
                info!(
                    script = script.display_name,
                    why = line,
                    "a script is skipped"
                );
                say(self.shared, script, Level::Info, line);
                let now = Timestamp::now();
                report(
                    self.shared,
                    script,
                    self.stage,
                    (now, now),
                    (Status::Skipped, 0),
                );
            }
        }
    }

    /// A task that panicked has failed.
    fn handle_end(
        &mut self,
        ended: Result<(tokio::task::Id, Status), tokio::task::JoinError>,
        order: &mut Order,
    ) {
        let (task, status) = match ended {
            Ok(ended) => ended,
            Err(panic) => (panic.id(), Status::ExitFailure),
        };
        let (ended, outcome) = match status {
            Status::Ok => (Ended::Succeeded, Outcome::Done),
            Status::Skipped => (Ended::Skipped, Outcome::Done),
            Status::ExitFailure | Status::PipesLeftOpen => (Ended::Failed, Outcome::Failed),
            Status::TimedOut => (Ended::TimedOut, Outcome::TimedOut),
        };
        self.worst = self.worst.max(outcome);
        if let Some(at) = self.by_task.remove(&task) {
            order.handle_end(at, ended);
        }
    }
}

/// Runs scripts at their times, until `stop` drains.
pub(super) async fn run_at_times(shared: Arc<Shared>, manifest: Arc<Manifest>, stop: Stop) {
    let mut running = JoinSet::new();
    for script in manifest
        .scripts
        .iter()
        .filter(|script| !script.cron.is_empty())
    {
        let schedule = match Schedule::parse(&script.cron) {
            Ok(schedule) => schedule,
            Err(error) => {
                warn!(script = script.display_name, %error, "a script has no usable schedule");
                continue;
            }
        };
        let (shared, script, stop) = (shared.clone(), script.clone(), stop.clone());
        running.spawn(async move {
            while let Some(next) = schedule.after(&chrono::Local::now()) {
                let pause = (next - chrono::Local::now()).to_std().unwrap_or_default();
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stop.draining() => return,
                }
                run(&shared, &script, Stage::Cron, &stop).await;
            }
        });
    }
    running.join_all().await;
}

async fn run(shared: &Arc<Shared>, script: &Script, stage: Stage, stop: &Stop) -> Status {
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

/// Tells the server how a script ended.
fn report(
    shared: &Shared,
    script: &Script,
    stage: Stage,
    (began, ended): (Timestamp, Timestamp),
    (status, exit_code): (Status, i32),
) {
    shared.timings.push(Timing {
        script_id: script.id.clone(),
        start: Some(stamp(began)),
        end: Some(stamp(ended)),
        exit_code,
        stage: stage.into(),
        status: status.into(),
    });
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
            // A pipe that nobody reads is an error.
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

/// Opens the log of a script whose template names none. Its name can be guessed: what another user has put there instead
/// is left alone.
fn log_file(log_dir: &Path, source: &str, scripts: &Path) -> std::io::Result<fs::File> {
    let name = format!("coder-script-{source}.log");
    private_dir::append(log_dir, &name).or_else(|error| {
        let (path, instead) = (log_dir.join(&name), scripts.join(&name));
        let (path, instead) = (path.display(), instead.display());
        warn!(%path, %error, %instead, "a script's log goes to another file");
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
        // A full disk must not end what it cannot keep.
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
                    let text = "something that the script started still holds its output; what \
                                it prints from now on is lost";
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

fn say(shared: &Shared, script: &Script, level: Level, text: String) {
    let output = text.trim_end_matches('\r').replace('\0', "");
    let log = Log {
        created_at: Some(stamp(Timestamp::now())),
        output,
        level: level.into(),
    };
    // What there is no room for is in the script's file.
    shared.logs.push(Line {
        source: script.log_source_id.clone(),
        log,
    });
}
