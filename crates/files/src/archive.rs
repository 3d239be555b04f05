//! Template archives: tar files that people push and the daemon unpacks.
//!
//! An archive comes from whoever may write templates, so unpacking trusts nothing in it: see [`extract_template`].

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

/// What a packed template must stay below, in bytes; that of Coder's command line.
pub const TEMPLATE_LIMIT_BYTES: u64 = 1024 * 1024;

/// How much an archive may unpack to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest file, in bytes. Coder cuts longer files without a word; we refuse the archive.
    pub file_bytes: u64,
    /// All files together, in bytes.
    pub total_bytes: u64,
    /// Files, directories and everything else.
    pub entries: usize,
}

impl Limits {
    /// What the daemon allows. The module archive has at most 20 MiB, which is 40,960 entries; the template that
    /// comes with it at most 4 MiB over Coder's wire.
    pub const DEFAULT: Self = Self {
        file_bytes: 10 * 1024 * 1024,
        total_bytes: 256 * 1024 * 1024,
        entries: 65_536,
    };
}

/// Why a template was not packed or not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The name leads out of the directory, or is none.
    #[error("refusing to extract to non-local path {name:?}")]
    NonLocal {
        /// The name in the archive.
        name: String,
    },
    /// The directory has a symbolic link where the entry wants to go.
    #[error("refusing to extract {name:?} through the symbolic link `{}`", .link.display())]
    ThroughLink {
        /// The name in the archive.
        name: String,
        /// The link.
        link: PathBuf,
    },
    /// One file is too long.
    #[error(
        "file {name:?} has {size} bytes, more than the {limit} that a template's file may have"
    )]
    FileTooBig {
        /// The name in the archive.
        name: String,
        /// Its size in bytes, as the archive says.
        size: u64,
        /// What is allowed, in bytes.
        limit: u64,
    },
    /// All files together are too long.
    #[error("archive unpacks to more than {limit} bytes at {name:?}")]
    TotalTooBig {
        /// The entry at which it became too much.
        name: String,
        /// What is allowed, in bytes.
        limit: u64,
    },
    /// There are too many entries.
    #[error("archive has more than {limit} entries")]
    TooManyEntries {
        /// What is allowed.
        limit: usize,
    },
    /// The archive is damaged, or none.
    #[error("failed to read the archive")]
    Damaged(#[source] io::Error),
    /// A file cannot be written.
    #[error("failed to extract {name:?}")]
    Write {
        /// The name in the archive.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody asked to stop.
    #[error("extraction was cancelled")]
    Cancelled,
    /// The directory holds no template.
    #[error("{} is not a valid template since it has no [.tf .tf.json] files", .dir.display())]
    NoTemplate {
        /// The directory.
        dir: PathBuf,
    },
    /// The template has too much in it.
    #[error("Archive too big. Must be <= {limit} bytes")]
    PackedTooBig {
        /// What it must stay below, in bytes.
        limit: u64,
    },
    /// A file of the template cannot be read.
    #[error("failed to read `{}`", .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file's name cannot be stored.
    #[error("file name `{}` cannot be stored: it must be UTF-8", .path.display())]
    Name {
        /// Which one.
        path: PathBuf,
    },
}

impl ArchiveError {
    /// What the author of the template can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::PackedTooBig { .. } => Some(
                "move large files out of the template directory; hidden files are left out anyway"
                    .to_owned(),
            ),
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
