//! Log file that does not fill the disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Size after which a file becomes the old one, in bytes, as in the reference.
const MAX_BYTES: u64 = 5 * 1024 * 1024;

/// A log file, and its predecessor under the same name with `.1` appended.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
}

impl RotatingFile {
    /// Continues the file at `path`, or creates it; only its owner can read it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            max_bytes: MAX_BYTES,
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        fs::rename(&self.path, old)?;
        self.file = append_to(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_becomes_the_old_one_and_no_line_is_split() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("log");
        let mut file = RotatingFile::open(&path).unwrap();
        file.max_bytes = 10;

        for line in [b"first\n", b"secon\n", b"third\n"] {
            file.write_all(line).unwrap();
        }

        assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");
        let old = directory.path().join("new").join("log.1");
        assert_eq!(fs::read_to_string(old).unwrap(), "secon\n");
    }
}
