//! Sources of bundles: a file, volumes or a pipe, plain or encrypted.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    cli::exit::Hint as _,
    mirror::bundle::{EncryptionError, decrypted, find_volumes},
};

/// Identity that can decrypt bundles.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Identity {
    /// File with the age identity that an encrypted bundle is for
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_IDENTITY")]
    identity: Option<PathBuf>,
}

/// Form in which a bundle is stored.
pub(super) struct Form {
    pub(super) is_encrypted: bool,
    /// Bytes of a volume, if the bundle is split.
    pub(super) volume_bytes: Option<u64>,
}

impl Identity {
    /// Opens the bundle as it was signed. One volume stands for all that are beside it, and their common name for the
    /// first.
    pub(super) fn open(&self, path: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
        Ok(self.open_with_form(path)?.0)
    }

    /// Opens the bundle, and returns the form in which it is stored as well.
    pub(super) fn open_with_form(
        &self,
        path: &Path,
    ) -> anyhow::Result<(Box<dyn Read + Send>, Form)> {
        let mut volume_bytes = None;
        let input: Box<dyn Read + Send> = match find_volumes(path)? {
            _ if is_pipe(path) => Box::new(io::stdin()),
            Some(volumes) => {
                volume_bytes = Some(volumes.volume_bytes());
                Box::new(volumes)
            }
            None => Box::new(open(path)?),
        };
        let opened = decrypted(input, self.identity.as_deref());
        let opened = opened.map_err(|error| match error.hint() {
            Some(hint) => hinted(error, hint),
            None => error.into(),
        })?;
        let form = Form {
            is_encrypted: opened.is_encrypted,
            volume_bytes,
        };
        Ok((opened.content, form))
    }

    /// Returns whether the bundle is a file as it was signed, so that any part can be read at any time.
    pub(super) fn is_plain_file(&self, path: &Path) -> bool {
        self.identity.is_none() && path.is_file() && matches!(find_volumes(path), Ok(None))
    }
}

fn hinted(error: EncryptionError, hint: &str) -> anyhow::Error {
    let failed: anyhow::Result<()> = Err(error).hint(hint);
    failed.expect_err("it is an error")
}

/// Returns whether the path means stdin or stdout.
pub(super) fn is_pipe(path: &Path) -> bool {
    path == Path::new("-")
}

/// Opens a file unchanged.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("failed to open `{}`", path.display()))
}
