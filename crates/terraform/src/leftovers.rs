//! Values of variables in a file, which exists only as long as an engine needs it, because they are often secrets.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outpost_files::beneath::Dir;
use tracing::warn;

use super::session::PREFIX;

/// Name of the file in a session's private directory.
pub(super) const VARIABLES: &str = "variables.tfvars";

/// Time after which a file is a leftover of a daemon that died: an engine reads it when it starts.
const READ_BY_THEN: Duration = Duration::from_secs(5 * 60);

/// A file with values of variables, which is removed on drop.
#[derive(Debug)]
pub(super) struct Variables(PathBuf);

impl Variables {
    /// Takes over the existing file at `path`.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the engine's option with the file's path.
    pub(super) fn option(&self) -> String {
        format!("-var-file={}", self.0.display())
    }

    /// Keeps the file for an engine that continues without us, and may not have read it yet.
    pub(super) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Variables {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes the values of variables that daemons left below `work_dir` when they died.
pub(super) fn sweep(work_dir: &Path, now: SystemTime) {
    let entries = fs::read_dir(work_dir).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
    });
    let unused = ours.filter(|entry| !Dir::is_in_use(&entry.path()));
    for path in unused.map(|entry| entry.path().join(VARIABLES)) {
        let written = fs::symlink_metadata(&path).and_then(|it| it.modified());
        let age = written.ok().and_then(|at| now.duration_since(at).ok());
        if age.is_some_and(|age| age > READ_BY_THEN) {
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%error, path = %path.display(), "failed to remove the file of variable values");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_with_the_step_and_what_a_dead_daemon_left_goes_soon() {
        let dir = tempfile::tempdir().unwrap();
        let private = dir.path().join(format!("{PREFIX}1.private"));
        fs::create_dir(&private).unwrap();
        let path = private.join(VARIABLES);
        let write = || fs::write(&path, "x = \"secret\"\n").unwrap();

        write();
        drop(Variables::at(path.clone()));
        assert!(!path.exists());

        write();
        Variables::at(path.clone()).leave();
        let now = SystemTime::now();
        sweep(dir.path(), now);
        assert!(path.exists(), "an engine may not have read it yet");
        let running = Dir::open(&private).unwrap();
        running.mark_in_use();
        sweep(dir.path(), now + 2 * READ_BY_THEN);
        assert!(path.exists(), "the clock may have been set forward");
        drop(running);
        sweep(dir.path(), now + 2 * READ_BY_THEN);
        assert!(!path.exists());
    }
}
