//! Removal of directories with foreign content, however deep, large or odd.
//!
//! A directory is renamed to `NAME.removing` first, so that it is recognized after a crash. Then it is flattened:
//! files in its subdirectories are removed, and directories that are not empty are moved up beside their parents. So
//! neither the stack nor the number of open descriptors depends on the depth, and the work can stop at any time. No
//! link is followed and no other file system is entered. Work is done in turns off the caller's thread. What cannot
//! be removed is moved aside for a person as `NAME.aside`.

#![allow(
    clippy::disallowed_methods,
    reason = "turns of real time, in threads that may block"
)]

mod flatten;

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::{runtime::Handle, time::sleep};
use tracing::{Instrument as _, error, info, warn};

use self::flatten::{Turn, turn};
use super::beneath::{self, Dir, within};

/// Duration of one turn.
const TURN: Duration = Duration::from_millis(500);
/// Time limit for removing a job's directories at its end; a killed job has thirty seconds in total.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time limit for removing leftovers. Disks remove some hundred directories a second.
const LONG_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Time limit for a removal that cannot be postponed, such as in the middle of a step.
const AT_ONCE: Duration = Duration::from_secs(15);
/// Number of turns without any progress after which a directory is given up, and the pause between two, because a
/// directory may be in use for a moment.
const TRIES: (u32, Duration) = (5, Duration::from_millis(250));
/// Maximum number of leftovers of one sweep, and of directories that are listed.
const MAX_LEFTOVERS: usize = 1000;

/// Suffix of directories that are being removed.
const REMOVING: &str = ".removing";
/// Suffix of directories that could not be removed.
const ASIDE: &str = ".aside";

/// Removes a directory with all its contents. A missing one counts as removed. After ten seconds the removal
/// continues in the background, and a directory that cannot be removed is moved aside.
///
/// # Errors
/// The system's error, with the directory's new name.
pub async fn remove_dir(path: &Path) -> io::Result<()> {
    remove_within(path, PATIENCE).await
}

/// Removes a directory in the background, for callers that cannot wait.
pub fn discard(path: PathBuf) {
    let removal = move || {
        let path = renamed(&path, REMOVING);
        if let Err(error) = remove_at_once(&path) {
            warn!(%error, dir = %path.display(), "cannot remove a directory");
        }
    };
    match Handle::try_current() {
        // Detached: what is not removed when the process ends is found by the next sweep.
        Ok(runtime) => drop(runtime.spawn_blocking(removal)),
        Err(_) => removal(), // Without a runtime no other task is delayed.
    }
}

/// Removes a directory or a file in the caller's thread, within fifteen seconds.
///
/// # Errors
/// The system's error, or [`io::ErrorKind::TimedOut`].
pub(crate) fn remove_at_once(path: &Path) -> io::Result<()> {
    let (parent, name) = parts(path)?;
    match fs::File::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        parent => remove_now(parent?.as_fd(), name),
    }
}

/// A directory for temporary files in which other programs write. It is removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_waited_for: bool,
}

impl Scratch {
    /// Returns a directory that is removed in the background.
    pub fn in_background(dir: TempDir) -> Self {
        Self {
            path: dir.keep(),
            is_waited_for: false,
        }
    }

    /// Returns a directory that is removed during the drop, for a program that ends then.
    pub fn waited_for(dir: TempDir) -> Self {
        Self {
            path: dir.keep(),
            is_waited_for: true,
        }
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path without removing the directory.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() {
            return; // The directory is kept.
        }
        if !self.is_waited_for {
            return discard(path);
        }
        if let Err(error) = remove_at_once(&path) {
            warn!(%error, dir = %path.display(), "cannot remove a temporary directory");
        }
    }
}

/// Continues unfinished removals in `dir`, and removes directories that were not changed for `age`; both only if
/// their names begin with `prefix`. With `retries_aside` it tries those again that were moved aside.
pub async fn sweep(dir: &Path, prefix: &str, age: Duration, retries_aside: bool) {
    let (place, prefix) = (dir.to_owned(), prefix.to_owned());
    let found = within(beneath::DEADLINE, move || {
        leftovers(&place, &prefix, age, clock_of(&place), retries_aside)
    });
    let found = found.await.and_then(|found| found);
    let found = found.unwrap_or_else(|error| {
        warn!(%error, dir = %dir.display(), "cannot look for leftover directories");
        Vec::new()
    });
    for path in found {
        if let Err(error) = remove_within(&path, LONG_PATIENCE).await {
            warn!(%error, dir = %path.display(), "cannot remove a leftover directory");
        }
    }
}

/// Returns the time by the clock of the file system that `dir` is on, which may be that of a file server: by ours a
/// directory that was made a moment ago could look old.
pub fn clock_of(dir: &Path) -> SystemTime {
    let probe = tempfile::tempfile_in(dir).and_then(|file| file.metadata()?.modified());
    probe.unwrap_or_else(|_| SystemTime::now())
}

