//! A session's two directories, and what the daemon reads and writes in them.
//!
//! A template may do to both what it likes at any time. So all of it goes through [`Dir`], off the slot's thread.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use outpost_base::{error_chain::error_chain, job::VariableValue};
use outpost_files::{
    self as files,
    beneath::{DEADLINE, Dir, within},
    removal,
};
use outpost_language::{self as language, lock};
use outpost_process::isolation::launcher;
use outpost_provision::StepFailure;

use crate::{
    leftovers::{VARIABLES, Variables},
    providers::MAX_LOCK_BYTES,
    state_file, variables,
};

/// How the apply ended, written by its shim.
const REPORT: &str = "apply.end";
/// A status is shorter, in bytes.
const MAX_REPORT_BYTES: u64 = 256;

/// What changes with a file: its number, the time of its last change in seconds and nanoseconds, and its size.
pub(super) type Version = (u64, i64, i64, u64);

/// The directories of a session.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Where the template lies and the engine works.
    pub(crate) dir: Dir,
    /// What the template must not see: values of variables, credentials.
    pub(crate) private: Dir,
}

impl Files {
    /// Makes both below `work_dir`.
    pub(super) async fn create(work_dir: &Path, name: &str) -> io::Result<Self> {
        let dir = work_dir.join(name);
        let private = work_dir.join(format!("{name}.private"));
        let made = within(DEADLINE, move || {
            files::create_private_dir(&dir)?;
            files::create_private_dir(&private)?;
            Self::at(&dir, &private)
        });
        made.await?
    }

    /// Those that there are.
    pub(crate) async fn open(dir: &Path, private: &Path) -> io::Result<Self> {
        let (dir, private) = (dir.to_owned(), private.to_owned());
        within(DEADLINE, move || Self::at(&dir, &private)).await?
    }

    fn at(dir: &Path, private: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: Dir::open(dir)?,
            private: Dir::open(private)?,
        })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let files = self.clone();
        within(DEADLINE, move || work(files)).await?
    }

    /// The state file, `None` if there is none.
    pub(super) async fn state(&self) -> io::Result<Option<Bytes>> {
        self.with(|files| state_file::read(&files.dir)).await
    }

    /// A value that changes with the state file; `None` if there is none, or nothing to be said of it.
    pub(super) async fn state_version(&self) -> Option<Version> {
        let found = self.with(|files| files.dir.find(state_file::NAME)).await;
        let found = found.ok().flatten()?;
        let (number, seconds, nanoseconds) = found.version;
        Some((number, seconds, nanoseconds, found.size))
    }

    pub(super) async fn write_state(&self, state: Bytes) -> io::Result<()> {
        self.with(move |files| files.dir.write_private(state_file::NAME, &state))
            .await
    }

    /// Writes a file that the template did not bring along.
    pub(super) async fn write_private(&self, name: &'static str, text: String) -> io::Result<()> {
        self.with(move |files| files.private.write_private(name, text.as_bytes()))
            .await
    }

    /// The lock file, if there is one that can be read.
    pub(super) async fn lock(&self) -> Option<Vec<u8>> {
        let read = self.with(|files| files.dir.read(lock::FILE_NAME, MAX_LOCK_BYTES));
        read.await.ok().flatten()
    }

    /// Where the shim of an apply writes how that ended.
    pub(super) fn report(&self) -> PathBuf {
        self.private.path().join(REPORT)
    }

    /// Whether the apply of a session whose daemon died succeeded.
    pub(crate) async fn ended_well(&self) -> bool {
        let read = self.with(|files| files.private.read(REPORT, MAX_REPORT_BYTES));
        let report = read.await.ok().flatten();
        report.is_some_and(|report| launcher::ended_well(&report))
    }

    /// Writes the file with values of variables; `None` if there are none. Apply needs only those that live for one
    /// command.
    pub(super) async fn write_variables(
        &self,
        mut values: Vec<VariableValue>,
        is_apply: bool,
    ) -> Result<Option<Variables>, StepFailure> {
        if values.is_empty() {
            return Ok(None);
        }
        let wrong = |error: &dyn std::error::Error| {
            StepFailure::new(format!("set template variables: {}", error_chain(error)))
        };
        let files = self.clone();
        let written = within(DEADLINE, move || {
            let module = language::load(&files.dir).map_err(|error| wrong(&error))?;
            let declared = language::variables(&module).map_err(|error| wrong(&error))?;
            if is_apply {
                let ephemeral = variables::ephemeral(&module);
                values.retain(|value| ephemeral.contains(&value.name));
            }
            if values.is_empty() {
                return Ok(None);
            }
            let text = variables::assignments(&values, &declared).map_err(|error| wrong(&error))?;
            let written = files.private.write_private(VARIABLES, text.as_bytes());
            written.map_err(|error| wrong(&error))?;
            let path = files.private.path().join(VARIABLES);
            Ok(Some(Variables::at(path)))
        });
        written.await.map_err(|error| wrong(&error))?
    }

    /// Removes both, the one with values of variables first.
    pub(super) async fn remove(&self) -> Vec<(PathBuf, io::Error)> {
        let mut failed = Vec::new();
        for dir in [&self.private, &self.dir] {
            if let Err(error) = removal::remove_dir(dir.path()).await {
                failed.push((dir.path().to_owned(), error));
            }
        }
        failed
    }

    /// Removes both, when nobody waits for it.
    pub(super) fn discard(&self) {
        for dir in [&self.private, &self.dir] {
            removal::discard(dir.path().to_owned());
        }
    }
}
