//! Files and directories that the protection of a home directory needs and the home lacked. They are removed when no
//! daemon is left that needs them: under a mount, a file's removal would end the protection of a running job.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg, OFlag};

/// Maximum size of a record that is evaluated, in bytes: ten thousand starts.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Attempts to open a record that others may remove.
const ATTEMPTS: usize = 8;

/// First words of a record's lines; a path follows.
const MADE: &str = "made ";
const BEGUN: &str = "begun ";
const ENDED: &str = "ended ";

/// Paths that a home directory lacked and has because of daemons. Dropping it ends a daemon's need for them.
///
/// All daemons of a user share a record: a file with a line for each path that one of them made, and for each
/// beginning and end of a daemon's work in a directory. The last one that ends removes the paths that are still empty.
#[derive(Debug)]
pub struct Made {
    /// The record, on which every running daemon has a shared lock; `None` once it is given up.
    record: Option<Flock<File>>,
    path: PathBuf,
    work_dir: PathBuf,
}

impl Made {
    /// Opens the record at `path` for a daemon whose jobs work in `work_dir`. Missing directories above it are
    /// created, and go like everything else.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn open(path: PathBuf, work_dir: PathBuf) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let missing: Vec<&Path> = path
                .ancestors()
                .skip(1)
                .take_while(|it| !it.is_dir())
                .collect();
            if let Some(dir) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600);
            let file = match options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path) {
                // The last of the others has just removed the directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            // Somebody has it exclusively only for the moments in which everything is removed.
            if let Ok(record) = Flock::lock(file, FlockArg::LockSharedNonblock)
                && is_at(&record, &path)
            {
                let made = Self {
                    record: Some(record),
                    path: path.clone(),
                    work_dir,
                };
                for dir in missing.into_iter().rev() {
                    made.note(MADE, dir)?;
                }
                made.note(BEGUN, &made.work_dir)?;
                return Ok(made);
            }
            std::thread::yield_now();
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Creates a directory and its parents where they are missing.
    pub(super) fn dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        path.parent().map_or(Ok(()), |parent| self.dir(parent))?;
        let created = DirBuilder::new().mode(0o700).create(path);
        self.note_new(created, path)
    }

    /// Creates an empty file, and its directory, where they are missing.
    pub(super) fn file(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), |parent| self.dir(parent))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let created = options.open(path).map(drop);
        self.note_new(created, path)
    }

    /// Keeps everything for an engine that continues without its daemon, until the next daemon of its directory ends.
    pub fn leave(mut self) {
        self.record = None;
    }

    fn note_new(&self, created: io::Result<()>, path: &Path) -> io::Result<()> {
        match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            created => created.and_then(|()| self.note(MADE, path)),
        }
    }

    fn note(&self, word: &str, path: &Path) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        let Some(record) = self.record.as_deref().filter(|_| !path.contains(&b'\n')) else {
            return Ok(());
        };
        // In one call, so that lines of several daemons do not mix.
        (&*record).write_all(&[word.as_bytes(), path, b"\n"].concat())
    }

    fn end(&mut self) -> io::Result<()> {
        self.note(ENDED, &self.work_dir)?;
        let Some(record) = self.record.take() else {
            return Ok(());
        };
        // This fails while another daemon runs, which removes everything at its own end.
        let is_last = record.relock(FlockArg::LockExclusiveNonblock).is_ok();
        if !is_last || !is_at(&record, &self.path) {
            return Ok(());
        }
        let mut text = Vec::new();
        let file = File::open(&self.path)?;
        file.take(MAX_RECORD_BYTES).read_to_end(&mut text)?;
        if is_needed(&text) {
            return Ok(());
        }
        let made: Vec<&Path> = paths(&text, MADE).collect();
        made.iter().rev().for_each(|path| remove_empty(path));
        fs::remove_file(&self.path)?;
        // Those above the record.
        made.iter().rev().for_each(|path| remove_empty(path));
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Otherwise empty files stay, and the next daemon that ends removes them.
        let _ = self.end();
    }
}

/// Returns whether an open record is still the one at `path`.
fn is_at(record: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (record.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// Returns the paths of the lines that begin with `word`.
fn paths<'a>(text: &'a [u8], word: &'a str) -> impl Iterator<Item = &'a Path> {
    let lines = text.split(|byte| *byte == b'\n');
    let paths = lines.filter_map(|line| line.strip_prefix(word.as_bytes()));
    paths.map(|path| Path::new(OsStr::from_bytes(path)))
}

/// Returns whether the last thing that is known of some directory is that a daemon began there: it was killed, and an
/// engine of its may still run.
fn is_needed(text: &[u8]) -> bool {
    let last = |word, dir: &Path| {
        let lines = text.split(|byte| *byte == b'\n');
        let of_dir = |line: &[u8]| paths(line, word).any(|path| path == dir);
        lines
            .enumerate()
            .filter(|(_, line)| of_dir(line))
            .last()
            .map(|(index, _)| index)
    };
    paths(text, BEGUN).any(|dir| dir.is_dir() && last(ENDED, dir) < last(BEGUN, dir))
}

fn remove_empty(path: &Path) {
    let Ok(found) = fs::symlink_metadata(path) else {
        return;
    };
    let _ = match found.is_dir() {
        true => fs::remove_dir(path), // Fails if there is something in it.
        false if found.is_file() && found.len() == 0 => fs::remove_file(path),
        false => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab(tempfile::TempDir);

    impl Lab {
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// A daemon that works in a directory of its name.
        fn daemon(&self, name: &str) -> Made {
            fs::create_dir_all(self.path(name)).unwrap();
            Made::open(self.path("config/record"), self.path(name)).unwrap()
        }

        fn has(&self, name: &str) -> bool {
            self.path(name).exists()
        }
    }

    fn lab() -> Lab {
        Lab(tempfile::tempdir().unwrap())
    }

    #[test]
    fn the_last_daemon_that_ends_removes_what_is_still_empty() {
        let lab = lab();
        fs::write(lab.path("mine"), "").unwrap();
        let first = lab.daemon("one");
        for name in ["mine", "empty", "used", "deep/er/file"] {
            first.file(&lab.path(name)).unwrap();
        }
        first.dir(&lab.path("dir/with")).unwrap();
        fs::write(lab.path("used"), "by somebody").unwrap();
        let second = lab.daemon("two");
        second.file(&lab.path("empty")).unwrap();

        drop(first);
        assert!(lab.has("empty") && lab.has("deep/er/file"));
        drop(second);

        for gone in ["empty", "deep", "dir", "config"] {
            assert!(!lab.has(gone), "{gone}");
        }
        assert!(lab.has("mine"), "nobody removes what was there before");
        assert_eq!(fs::read(lab.path("used")).unwrap(), b"by somebody");
    }

    #[test]
    fn what_protects_an_engine_without_a_daemon_stays_until_its_next_daemon_ends() {
        let lab = lab();
        let left = lab.daemon("one");
        left.file(&lab.path("file")).unwrap();
        left.leave(); // A killed daemon leaves the same.

        drop(lab.daemon("two"));
        assert!(lab.has("file"), "one's engine may still run");

        drop(lab.daemon("one"));
        assert!(!lab.has("file") && !lab.has("config"));
    }

    #[test]
    fn a_directory_that_is_gone_needs_nothing() {
        let lab = lab();
        let left = lab.daemon("one");
        left.file(&lab.path("file")).unwrap();
        left.leave();
        fs::remove_dir(lab.path("one")).unwrap();

        drop(lab.daemon("two"));

        assert!(!lab.has("file"));
    }
}