/// Returns the directories in `dir` that were moved aside.
///
/// # Errors
/// The system's error; none if `dir` does not exist.
pub fn put_aside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(dir)?;
    found.retain(|path| has_end(path, ASIDE));
    found.sort();
    Ok(found)
}

/// Removes `name` in `parent` in the caller's thread.
///
/// # Errors
/// The system's error, or [`io::ErrorKind::TimedOut`].
pub(super) fn remove_now(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let end = Instant::now() + AT_ONCE;
    match turn(parent, name, end)? {
        Turn::Done => Ok(()),
        Turn::More => Err(too_large()),
        Turn::Stuck(error) => Err(error),
    }
}

async fn remove_within(path: &Path, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    let place = path.to_owned();
    let path = within(beneath::DEADLINE, move || renamed(&place, REMOVING)).await?;
    let mut tries = TRIES.0;
    loop {
        let place = path.clone();
        let turn = within(beneath::DEADLINE, move || {
            let (parent, name) = parts(&place)?;
            let parent = match fs::File::open(parent) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Turn::Done),
                parent => parent?,
            };
            turn(parent.as_fd(), name, Instant::now() + TURN)
        });
        match turn.await?? {
            Turn::Done => return Ok(()),
            // Other processes need the disk, too.
            Turn::More if Instant::now() < end && patience == LONG_PATIENCE => sleep(TURN).await,
            Turn::More if Instant::now() < end => {}
            Turn::More if patience < LONG_PATIENCE => {
                info!(dir = %path.display(), "a directory is large; still removing it");
                // Detached: what is not removed when the process ends is found by the next sweep.
                tokio::spawn(go_on(path).in_current_span());
                return Ok(());
            }
            Turn::More => return Err(aside(path, too_large()).await),
            Turn::Stuck(error) => {
                tries -= 1;
                if tries == 0 {
                    return Err(aside(path, error).await);
                }
                sleep(TRIES.1).await;
            }
        }
    }
}

/// Continues a removal that was begun.
fn go_on(path: PathBuf) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Err(error) = remove_within(&path, LONG_PATIENCE).await {
            warn!(%error, dir = %path.display(), "cannot remove a directory");
        }
    })
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it could not be emptied in time")
}

/// Moves a directory aside, and returns the reason with its new name.
async fn aside(path: PathBuf, reason: io::Error) -> io::Error {
    let place = path.clone();
    let renamed = within(beneath::DEADLINE, move || renamed(&place, ASIDE)).await;
    let path = renamed.unwrap_or(path);
    error!(
        %reason,
        dir = %path.display(),
        "a directory could not be removed and was moved aside: remove it by hand, as the user who owns its files"
    );
    io::Error::new(
        reason.kind(),
        format!("{reason}; it was moved aside as `{}`", path.display()),
    )
}

/// Changes the suffix of a directory's name. A directory that cannot be renamed keeps its name.
fn renamed(path: &Path, end: &str) -> PathBuf {
    let Some(name) = path.file_name().map(OsStr::as_encoded_bytes) else {
        return path.to_owned();
    };
    let bare = [REMOVING, ASIDE]
        .iter()
        .find_map(|end| name.strip_suffix(end.as_bytes()))
        .unwrap_or(name);
    let new = OsString::from_vec([bare, end.as_bytes()].concat());
    let new = path.with_file_name(new);
    match new == path || fs::rename(path, &new).is_err() {
        true => path.to_owned(),
        false => new,
    }
}

fn has_end(path: &Path, end: &str) -> bool {
    let name = path.file_name().map(OsStr::as_encoded_bytes);
    name.is_some_and(|name| name.ends_with(end.as_bytes()))
}

fn parts(path: &Path) -> io::Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => Ok((parent, name)),
        (Some(_), Some(name)) => Ok((Path::new("."), name)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.take(MAX_LEFTOVERS),
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn leftovers(
    dir: &Path,
    prefix: &str,
    age: Duration,
    now: SystemTime,
    retries_aside: bool,
) -> io::Result<Vec<PathBuf>> {
    let is_left = |path: &PathBuf| {
        let name = path.file_name().map(OsStr::as_encoded_bytes);
        if !name.is_some_and(|name| name.starts_with(prefix.as_bytes())) {
            return false;
        }
        // An entry that is removed meanwhile has no metadata.
        let found = fs::symlink_metadata(path).ok();
        let Some(found) = found.filter(fs::Metadata::is_dir) else {
            return false;
        };
        let touched = found.modified().unwrap_or(now);
        match (has_end(path, REMOVING), has_end(path, ASIDE)) {
            (true, _) => true,
            (_, true) => retries_aside,
            _ => now.duration_since(touched).unwrap_or_default() >= age && !Dir::is_in_use(path),
        }
    };
    let mut found = entries(dir)?;
    found.retain(is_left);
    Ok(found)
}

#[cfg(test)]
mod tests;
