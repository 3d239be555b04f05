//! A template as it is planned with mocks: without its lock file, whose checksums no mock has, and without a backend, which
//! a plan would ask.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use outpost_language::lock;

/// The file that replaces the backend; engines read files of this ending last.
const OVERRIDE: &str = "zz_outpost_check_override.tf";

/// A state in a file of the session's.
pub(super) const LOCAL: &str = "terraform {\n  backend \"local\" {}\n}\n";

/// The archive of a template, ready to be planned with mocks. `has_backend` tells whether it names a place for states.
///
/// # Errors
/// If the archive is broken.
pub fn prepare(archive: &Bytes, has_backend: bool) -> io::Result<Bytes> {
    rewritten(archive, has_backend.then_some(LOCAL), &BTreeMap::new())
}

/// The same with a backend in place of the template's own, and with more files.
///
/// # Errors
/// If the archive is broken.
pub(super) fn rewritten(
    archive: &Bytes,
    backend: Option<&str>,
    files: &BTreeMap<PathBuf, String>,
) -> io::Result<Bytes> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut reader = tar::Archive::new(archive.as_ref());
    for entry in reader.entries()? {
        let mut entry = entry?;
        if entry.path()? == Path::new(lock::FILE_NAME) {
            continue;
        }
        let (header, path) = (entry.header().clone(), entry.path()?.into_owned());
        let link = entry.link_name()?.map(Cow::into_owned);
        match link {
            Some(target) => {
                let mut header = header;
                builder.append_link(&mut header, path, target)?;
            }
            None => {
                let (mut header, mut content) = (header, Vec::new());
                entry.read_to_end(&mut content)?;
                builder.append_data(&mut header, path, content.as_slice())?;
            }
        }
    }
    let mut add = |path: &Path, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, content)
    };
    if let Some(backend) = backend {
        add(Path::new(OVERRIDE), backend.as_bytes())?;
    }
    for (path, text) in files {
        add(path, text.as_bytes())?;
    }
    Ok(builder.into_inner()?.into())
}
