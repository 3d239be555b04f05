//! The state of a directory of programs when it was complete, so that an unchanged directory need not be read again.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use outpost_base::registry::{Hash, h1_of_dir};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Maximum number of files and directories of one package; the largest has some hundred.
pub const MAX_FILES: usize = 10_000;

/// Record of a complete directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The directory's `h1:` checksum.
    pub h1: String,
    /// Digest of its files' names, sizes, inodes and change times. Nobody can set back a change time, so an equal
    /// digest means equal content.
    appearance: String,
}

impl Record {
    /// Reads a complete directory.
    ///
    /// # Errors
    /// The system's error, and an error for too many files.
    pub fn of(dir: &Path) -> io::Result<Self> {
        // Taken before the files are read, so that a change during the read is detected afterwards.
        let appearance = appearance(dir)?;
        let h1 = h1_of_dir(dir).map_err(io::Error::other)?.to_string();
        Ok(Self { h1, appearance })
    }

    /// Returns the record of a directory whose checksum was just computed.
    ///
    /// # Errors
    /// The system's error, and an error for too many files.
    pub fn with_h1(dir: &Path, h1: &Hash) -> io::Result<Self> {
        let (appearance, h1) = (appearance(dir)?, h1.to_string());
        Ok(Self { h1, appearance })
    }

    /// Reads a record from a file.
    ///
    /// # Errors
    /// The system's error, and an error if the file is not a record.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Returns the record as text.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_text(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Returns whether a directory is unchanged, without reading its files.
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
