//! The files of a template, wherever they are.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    path::Path,
};

/// A template's directory. Paths are relative to it, and the empty one is the directory itself.
///
/// For a person's template it is a [`Path`], whose links are followed. A job's template may be changed by its author
/// while it is read, so it has an implementation of its own.
pub trait TemplateFiles {
    /// Returns names in a directory, and whether each is a directory.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self, dir: &Path) -> io::Result<Vec<(OsString, bool)>>;

    /// Returns whether the path is a directory.
    fn is_dir(&self, path: &Path) -> bool;

    /// Returns the first `limit` bytes of a regular file.
    ///
    /// # Errors
    /// The system's error, or an error for anything but a regular file.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;

    /// Returns the directory's location for messages.
    fn place(&self) -> &Path;
}

impl TemplateFiles for Path {
    fn list(&self, dir: &Path) -> io::Result<Vec<(OsString, bool)>> {
        let entries = fs::read_dir(self.join(dir))?.map(|entry| {
            let entry = entry?;
            let kind = entry.file_type()?;
            let is_dir = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
            Ok((entry.file_name(), is_dir))
        });
        entries.collect()
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.join(path).is_dir()
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let path = self.join(path);
        // A pipe would never end, and opening it would wait for its writer.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::other("it is neither a file nor a link to one"));
        }
        let mut content = Vec::new();
        fs::File::open(path)?
            .take(limit)
            .read_to_end(&mut content)?;
        Ok(content)
    }

    fn place(&self) -> &Path {
        self
    }
}
