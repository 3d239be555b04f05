//! Questions to git about a directory.

use std::{path::Path, process::Command};

use crate::cli::exit::UsageError;

/// Returns what `git ARGUMENTS` prints in a directory.
///
/// # Errors
/// [`UsageError`] with what git says.
pub(super) fn git(directory: &Path, arguments: &[&str]) -> Result<Vec<u8>, UsageError> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(["-c", "core.quotePath=false"])
        .args(arguments)
        .output()
        .map_err(|error| UsageError(format!("git cannot be started: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let directory = directory.display();
    Err(UsageError(format!(
        "git in `{directory}` says: {}",
        said.trim()
    )))
}
