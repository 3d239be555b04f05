//! Unpacks an archive that may be hostile.

use std::{
    io,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use outpost_base::stop::Stop;
use tar::EntryType;

use super::{ArchiveError, Limits};
use crate::beneath::{self, Dir, Kind};

/// Maximum number of warnings about one archive.
const MAX_WARNINGS: usize = 100;
/// Maximum length of a name in errors and warnings, in characters.
const SHOWN_NAME: usize = 200;

/// Result of unpacking an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Warnings for the job's log about skipped entries, one sentence each.
    pub warnings: Vec<String>,
}

/// Unpacks a template, or its modules, into an existing directory.
///
/// Files and directories are created; links and devices are skipped with a warning. Names must stay inside `dest`. A
/// later entry completely replaces an earlier one with the same name. Missing parent directories are created for the
/// owner alone. No symbolic link below `dest` is ever followed. Only permission bits are taken from modes; the owner
/// can always read and write. `stop` is checked between entries. The call blocks: run it on a thread that may block.
///
/// # Errors
/// [`ArchiveError`]; what was unpacked until then stays.
///
/// # Source
/// coder `provisionersdk/tfpath/tfpath.go`, `ExtractArchive`; unlike there nothing is truncated or ignored.
pub fn extract_template(
    archive: &[u8],
    dest: &Dir,
    stop: &Stop,
) -> Result<Extracted, ArchiveError> {
    extract_template_within(archive, dest, stop, Limits::DEFAULT)
}

/// Does the same as [`extract_template`] with other limits.
///
/// # Errors
/// Those of [`extract_template`].
pub fn extract_template_within(
    archive: &[u8],
    dest: &Dir,
    stop: &Stop,
    limits: Limits,
) -> Result<Extracted, ArchiveError> {
    let mut extractor = Extractor {
        dest,
        limits,
        written: 0,
        warnings: Vec::new(),
        skipped: 0,
    };
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().map_err(ArchiveError::Damaged)?;
    for (index, entry) in entries.enumerate() {
        if stop.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        if index >= limits.entries {
            return Err(ArchiveError::TooManyEntries {
                limit: limits.entries,
            });
        }
        extractor.entry(&mut entry.map_err(ArchiveError::Damaged)?)?;
    }
    Ok(extractor.finish())
}

struct Extractor<'a> {
    dest: &'a Dir,
    limits: Limits,
    written: u64,
    warnings: Vec<String>,
    skipped: usize,
}

impl Extractor<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<'_, &[u8]>) -> Result<(), ArchiveError> {
        let bytes = entry.path_bytes();
        let name: String = String::from_utf8_lossy(&bytes)
            .chars()
            .take(SHOWN_NAME)
            .collect();
        let Some(path) = local_path(&bytes) else {
            return Err(ArchiveError::NonLocal { name });
        };
        let mode = entry.header().mode().map_err(ArchiveError::Damaged)? & 0o777;
        let kind = entry.header().entry_type();
        let is_file = kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse();
        // The tar of before 1988 marks a directory only by the slash.
        if kind.is_dir() || (is_file && bytes.ends_with(b"/")) {
            self.make_directories(&name, &path, mode)
        } else if is_file {
            self.file(&name, &path, mode, entry)
        } else {
            self.skip(&name, kind);
            Ok(())
        }
    }

    fn file(
        &mut self,
        name: &str,
        path: &Path,
        mode: u32,
        entry: &mut tar::Entry<'_, &[u8]>,
    ) -> Result<(), ArchiveError> {
        self.check_size(name, entry.size())?;
        if let Some(parent) = path.parent() {
            self.make_directories(name, parent, 0o700)?;
        }
        self.refuse_link(name, path)?;
        let failed = |source| ArchiveError::Write {
            name: name.to_owned(),
            source,
        };
        let mode = if mode == 0 { 0o600 } else { mode | 0o600 };
        let mut file = self.dest.create(path, mode).map_err(failed)?;
        let size = entry.size();
        let copied = io::copy(&mut entry.take(size), &mut file).map_err(failed)?;
        if copied < size {
            let cut = format!("{name:?} ends after {copied} of {size} bytes");
            let cut = io::Error::new(io::ErrorKind::UnexpectedEof, cut);
            return Err(ArchiveError::Damaged(cut));
        }
        Ok(())
    }

    /// Checks sizes before anything is written, because a header may claim more than the archive contains.
    fn check_size(&mut self, name: &str, size: u64) -> Result<(), ArchiveError> {
        if size > self.limits.file_bytes {
            return Err(ArchiveError::FileTooBig {
                name: name.to_owned(),
                size,
                limit: self.limits.file_bytes,
            });
        }
        self.written += size;
        if self.written > self.limits.total_bytes {
            return Err(ArchiveError::TotalTooBig {
                name: name.to_owned(),
                limit: self.limits.total_bytes,
            });
        }
        Ok(())
    }

    /// Creates all missing directories of a path. Intermediate ones are for the owner alone.
    fn make_directories(&self, name: &str, path: &Path, mode: u32) -> Result<(), ArchiveError> {
        let failed = |source| ArchiveError::Write {
            name: name.to_owned(),
            source,
        };
        let mut current = PathBuf::new();
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            current.push(component);
            if self.refuse_link(name, &current)? == Some(Kind::Directory) {
                continue;
            }
            let is_last = components.peek().is_none();
            let mode = if is_last { mode | 0o700 } else { 0o700 };
            self.dest.create_dir(&current, mode).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns the kind of what already exists at a path; refuses a link.
    fn refuse_link(&self, name: &str, path: &Path) -> Result<Option<Kind>, ArchiveError> {
        match self.dest.find(path) {
            Ok(Some(found)) if found.kind == Kind::Link => Err(ArchiveError::ThroughLink {
                name: name.to_owned(),
                link: path.to_owned(),
            }),
            Ok(found) => Ok(found.map(|found| found.kind)),
            Err(source) => Err(ArchiveError::Write {
                name: name.to_owned(),
                source,
            }),
        }
    }

    fn skip(&mut self, name: &str, kind: EntryType) {
        // Records about other entries, which the reader has already applied.
        if kind.is_pax_global_extensions() || kind.is_pax_local_extensions() {
            return;
        }
        if self.warnings.len() < MAX_WARNINGS {
            let what = describe(kind);
            self.warnings.push(format!(
                "skipped {what} {name:?}: templates are unpacked as files and directories only"
            ));
        } else {
            self.skipped += 1;
        }
    }

    fn finish(mut self) -> Extracted {
        if self.skipped > 0 {
            let more = format!("skipped {} more links and devices", self.skipped);
            self.warnings.push(more);
        }
        Extracted {
            warnings: self.warnings,
        }
    }
}

fn describe(kind: EntryType) -> &'static str {
    if kind.is_symlink() {
        "the symbolic link"
    } else if kind.is_hard_link() {
        "the hard link"
    } else if kind.is_block_special() || kind.is_character_special() {
        "the device"
    } else if kind.is_fifo() {
        "the pipe"
    } else {
        "the entry of unknown type"
    }
}

/// Returns the name as a path without `.` and `..`, empty for the directory itself; `None` if it leads out.
fn local_path(name: &[u8]) -> Option<PathBuf> {
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    beneath::local(Path::new(std::ffi::OsStr::from_bytes(name))).ok()
}

#[cfg(test)]
mod tests;
