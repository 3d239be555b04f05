//! Downloads that survive their process: the first part of a file whose digest is known in advance.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
};

use aws_lc_rs::digest::{Context, SHA256};
use nix::fcntl::{Flock, FlockArg};

use super::{PIECE_BYTES, Store, StoreError, sync_dir};
use crate::Digest;

/// A file that is being downloaded. If it is dropped early, the next process that needs it continues it.
pub struct Partial {
    store: Store,
    path: PathBuf,
    file: Flock<File>,
    digest: Context,
    size: u64,
    expected: Digest,
}

impl Store {
    /// Begins the file `expected`, or continues it after an interruption. `None` if another process holds it.
    ///
    /// # Errors
    /// The system's error.
    pub fn partial(&self, expected: Digest) -> Result<Option<Partial>, StoreError> {
        let dir = self.dir.join("incoming/partial");
        fs::create_dir_all(&dir).map_err(StoreError::io("make", &dir))?;
        let path = dir.join(expected.to_string());
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("write", &path))?;
        let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            return Ok(None);
        };
        let mut partial = Partial {
            store: self.clone(),
            path,
            file,
            digest: Context::new(&SHA256),
            size: 0,
            expected,
        };
        partial
            .read_again()
            .map_err(StoreError::io("read", &partial.path))?;
        Ok(Some(partial))
    }
}

impl Partial {
    fn read_again(&mut self) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.file.read(&mut piece)? {
                0 => return Ok(()),
                count => {
                    self.digest.update(&piece[..count]);
                    self.size += count as u64;
                }
            }
        }
    }

    /// Returns the number of bytes that were downloaded.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes to the file.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_all(bytes);
        written.map_err(StoreError::io("write", &self.path))?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Discards the downloaded bytes.
    ///
    /// # Errors
    /// The system's error.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let cut = self.file.set_len(0);
        cut.map_err(StoreError::io("write", &self.path))?;
        (self.digest, self.size) = (Context::new(&SHA256), 0);
        Ok(())
    }

    /// Returns whether the bytes match the expected digest.
    pub fn is_whole(&self) -> bool {
        Digest::finish(self.digest.clone()) == self.expected
    }

    /// Gives the file its name, and returns its length in bytes.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is another file, which is discarded then, and the system's error.
    pub fn commit(self, name: &str) -> Result<u64, StoreError> {
        if !self.is_whole() {
            fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))?;
            return Err(StoreError::Mismatch {
                name: name.to_owned(),
                expected: self.expected,
                found: Digest::finish(self.digest),
            });
        }
        let ready = self.file.set_permissions(Permissions::from_mode(0o444));
        ready
            .and_then(|()| self.file.sync_all())
            .map_err(StoreError::io("write", &self.path))?;
        let path = self.store.path(self.expected);
        let dir = path.parent().unwrap_or(&self.store.dir);
        fs::create_dir_all(dir).map_err(StoreError::io("make", dir))?;
        fs::rename(&self.path, &path).map_err(StoreError::io("write", &path))?;
        sync_dir(dir)?;
        Ok(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn an_interrupted_download_goes_on_where_it_was() {
        let (_dir, store) = store();
        let expected = Digest::of(b"a package");
        let mut first = store.partial(expected).unwrap().unwrap();
        first.write(b"a pac").unwrap();
        drop(first);

        let mut second = store.partial(expected).unwrap().unwrap();
        assert_eq!(second.size(), 5);
        second.write(b"kage").unwrap();

        assert_eq!(second.commit("demo.zip").unwrap(), 9);
        assert_eq!(store.verify(expected).unwrap(), 9);
        assert_eq!(
            fs::read_dir(store.dir().join("incoming/partial"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn two_never_write_one_file() {
        let (_dir, store) = store();
        let expected = Digest::of(b"a package");

        let first = store.partial(expected).unwrap();

        assert!(first.is_some() && store.partial(expected).unwrap().is_none());
    }

    #[test]
    fn what_turns_out_to_be_something_else_is_forgotten() {
        let (_dir, store) = store();
        let expected = Digest::of(b"a package");
        let mut wrong = store.partial(expected).unwrap().unwrap();
        wrong.write(b"rubbish").unwrap();

        let error = wrong.commit("demo.zip").unwrap_err();

        assert!(error.to_string().contains("`demo.zip`"), "{error}");
        assert_eq!(store.partial(expected).unwrap().unwrap().size(), 0);
        assert!(!store.has(expected));
    }
}
