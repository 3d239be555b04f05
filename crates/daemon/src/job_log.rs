//! Log of a job: secrets are hidden, everything is written to the disk, and as much as there is room for is sent to
//! the server.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use jiff::Timestamp;
use outpost_base::{
    job::{JobId, LogLevel, LogLine, LogSource},
    secret::Secret,
};
use outpost_provision::{LogEntry, LogKind, LogSink};
use tokio::{sync::Notify, task::spawn_blocking};
use tracing::warn;

use super::{
    Config,
    log_batch::LogBatch,
    log_file::{LogFile, LogRetention},
    procedure::stage,
    redact::{Held, Redactor},
};

/// Destination of a job's lines. Accepting one never waits for a server.
#[derive(Clone)]
pub(super) struct JobLog(Arc<Shared>);

struct Shared {
    lines: Mutex<Lines>,
    arrived: Notify,
}

#[derive(Default)]
struct Lines {
    batch: LogBatch,
    file: Option<LogFile>,
    secrets: Vec<Secret>,
    redactor: Redactor,
    /// Stage of the last line.
    stage: &'static str,
    /// Held-back ends of pieces, for each stream.
    held: [Held; 2],
}

/// Sink for lines of an engine, under one stage.
struct StageSink {
    log: JobLog,
    stage: &'static str,
}

impl LogSink for StageSink {
    fn log(&self, level: LogLevel, output: String) {
        self.log_entry(LogEntry {
            level,
            output,
            kind: LogKind::Plain,
        });
    }

    fn log_entry(&self, entry: LogEntry) {
        let LogEntry {
            level,
            output,
            kind,
        } = entry;
        let mut lines = self.log.lines();
        if lines.stage != self.stage {
            match self.stage {
                stage::GRAPH => lines.mark(self.stage),
                _ => lines.stage = self.stage,
            }
        }
        lines.push(LogSource::Provisioner, level, output, kind);
        drop(lines);
        self.log.0.arrived.notify_one();
    }
}

impl JobLog {
    /// Opens a log whose lines never show one of `secrets`.
    pub(super) async fn open(config: &Config, job: JobId, secrets: Vec<Secret>) -> Self {
        let (dir, retention) = (config.state_dir.clone(), config.logs);
        let file = spawn_blocking(move || create_file(&dir, job, retention)).await;
        let log = Self(Arc::new(Shared {
            lines: Mutex::new(Lines {
                file: file.ok().flatten(),
                ..Lines::default()
            }),
            arrived: Notify::new(),
        }));
        log.hide(secrets);
        log
    }

    /// Hides further secrets from now on.
    pub(super) fn hide(&self, secrets: Vec<Secret>) {
        let mut lines = self.lines();
        lines.secrets.extend(secrets);
        lines.redactor = Redactor::new(lines.secrets.iter().map(Secret::expose));
    }

    /// Returns a text without the secrets that the log hides.
    pub(super) fn redact(&self, text: String) -> String {
        self.lines().redactor.redact(text)
    }

    /// Marks the beginning of a stage.
    pub(super) fn mark(&self, stage: &'static str) {
        self.lines().mark(stage);
        self.0.arrived.notify_one();
    }

    /// Logs a line as the engine would.
    pub(super) fn line(&self, level: LogLevel, stage: &'static str, output: impl Into<String>) {
        self.sink(stage).log(level, output.into());
    }

    /// Returns the sink for an engine's lines under `stage`.
    ///
    /// Coder's CLI takes the first line of a stage for its beginning and does not show it. All that is logged while
    /// resources are read from a graph are warnings that Coder's daemon does not have, so an empty line begins that stage.
    /// The beginning of any other stage is what Coder's daemon logs, so that clients show the same.
    pub(super) fn sink(&self, stage: &'static str) -> Arc<dyn LogSink> {
        Arc::new(StageSink {
            log: self.clone(),
            stage,
        })
    }

    /// Releases lines that were held back.
    pub(super) fn finish(&self) {
        self.lines().batch.finish(Timestamp::now());
        self.0.arrived.notify_one();
    }

    /// Waits until a line has been logged.
    pub(super) async fn arrived(&self) {
        self.0.arrived.notified().await;
    }

    /// Time when the next batch should go, see [`LogBatch::due`].
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.lines().batch.due(now)
    }

    /// Returns the next batch; empty if there is nothing to send.
    pub(super) fn take(&self, now: Instant) -> Vec<LogLine> {
        let mut lines = self.lines();
        lines.on_file(LogFile::flush);
        lines.batch.take(now)
    }

    /// Puts back a batch that did not arrive.
    pub(super) fn put_back(&self, batch: Vec<LogLine>) {
        self.lines().batch.put_back(batch);
    }

    /// Returns whether there is nothing left to take.
    pub(super) fn is_empty(&self) -> bool {
        self.lines().batch.is_empty()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        let lines = self.0.lines.lock();
        lines.expect("no code panics while it holds the lines")
    }
}

impl Lines {
    fn mark(&mut self, stage: &'static str) {
        self.stage = stage;
        let (source, level) = (LogSource::ProvisionerDaemon, LogLevel::Info);
        self.push(source, level, String::new(), LogKind::Plain);
    }

    fn push(&mut self, source: LogSource, level: LogLevel, output: String, kind: LogKind) {
        let line = LogLine {
            source,
            level,
            created_at: Timestamp::now(),
            stage: self.stage.to_owned(),
            output: self.safe(output, kind),
        };
        let goes_on = matches!(kind, LogKind::Piece { is_last: false, .. });
        self.on_file(|file| file.write(&line, goes_on));
        self.batch.push(line, kind);
    }

    fn safe(&mut self, output: String, kind: LogKind) -> String {
        match kind {
            LogKind::Plain | LogKind::Diagnostic => self.redactor.redact(output),
            LogKind::Piece { stream, is_last } => {
                let held = &mut self.held[stream % 2];
                self.redactor.redact_piece(held, output, is_last)
            }
        }
    }

    /// Writes to the file; a failure is logged once, and the job goes on.
    fn on_file(&mut self, write: impl FnOnce(&mut LogFile) -> io::Result<()>) {
        if let Some(file) = &mut self.file
            && let Err(error) = write(file)
        {
            warn!(%error, "failed to write the job's log file; the rest of the log goes only to the server");
            self.file = None;
        }
    }
}

fn create_file(dir: &Path, job: JobId, retention: LogRetention) -> Option<LogFile> {
    let created = LogFile::create(dir, job, retention);
    created.unwrap_or_else(|error| {
        warn!(%error, dir = %dir.display(), "failed to create the job's log file");
        None
    })
}
