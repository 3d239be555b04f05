//! Unpacked packages, which engines run.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions, Permissions},
    io::{self, Read as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use outpost_base::{
    error_chain::error_chain,
    registry::{Hash, h1_of_dir, h1_of_zip},
};
use outpost_files::{self as files, appearance::Record};
use zip::ZipArchive;

use super::{RECORDS, Store, StoreError, sync_dir};
use crate::{
    Digest,
    generation::{Package, Tool},
};

/// Maximum number of files in a package; the largest provider has some hundred.
const MAX_FILES: usize = 10_000;
/// Maximum size of an unpacked package in bytes; the largest provider has about one thousand million.
const MAX_TREE_BYTES: u64 = 8 << 30;

impl Store {
    /// Returns the directory of a package, which is unpacked if it is missing or was changed. `package` has the
    /// expected checksums.
    ///
    /// # Errors
    /// [`StoreError::Package`] if it cannot be trusted or unpacked, [`StoreError::Mismatch`] if it does not match
    /// `package`, and the system's error.
    pub fn tree(&self, package: &Package) -> Result<PathBuf, StoreError> {
        if let Some(tree) = self.existing_tree(package) {
            return Ok(tree);
        }
        let name = &package.filename;
        let unpacked = self.unpack(package.archive, name);
        let (staging, found) =
            unpacked.map_err(|error| self.damaged(package.archive, name, error))?;
        if found != package.h1_tree {
            let promised = &package.h1_tree;
            return Err(StoreError::Package {
                name: name.clone(),
                why: format!("its files have the checksum {found}, not {promised}"),
            });
        }
        self.publish(staging, package.archive, &found)
    }

    /// Returns the directory of a program, which is unpacked if it is missing or was changed.
    ///
    /// # Errors
    /// Those of [`tree`](Self::tree).
    pub fn tool(&self, tool: &Tool) -> Result<PathBuf, StoreError> {
        if let Some(tree) = self.intact(tool.archive, None) {
            return Ok(tree);
        }
        let unpacked = self.unpack(tool.archive, &tool.filename);
        let (staging, found) =
            unpacked.map_err(|error| self.damaged(tool.archive, &tool.filename, error))?;
        self.publish(staging, tool.archive, &found)
    }

    fn publish(
        &self,
        staging: tempfile::TempDir,
        archive: Digest,
        h1: &Hash,
    ) -> Result<PathBuf, StoreError> {
        let tree = self.tree_path(archive);
        let is_there = tree.is_dir() && h1_of_dir(&tree).is_ok_and(|found| found == *h1);
        if !is_there {
            if tree.is_dir() {
                tracing::warn!(tree = %tree.display(), "an unpacked package was modified; unpacking it again");
                // Another process may do the same.
                let aside = self.put_aside(&tree, SystemTime::now());
                aside.or_else(|error| if tree.is_dir() { Err(error) } else { Ok(()) })?;
            }
            match fs::rename(staging.path(), &tree) {
                Ok(()) => {
                    let _moved = staging.keep();
                }
                Err(_) if tree.is_dir() => {} // Another process has put the same files there.
                Err(error) => return Err(StoreError::io("write", &tree)(error)),
            }
            sync_dir(&self.dir.join("trees"))?;
        }
        if let Ok(record) = Record::with_h1(&tree, h1) {
            self.write_record(archive, &record);
        }
        Ok(tree)
    }

    /// Returns an error about a package that cannot be unpacked, with a note if it was unpacked before and then
    /// changed.
    fn damaged(&self, archive: Digest, name: &str, error: StoreError) -> StoreError {
        let tree = self.tree_path(archive);
        match error {
            StoreError::Io { .. } if tree.is_dir() => refused(
                name,
                &format!(
                    "its unpacked files in `{}` were modified and cannot be replaced ({}); run `outpost mirror verify --repair` as a user who can write there",
                    tree.display(),
                    error_chain(&error),
                ),
            ),
            error => error,
        }
    }

    /// Returns the directory of a package if it is unpacked and unchanged.
    pub fn existing_tree(&self, package: &Package) -> Option<PathBuf> {
        self.intact(package.archive, Some(&package.h1_tree))
    }

    /// Does the same, but only if no file has to be read for that.
    pub fn known_tree(&self, package: &Package) -> Option<PathBuf> {
        let tree = self.unpacked(package.archive)?;
        let record = Record::read(&self.record_path(package.archive)).ok()?;
        let is_it = record.h1 == package.h1_tree.to_string() && record.looks_like(&tree);
        is_it.then_some(tree)
    }

    /// Returns the directory of an unpacked archive, without any check of its files.
    pub fn unpacked(&self, archive: Digest) -> Option<PathBuf> {
        Some(self.tree_path(archive)).filter(|tree| tree.is_dir())
    }

    /// Reads unpacked files again. `expected` is the checksum of a package; a program can only be compared with its
    /// record.
    ///
    /// # Errors
    /// The problem with the files.
    pub(crate) fn verify_tree(
        &self,
        archive: Digest,
        expected: Option<&Hash>,
    ) -> Result<(), String> {
        let tree = self.tree_path(archive);
        let path = self.record_path(archive);
        let known = Record::read(&path).ok();
        let expected = expected
            .map(Hash::to_string)
            .or_else(|| known.as_ref().map(|known| known.h1.clone()));
        let found = Record::of(&tree).map_err(|error| error.to_string())?;
        match expected {
            Some(expected) if expected != found.h1 => Err(format!(
                "the unpacked files have the checksum {}, not {expected}",
                found.h1
            )),
            // A program that an older release unpacked has no record to compare with.
            None => Ok(()),
            Some(_) => {
                self.write_record(archive, &found);
                Ok(())
            }
        }
    }

    /// Returns the directory of an unpacked archive if its files are unchanged. They are read only if the system
    /// reports a change.
    fn intact(&self, archive: Digest, expected: Option<&Hash>) -> Option<PathBuf> {
        let tree = self.unpacked(archive)?;
        let known = Record::read(&self.record_path(archive)).ok();
        let expected = expected
            .map(Hash::to_string)
            .or_else(|| known.as_ref().map(|known| known.h1.clone()))?;
        if known.is_some_and(|known| known.h1 == expected && known.looks_like(&tree)) {
            return Some(tree);
        }
        let found = Record::of(&tree).ok()?;
        if found.h1 != expected {
            return None;
        }
        self.write_record(archive, &found);
        Some(tree)
    }

    /// Writes a record if possible. Without one the files are read before each use, as in a mirror that only others
    /// may write.
    fn write_record(&self, archive: Digest, record: &Record) {
        let path = self.record_path(archive);
        let written = record.to_text().and_then(|text| {
            fs::create_dir_all(files::directory_of(&path))?;
            files::write_public(&path, &text)
        });
        if let Err(error) = written {
            tracing::debug!(%error, path = %path.display(), "cannot record the checksums of an unpacked package");
        }
    }

    fn tree_path(&self, archive: Digest) -> PathBuf {
        self.dir.join("trees").join(archive.to_string())
    }

    fn record_path(&self, archive: Digest) -> PathBuf {
        self.dir.join(RECORDS).join(archive.to_string())
    }

    /// Returns the checksums of a package: of its zip file, and of its unpacked files.
    ///
    /// # Errors
    /// Those of [`tree`](Self::tree).
    pub fn checksums(&self, archive: Digest, name: &str) -> Result<(Hash, Hash), StoreError> {
        let of_zip = h1_of_zip(self.open_blob(archive)?);
        let of_zip = of_zip.map_err(|error| refused(name, &error))?;
        let (_staging, of_tree) = self.unpack(archive, name)?;
        Ok((of_zip, of_tree))
    }

    /// Checks that a package contains the files that `package` describes.
    ///
    /// # Errors
    /// Those of [`tree`](Self::tree).
    pub fn check_package(&self, package: &Package) -> Result<(), StoreError> {
        let (of_zip, of_tree) = self.checksums(package.archive, &package.filename)?;
        for (found, promised) in [(of_zip, &package.h1_zip), (of_tree, &package.h1_tree)] {
            if found != *promised {
                let why = format!("its files have the checksum {found}, not {promised}");
                return Err(refused(&package.filename, &why));
            }
        }
        Ok(())
    }

    fn unpack(&self, archive: Digest, name: &str) -> Result<(tempfile::TempDir, Hash), StoreError> {
        let incoming = self.dir.join("incoming");
        let staging = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(&incoming)
            .map_err(StoreError::io("write in", &incoming))?;
        let file = self.open_blob(archive)?;
        let mut zip = ZipArchive::new(file).map_err(|error| refused(name, &error))?;
        if zip.len() > MAX_FILES {
            return Err(refused(
                name,
                &format!("it has more than {MAX_FILES} files"),
            ));
        }
        let (mut left, mut seen) = (MAX_TREE_BYTES, BTreeSet::new());
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(|error| refused(name, &error))?;
            let path = safe_path(&entry).map_err(|why| refused(name, &why))?;
            if entry.is_dir() {
                continue;
            }
            // On some file systems names that differ only in case are the same file.
            if !seen.insert(path.to_string_lossy().to_lowercase()) {
                let why = format!("`{}` is in it more than once", path.display());
                return Err(refused(name, &why));
            }
            // Only the permission to execute is taken from the archive; nobody may write to an unpacked package.
            let mode = entry.unix_mode().unwrap_or(0o444);
            let mode = if mode & 0o111 == 0 { 0o444 } else { 0o555 };
            let path = staging.path().join(path);
            let written = write(&path, mode, &mut entry, left);
            left -= written.map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge => refused(name, &"it is too large unpacked"),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => refused(name, &error),
                _ => StoreError::io("write", &path)(error),
            })?;
        }
        let hash = h1_of_dir(staging.path()).map_err(|error| refused(name, &error))?;
        Ok((staging, hash))
    }
}

