//! What a directory of programs looked like when it was whole, so that nobody has to read it again to know that it still
//! is.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use outpost_base::registry::{Hash, h1_of_dir};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Files and directories of one package; the largest has some hundred.
pub const MAX_FILES: usize = 10_000;

/// What is known of a directory since it was whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its `h1:` checksum.
    pub h1: String,
    /// A digest of its files' names, sizes, numbers and times of change. Nobody can set back the last of these, so
    /// what looks the same is the same.
    appearance: String,
}

impl Record {
    /// Reads all of a directory.
    ///
    /// # Errors
    /// The system's reason, and too many files.
    pub fn of(dir: &Path) -> io::Result<Self> {
        // What changes while it is read looks different afterwards.
        let appearance = appearance(dir)?;
        let h1 = h1_of_dir(dir).map_err(io::Error::other)?.to_string();
        Ok(Self { h1, appearance })
    }

    /// The record of a directory whose checksum was found just now.
    ///
    /// # Errors
    /// The system's reason, and too many files.
    pub fn with_h1(dir: &Path, h1: &Hash) -> io::Result<Self> {
        let (appearance, h1) = (appearance(dir)?, h1.to_string());
        Ok(Self { h1, appearance })
    }

    /// Reads a record.
    ///
    /// # Errors
    /// The system's reason, also if it is none.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// The record as text.
    ///
    /// # Errors
    /// Practically none.
    pub fn to_text(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Whether a directory looks as it did. It is not read.
    pub fn looks_like(&self, dir: &Path) -> bool {
        appearance(dir).is_ok_and(|now| now == self.appearance)
    }
}

fn appearance(root: &Path) -> io::Result<String> {
    let (mut level, mut digest, mut count) = (vec![root.to_owned()], Sha256::new(), 0);
    while let Some(dir) = level.pop() {
        let mut listed: Vec<_> = fs::read_dir(&dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        listed.sort_unstable();
        count += listed.len();
        if count > MAX_FILES {
            return Err(io::Error::other("it has too many files"));
        }
        for path in listed {
            let it = fs::symlink_metadata(&path)?;
            let below = path.strip_prefix(root).unwrap_or(&path).display();
            let (ino, size, mode) = (it.ino(), it.size(), it.mode());
            let changed = (it.ctime(), it.ctime_nsec(), it.mtime(), it.mtime_nsec());
            digest.update(format!("{below:?} {mode} {ino} {size} {changed:?}\n"));
            if it.is_dir() {
                level.push(path);
            }
        }
    }
    Ok(hex::encode(digest.finalize()))
}
