//! One process of the engine, with its output. `process/run.rs` interrupts it when the job is cancelled.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use outpost_base::{error_chain::error_chain, job::LogLevel, stop::Stop};
use outpost_process::{
    self as process, Captured, Command, Exit, Limits, Line, Pipe, ProcessError, Shim,
    isolation::Confinement,
};
use outpost_provision::{ApplyObserver, LogSink, Memory, StepFailure};

use crate::{
    Environment,
    diagnostic::{Diagnostic, Warnings},
    log_stream,
    timings::Timings,
};

/// Maximum size of errors that are kept to recognize the cause of a failure, in bytes.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// Lock files whose missing checksums should cause no warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IgnoredLockEntries {
    None,
    /// The entry of a `coder` provider that is built into this program.
    OfCoder,
    /// All entries: the template has no lock file, and the session's own is removed with it.
    All,
}

/// Runs the processes of one step.
pub(super) struct Runner {
    program: PathBuf,
    dir: PathBuf,
    environment: Environment,
    confinement: Option<Confinement>,
    limits: Limits,
    log: Arc<dyn LogSink>,
    /// Observer of an apply, which outlives this process.
    observer: Option<Arc<dyn ApplyObserver>>,
    shim: Option<Shim>,
    memory: Memory,
    ignored_entries: IgnoredLockEntries,
}

/// Result of a process whose output was logged.
pub(super) struct StepOutput {
    pub(super) exit: Exit,
    pub(super) took: Duration,
    /// Warnings and errors, for the recognition of known ones.
    pub(super) output: String,
    /// The first error in a diagnostic; without diagnostics, the first line that contains one.
    pub(super) first_error: Option<String>,
    /// A state that the engine printed because it could not write it.
    pub(super) state: Option<Vec<u8>>,
}

impl StepOutput {
    /// Returns a failure that begins with `what`, unless the process succeeded.
    pub(super) fn check(&self, what: &str) -> Result<(), StepFailure> {
        if self.exit.is_success() {
            return Ok(());
        }
        let note = match self.exit.was_killed_by_others() {
            true => " (not by this daemon; the kernel does this when memory runs out)",
            false => "",
        };
        let error = format!("{what}: {}{note}", self.exit);
        Err(StepFailure {
            error,
            diagnostic: self.first_error.clone(),
            ..StepFailure::default()
        })
    }
}

/// A log sink for processes whose lines are answers, not logs.
pub(super) struct NoLog;

impl LogSink for NoLog {
    fn log(&self, _: LogLevel, _: String) {}
}

impl Runner {
    pub(super) fn new(
        program: PathBuf,
        dir: PathBuf,
        environment: Environment,
        confinement: Option<Confinement>,
        limits: Limits,
        log: Arc<dyn LogSink>,
        memory: Memory,
    ) -> Self {
        Self {
            program,
            dir,
            environment,
            confinement,
            limits,
            log,
            observer: None,
            shim: None,
            memory,
            ignored_entries: IgnoredLockEntries::None,
        }
    }

    /// Returns a runner of applies.
    pub(super) fn watched_by(
        self,
        observer: Option<Arc<dyn ApplyObserver>>,
        shim: Option<Shim>,
    ) -> Self {
        let shim = shim.filter(|_| observer.is_some());
        Self {
            observer,
            shim,
            ..self
        }
    }

    /// Returns a runner that does not log warnings about lock files in this group.
    pub(super) fn ignoring_lock_entries(self, ignored_entries: IgnoredLockEntries) -> Self {
        Self {
            ignored_entries,
            ..self
        }
    }

    /// Runs a command whose lines become log entries.
    pub(super) async fn stream(
        &self,
        args: &[&str],
        stop: &Stop,
        timings: &mut Timings,
    ) -> Result<StepOutput, StepFailure> {
        if stop.is_cancelled() {
            return Err(StepFailure::new("cancelled before it began"));
        }
        let started = tokio::time::Instant::now().into_std();
        let (mut output, mut first_error, mut state) = (String::new(), None, None);
        let (mut first_line, mut warnings) = (None, Warnings::default());
        let on_line = |pipe: Pipe, line: Line| {
            let said = log_stream::read(pipe, line);
            let is_moot = |diagnostic: &Diagnostic| match self.ignored_entries {
                IgnoredLockEntries::None => false,
                IgnoredLockEntries::OfCoder => diagnostic.is_about_lock_of_coder(),
                IgnoredLockEntries::All => diagnostic.is_about_lock(),
            };
            let is_unwanted =
                |diagnostic: &Diagnostic| is_moot(diagnostic) || warnings.has_repeated(diagnostic);
            if said.diagnostic.as_ref().is_some_and(is_unwanted) {
                return;
            }
            if let Some(timed) = &said.timed {
                timings.observe(timed, Timestamp::now());
                if let Some(observer) = &self.observer {
                    timed.tell(observer.as_ref());
                }
            }
            if let Some(diagnostic) = said.diagnostic.filter(|diagnostic| diagnostic.is_error()) {
                first_error.get_or_insert_with(|| diagnostic.brief());
            }
            state = said.state.or(state.take());
            for entry in said.entries {
                if entry.level >= LogLevel::Warn && output.len() < MAX_OUTPUT_BYTES {
                    let end = entry.output.floor_char_boundary(MAX_OUTPUT_BYTES);
                    output.push_str(&entry.output[..end]);
                    output.push('\n');
                }
                if entry.level == LogLevel::Error && first_line.is_none() {
                    first_line = log_stream::plain_error(&entry.output);
                }
                self.log.log_entry(entry);
            }
        };
        let exit = process::run(&self.command(args), &self.limits, stop, on_line).await;
        let exit = exit.map_err(|error| StepFailure {
            is_left: matches!(error, ProcessError::Left(_)),
            ..StepFailure::new(error_chain(&error))
        })?;
        Ok(StepOutput {
            exit,
            took: started.elapsed(),
            output,
            first_error: first_error.or(first_line),
            state,
        })
    }

    /// Runs a command whose output is an answer.
    pub(super) async fn capture(
        &self,
        args: &[&str],
        stop: &Stop,
        limit: usize,
    ) -> Result<(Captured, Duration), StepFailure> {
        let started = tokio::time::Instant::now().into_std();
        let captured = process::capture(&self.command(args), &self.limits, stop, limit).await;
        let captured = captured.map_err(|error| StepFailure::new(error_chain(&error)))?;
        Ok((captured, started.elapsed()))
    }

    fn command(&self, args: &[&str]) -> Command {
        Command {
            program: self.program.clone(),
            args: args.iter().map(Into::into).collect(),
            env: self.environment.to_vec(),
            dir: self.dir.clone(),
            confinement: self.confinement.clone(),
            outlives_us: self.observer.is_some(),
            shim: self.shim.clone(),
            memory: self.memory.clone(),
        }
    }
}
