//! Removes directories whose content somebody else made, however deep, large or odd.
//!
//! A directory that goes is renamed first, so that whoever comes after a crash knows it: `NAME.removing`. Then it is
//! made flat: what lies in a directory of it is removed, and directories that are not empty move up beside that one.
//! So neither the stack nor the number of open descriptors depends on how deep it is, and work can stop anywhere. No
//! link is followed and no other file system entered. Work is done in turns off the caller's thread. What does not go
//! is put aside for a person as `NAME.aside`.

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
use tracing::{error, info, warn};

use self::flatten::{Turn, turn};
use super::beneath::{self, within};

/// Time of one turn.
const TURN: Duration = Duration::from_millis(500);
/// Time that whoever ends a job waits for its directories; a killed job has thirty seconds for its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time that what is left over from that has. Disks remove some hundred directories in a second.
const LONG_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Time for a removal that nobody can put off, such as in the middle of a step.
const AT_ONCE: Duration = Duration::from_secs(15);
/// Turns without any progress after which a directory does not go, and the pause between two: what is in use for a
/// moment is tried again.
const TRIES: (u32, Duration) = (5, Duration::from_millis(250));
/// Leftovers that one sweep deals with, and that are named.
const MAX_LEFTOVERS: usize = 1000;

/// The end of the names of directories that are being removed.
const REMOVING: &str = ".removing";
/// The end of the names of directories that did not go.
const ASIDE: &str = ".aside";

/// Removes a directory with everything in it. One that is not there is removed. One that takes longer than ten seconds
/// goes on going in the background, and one that does not go is put aside.
///
/// # Errors
/// The system's reason, with the directory's new name.
pub async fn remove_dir(path: &Path) -> io::Result<()> {
    remove_within(path, PATIENCE).await
}

/// Removes a directory in the background, for whoever cannot wait.
pub fn discard(path: PathBuf) {
    let removal = move || {
        let path = renamed(&path, REMOVING);
        if let Err(error) = remove_at_once(&path) {
            warn!(%error, dir = %path.display(), "cannot remove a directory");
        }
    };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(removal)),
        Err(_) => removal(), // Nobody else is held up.
    }
}

/// Removes what must not be found at its place any more, in the caller's thread. What does not go is put aside.
///
/// # Errors
/// The system's reason if it is still at its place.
pub fn take_away(path: &Path) -> io::Result<()> {
    let renamed_path = renamed(path, REMOVING);
    match remove_at_once(&renamed_path) {
        Err(reason) if renamed_path != path => {
            let dir = renamed(&renamed_path, ASIDE);
            error!(%reason, dir = %dir.display(), "a directory could not be removed and was moved aside");
            Ok(())
        }
        removed => removed,
    }
}

/// Removes a directory or a file in the caller's thread, within fifteen seconds.
///
/// # Errors
/// The system's reason, or [`io::ErrorKind::TimedOut`].
pub fn remove_at_once(path: &Path) -> io::Result<()> {
    let (parent, name) = parts(path)?;
    match fs::File::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        parent => remove_now(parent?.as_fd(), name),
    }
}

/// A directory for temporary files in which somebody else writes. It is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_waited_for: bool,
}

impl Scratch {
    /// One whose removal nobody waits for.
    pub fn in_background(dir: TempDir) -> Self {
        Self {
            path: dir.keep(),
            is_waited_for: false,
        }
    }

    /// One that is gone when this is, of a program that ends then.
    pub fn waited_for(dir: TempDir) -> Self {
        Self {
            path: dir.keep(),
            is_waited_for: true,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() {
            return; // It is kept.
        }
        if !self.is_waited_for {
            return discard(path);
        }
        if let Err(error) = remove_at_once(&path) {
            warn!(%error, dir = %path.display(), "cannot remove a temporary directory");
        }
    }
}

/// Goes on with what removals left behind in `dir`, and removes directories that nobody has touched for `age`; both only
/// if their names begin with `prefix`. With `retries_aside` those that were put aside are tried once more.
pub async fn sweep(dir: &Path, prefix: &str, age: Duration, retries_aside: bool) {
    let (place, prefix) = (dir.to_owned(), prefix.to_owned());
    let found = within(beneath::DEADLINE, move || {
        leftovers(&place, &prefix, age, SystemTime::now(), retries_aside)
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

/// The directories in `dir` that did not go and wait for a person.
///
/// # Errors
/// The system's reason; a `dir` that does not exist has none.
pub fn put_aside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(dir)?;
    found.retain(|path| has_end(path, ASIDE));
    found.sort();
    Ok(found)
}

/// Removes `name` in `parent` in the caller's thread.
///
/// # Errors
/// The system's reason, or [`io::ErrorKind::TimedOut`].
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
            // Others need the disk, too.
            Turn::More if Instant::now() < end && patience == LONG_PATIENCE => sleep(TURN).await,
            Turn::More if Instant::now() < end => {}
            Turn::More if patience < LONG_PATIENCE => {
                info!(dir = %path.display(), "a directory is large; still removing it");
                tokio::spawn(go_on(path));
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

/// Goes on with a removal that was begun.
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

/// Puts a directory aside, and returns why.
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

/// Gives a directory's name another end. One that cannot be renamed keeps its name.
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
        // What somebody else removes meanwhile has no metadata.
        let found = fs::symlink_metadata(path).ok();
        let Some(found) = found.filter(fs::Metadata::is_dir) else {
            return false;
        };
        let touched = found.modified().unwrap_or(now);
        match (has_end(path, REMOVING), has_end(path, ASIDE)) {
            (true, _) => true,
            (_, true) => retries_aside,
            _ => now.duration_since(touched).unwrap_or_default() >= age,
        }
    };
    let mut found = entries(dir)?;
    found.retain(is_left);
    Ok(found)
}

#[cfg(test)]
mod tests;