fn refused(name: &str, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Package {
        name: name.to_owned(),
        why: why.to_string(),
    }
}

/// Returns the path of an entry below the tree. Only regular files and directories with plain names are accepted.
fn safe_path<R: io::Read>(entry: &zip::read::ZipFile<'_, R>) -> Result<PathBuf, String> {
    const FILE_TYPES: u32 = 0o170_000;
    let is_plain = |kind| matches!(kind, 0 | 0o100_000 | 0o040_000);
    let name = entry
        .name()
        .map_err(|error| error.to_string())?
        .into_owned();
    if !entry
        .unix_mode()
        .is_none_or(|mode| is_plain(mode & FILE_TYPES))
    {
        return Err(format!("`{name}` is neither a file nor a directory"));
    }
    let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
    let is_good = |part: &&str| {
        !matches!(*part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c == '\\')
    };
    match parts.iter().all(is_good) {
        true => Ok(parts.iter().collect()),
        false => Err(format!("{name:?} is not a valid file name in a package")),
    }
}

/// Writes one file and returns its length in bytes.
fn write(path: &Path, mode: u32, content: &mut impl io::Read, limit: u64) -> io::Result<u64> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = io::copy(&mut content.take(limit + 1), &mut file)?;
    if written > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    Ok(written)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Cursor, Write as _};

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn zip(entries: &[(&str, u32)]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, mode) in entries {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            zip.start_file(*name, options).unwrap();
            zip.write_all(name.as_bytes()).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    /// Stores a package with this program.
    pub(in crate::store) fn packed(store: &Store, program: &[u8]) -> Package {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().unix_permissions(0o755);
        zip.start_file("program", options).unwrap();
        zip.write_all(program).unwrap();
        package(store, &zip.finish().unwrap().into_inner())
    }

    fn package(store: &Store, content: &[u8]) -> Package {
        let archive = store.put(content).unwrap();
        let sums = store.checksums(archive, "demo.zip");
        let (h1_zip, h1_tree) = sums.unwrap_or((Hash::H1([0; 32]), Hash::H1([0; 32])));
        Package {
            platform: "linux_amd64".parse().unwrap(),
            filename: "demo.zip".to_owned(),
            archive,
            size: content.len() as u64,
            h1_zip,
            h1_tree,
        }
    }

    #[test]
    fn a_package_is_unpacked_once_for_everybody_and_for_no_one_to_change() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let content = zip(&[
            ("terraform-provider-demo_v1.0.0", 0o755),
            ("docs/LICENSE", 0o644),
        ]);
        let package = package(&store, &content);
        assert_eq!(package.h1_zip, package.h1_tree);

        let tree = store.tree(&package).unwrap();

        assert_eq!(store.tree(&package).unwrap(), tree);
        for (name, mode) in [
            ("terraform-provider-demo_v1.0.0", 0o555),
            ("docs/LICENSE", 0o444),
        ] {
            let found = fs::metadata(tree.join(name)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{name}");
        }
        assert_eq!(
            fs::read_dir(dir.path().join("incoming")).unwrap().count(),
            0
        );
    }

    #[test]
    fn a_package_that_reaches_out_of_its_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for name in [
            "../evil",
            "/etc/evil",
            "a/../../evil",
            "a//b",
            "a\\b",
            "a\nb",
        ] {
            let package = package(&store, &zip(&[(name, 0o755)]));

            let error = store.tree(&package).unwrap_err();

            assert!(
                matches!(error, StoreError::Package { .. }),
                "{name:?}: {error}"
            );
        }
        let twice = package(&store, &zip(&[("LICENSE", 0o644), ("license", 0o644)]));
        assert!(
            store
                .tree(&twice)
                .unwrap_err()
                .to_string()
                .contains("more than once")
        );
        assert_eq!(fs::read_dir(dir.path().join("trees")).unwrap().count(), 0);
    }

    #[test]
    fn a_package_with_other_files_than_promised_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut package = package(&store, &zip(&[("terraform-provider-demo", 0o755)]));
        package.h1_tree = Hash::H1([7; 32]);

        let error = store.tree(&package).unwrap_err();

        assert!(error.to_string().contains("checksum"), "{error}");
    }
}
