//! Template archives: tar files that people push and the daemon unpacks.
//!
//! An archive may come from anybody who may write templates, so unpacking trusts nothing in it: see
//! [`extract_template`].

mod extract;
mod pack;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
};

pub(crate) use self::writer::Writer;
pub use self::{
    extract::{Extracted, extract_template, extract_template_within},
    pack::{pack_template, pack_template_within},
};

/// Limit of a packed template in bytes, which it must not reach; that of Coder's command line.
pub(crate) const TEMPLATE_LIMIT_BYTES: u64 = 1024 * 1024;

/// Limits of an unpacked archive.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum size of a file in bytes. Coder silently truncates longer files; we refuse the archive.
    pub(crate) file_bytes: u64,
    /// Maximum size of all files together in bytes.
    pub total_bytes: u64,
    /// Maximum number of files, directories and all other entries.
    pub entries: usize,
}

impl Limits {
    /// Limits of the daemon. A module archive has at most 20 MiB, which is 40,960 entries; the template that comes
    /// with it has at most 4 MiB on Coder's wire.
    pub const DEFAULT: Self = Self {
        file_bytes: 10 * 1024 * 1024,
        total_bytes: 256 * 1024 * 1024,
        entries: 65_536,
    };
}

/// Reason why a template was not packed or not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The name leads out of the directory, or is not a valid name.
    #[error("refusing to extract to non-local path {name:?}")]
    NonLocal {
        /// Name in the archive.
        name: String,
    },
    /// The path of an entry contains a symbolic link of the directory.
    #[error("refusing to extract {name:?} through the symbolic link `{}`", .link.display())]
    ThroughLink {
        /// Name in the archive.
        name: String,
        /// Path of the link.
        link: PathBuf,
    },
    /// A file is too large.
    #[error(
        "file {name:?} has {size} bytes, more than the {limit} that a template's file may have"
    )]
    FileTooBig {
        /// Name in the archive.
        name: String,
        /// Size in bytes, according to the archive.
        size: u64,
        /// Maximum size of a file in bytes.
        limit: u64,
    },
    /// All files together are too large.
    #[error("archive unpacks to more than {limit} bytes at {name:?}")]
    TotalTooBig {
        /// Entry at which the limit is exceeded.
        name: String,
        /// Maximum size of all files in bytes.
        limit: u64,
    },
    /// There are too many entries.
    #[error("archive has more than {limit} entries")]
    TooManyEntries {
        /// Maximum number of entries.
        limit: usize,
    },
    /// The archive is damaged, or the bytes are not an archive.
    #[error("failed to read the archive")]
    Damaged(#[source] io::Error),
    /// A file cannot be written.
    #[error("failed to extract {name:?}")]
    Write {
        /// Name in the archive.
        name: String,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The work was cancelled.
    #[error("extraction was cancelled")]
    Cancelled,
    /// The directory contains no template.
    #[error("{} is not a valid template since it has no [.tf .tf.json] files", .dir.display())]
    NoTemplate {
        /// Path of the directory.
        dir: PathBuf,
    },
    /// The packed template is too large.
    #[error("Archive too big. Must be <= {limit} bytes")]
    PackedTooBig {
        /// The file or directory that did not fit.
        name: String,
        /// Limit in bytes, which it must not reach.
        limit: u64,
    },
    /// A file of the template cannot be read.
    #[error("failed to read `{}`", .path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// A file's name cannot be stored in an archive.
    #[error("file name `{}` cannot be stored: it must be UTF-8", .path.display())]
    Name {
        /// Path of the file.
        path: PathBuf,
    },
}

impl ArchiveError {
    /// Returns a suggestion for the template's author.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::PackedTooBig { name, .. } => Some(format!(
                "move large files out of the template directory, where {name:?} did not fit; hidden files are left out anyway"
            )),
            Self::FileTooBig { name, .. } => Some(format!(
                "remove {name:?} from the template, and download it in a script instead"
            )),
            Self::NoTemplate { dir } => Some(format!(
                "use the directory with the template's main.tf instead of `{}`",
                dir.display()
            )),
            Self::NonLocal { .. } | Self::ThroughLink { .. } => Some(
                "pack the template again from its own directory, without `..` and absolute paths"
                    .to_owned(),
            ),
            Self::TotalTooBig { .. } | Self::TooManyEntries { .. } => {
                Some("push only what the template needs".to_owned())
            }
            Self::Damaged(_)
            | Self::Write { .. }
            | Self::Cancelled
            | Self::Read { .. }
            | Self::Name { .. } => None,
        }
    }

    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }
}
