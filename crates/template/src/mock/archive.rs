//! A template as it is planned with mocks: without its lock file, whose checksums no mock has, and without a backend, which
//! a plan would ask.

use std::{
    borrow::Cow,
    io::{self, Read as _},
    path::Path,
};

use bytes::Bytes;
use outpost_language::lock;

/// The file that replaces the backend; engines read files of this ending last.
const OVERRIDE: &str = "zz_outpost_check_override.tf";

/// A state in a file of the session's.
const LOCAL: &[u8] = b"terraform {\n  backend \"local\" {}\n}\n";

/// The archive of a template, ready to be planned with mocks. `has_backend` tells whether it names a place for states.
///
/// # Errors
/// If the archive is broken.
pub fn prepare(archive: &Bytes, has_backend: bool) -> io::Result<Bytes> {
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
    if has_backend {
        let mut header = tar::Header::new_gnu();
        header.set_size(LOCAL.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, OVERRIDE, LOCAL)?;
    }
    Ok(builder.into_inner()?.into())
}
