//! Errors that an engine prints.

use std::sync::{Mutex, PoisonError};

use outpost_base::job::LogLevel;
use outpost_provision::LogSink;

/// The limit of an engine's complaints that are kept, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Keeps the errors of an engine.
#[derive(Default)]
pub(crate) struct Complaints(Mutex<String>);

impl Complaints {
    /// Returns and forgets what the engine said.
    pub(crate) fn take(&self) -> String {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *said).trim_end().to_owned()
    }
}

impl LogSink for Complaints {
    fn log(&self, level: LogLevel, output: String) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if level == LogLevel::Error && said.len() + output.len() < MAX_BYTES {
            said.push_str(&output);
            said.push('\n');
        }
    }
}
