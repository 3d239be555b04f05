//! A session's two directories, and the daemon's access to files in them.
//!
//! A template may change both at any time. So all access uses [`Dir`], on other threads than the slot's.

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

/// Name of the file in which the shim records the end of the apply.
const REPORT: &str = "apply.end";
/// Maximum size of that file in bytes.
const MAX_REPORT_BYTES: u64 = 256;

/// Attributes that change with a file: its inode, the time of its last change in seconds and nanoseconds, and its
/// size.
pub(super) type Version = (u64, i64, i64, u64);

/// The directories of a session.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Directory of the template, in which the engine works.
    pub(crate) dir: Dir,
    /// Directory that the template must not see: values of variables, credentials.
    pub(crate) private: Dir,
}

impl Files {
    /// Creates both directories below `work_dir`.
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

    /// Opens both existing directories.
    pub(crate) async fn open(dir: &Path, private: &Path) -> io::Result<Self> {
        let (dir, private) = (dir.to_owned(), private.to_owned());
        within(DEADLINE, move || Self::at(&dir, &private)).await?
    }

    fn at(dir: &Path, private: &Path) -> io::Result<Self> {
        let (dir, private) = (Dir::open(dir)?, Dir::open(private)?);
        dir.mark_in_use();
        private.mark_in_use();
        Ok(Self { dir, private })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let files = self.clone();
        within(DEADLINE, move || work(files)).await?
    }

    /// Reads the state file; `None` if there is none.
    pub(super) async fn state(&self) -> io::Result<Option<Bytes>> {
        self.with(|files| state_file::read(&files.dir)).await
    }

    /// Reads the state that the engine saved after it could not write the state file; `None` without a complete one.
    pub(super) async fn saved_state(&self) -> Option<Bytes> {
        let read = self.with(|files| Ok(state_file::read_saved(&files.dir)));
        read.await.ok().flatten()
    }

    /// Removes a file with the name of such a state, so that one that exists after an apply is the engine's.
    pub(super) async fn remove_saved_state(&self) -> io::Result<()> {
        self.with(|files| files.dir.remove_dir(state_file::ERRORED))
            .await
    }

    /// Returns a value that changes with the state file; `None` if there is none, or if it cannot be examined.
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

    /// Writes a file into the private directory.
    pub(super) async fn write_private(&self, name: &'static str, text: String) -> io::Result<()> {
        self.with(move |files| files.private.write_private(name, text.as_bytes()))
            .await
    }

    /// Reads the lock file, if there is one that can be read.
    pub(super) async fn lock(&self) -> Option<Vec<u8>> {
        let read = self.with(|files| files.dir.read(lock::FILE_NAME, MAX_LOCK_BYTES));
        read.await.ok().flatten()
    }

    /// Returns the path of the file in which the shim records the end of an apply.
    pub(super) fn report(&self) -> PathBuf {
        self.private.path().join(REPORT)
    }

    /// Returns whether the apply of a session whose daemon died succeeded.
    pub(crate) async fn ended_well(&self) -> bool {
        let read = self.with(|files| files.private.read(REPORT, MAX_REPORT_BYTES));
        let report = read.await.ok().flatten();
        report.is_some_and(|report| launcher::ended_well(&report))
    }

    /// Writes the file with values of variables; `None` if there are none. Apply needs only ephemeral variables.
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

    /// Removes both directories, first the one with values of variables.
    pub(super) async fn remove(&self) -> Vec<(PathBuf, io::Error)> {
        let mut failed = Vec::new();
        for dir in [&self.private, &self.dir] {
            if let Err(error) = removal::remove_dir(dir.path()).await {
                failed.push((dir.path().to_owned(), error));
            }
        }
        failed
    }

    /// Removes both directories in the background.
    pub(super) fn discard(&self) {
        for dir in [&self.private, &self.dir] {
            removal::discard(dir.path().to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
