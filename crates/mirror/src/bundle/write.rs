//! Writes a bundle. The same store and the same keys give the same bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write},
};

use aws_lc_rs::digest::{Context, SHA256};
use jiff::Timestamp;

use super::{
    Blob, BundleError, Head, Manifest, Watch,
    head::{MANIFEST, blob_name},
    manifest::{Format, is_channel},
    read::refused,
    tar_header::{self, BLOCK},
};
use crate::{Digest, Generation, Store, StoreError, keys::KeyId};

/// Properties of the bundle to write.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Sequence of bundles that this one belongs to.
    pub channel: String,
    /// Number in the channel.
    pub sequence: u64,
    /// Time at which the generation was made.
    pub created: Timestamp,
    /// Time after which a site must not import the bundle.
    pub expires: Option<Timestamp>,
    /// Keys that sites must no longer trust.
    pub revoked: BTreeSet<KeyId>,
    /// Files that the site already has.
    pub there: BTreeSet<Digest>,
}

/// Returns the manifest of a generation's bundle.
///
/// # Errors
/// [`BundleError::Missing`] if a file is not in the store, and [`BundleError::Entry`] if `wanted` is not valid.
pub fn plan(
    store: &Store,
    generation: Generation,
    wanted: Wanted,
) -> Result<Manifest, BundleError> {
    if !is_channel(&wanted.channel) {
        let why = "has an invalid channel name: use 1 to 64 letters, digits, `.`, `-` or `_`";
        return Err(refused(MANIFEST, why));
    }
    let (omitted, needed): (BTreeSet<_>, BTreeSet<_>) = generation
        .digests()
        .into_iter()
        .partition(|digest| wanted.there.contains(digest));
    let missing: Vec<_> = needed.iter().copied().filter(|d| !store.has(*d)).collect();
    if !missing.is_empty() {
        let missing = generation.named(missing);
        return Err(BundleError::Missing { missing });
    }
    let mut blobs = BTreeMap::new();
    for digest in needed {
        let path = store.path(digest);
        let size = store.open_blob(digest)?.metadata();
        let size = size.map_err(StoreError::io("read", &path))?.len();
        blobs.insert(digest, Blob { size });
    }
    Ok(Manifest {
        format: Format::One,
        channel: wanted.channel,
        sequence: wanted.sequence,
        created: wanted.created,
        expires: wanted.expires,
        revoked: wanted.revoked,
        producer: format!("outpost {}", env!("CARGO_PKG_VERSION")),
        generation,
        blobs,
        omitted,
    })
}

impl Manifest {
    /// Returns the manifest as the head of a bundle without signatures.
    ///
    /// # Errors
    /// [`BundleError::Entry`] if no site would accept it.
    pub fn head(&self) -> Result<Head, BundleError> {
        let unreadable = |why: String| refused(MANIFEST, why);
        let manifest = self
            .to_text()
            .map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&manifest).map_err(unreadable)?;
        let signers = Vec::new();
        Ok(Head { manifest, signers })
    }
}

/// Writes a bundle: the signed head, then the files.
///
/// # Errors
/// [`BundleError::Entry`] names a damaged file of the store; what was written must not be used then.
pub fn write(
    store: &Store,
    head: &Head,
    watch: Watch<'_>,
    out: &mut dyn Write,
) -> Result<(), BundleError> {
    let manifest = head.unverified()?;
    write_head(head, out)?;
    let mut piece = vec![0; 256 * 1024];
    for (digest, blob) in &manifest.blobs {
        let (name, path) = (blob_name(*digest), store.path(*digest));
        let mut file = store.open_blob(*digest)?;
        out.write_all(&tar_header::header(&name, blob.size))
            .map_err(BundleError::Write)?;
        let (mut context, mut left) = (Context::new(&SHA256), blob.size);
        while left > 0 {
            let most = left.min(piece.len() as u64) as usize;
            let count = file
                .read(&mut piece[..most])
                .map_err(StoreError::io("read", &path))?;
            if count == 0 {
                break;
            }
            context.update(&piece[..count]);
            out.write_all(&piece[..count]).map_err(BundleError::Write)?;
            left -= count as u64;
            watch.advance(count)?;
        }
        if left > 0 || Digest::finish(context) != *digest {
            return Err(refused(
                &name,
                "is damaged in this mirror: run `outpost mirror verify`",
            ));
        }
        pad(out, blob.size)?;
    }
    out.write_all(&[0; 2 * BLOCK])
        .and_then(|()| out.flush())
        .map_err(BundleError::Write)
}

/// Copies a bundle with another head over the same manifest, as an additional signature requires.
///
/// # Errors
/// Those of [`write()`] and [`Reader`](super::Reader).
pub fn rewrite<R: std::io::Read>(
    mut from: super::Reader<R>,
    head: &Head,
    watch: Watch<'_>,
    out: &mut dyn Write,
) -> Result<(), BundleError> {
    let manifest = head.unverified()?;
    write_head(head, out)?;
    for (digest, blob) in &manifest.blobs {
        let header = tar_header::header(&blob_name(*digest), blob.size);
        out.write_all(&header).map_err(BundleError::Write)?;
        let mut take = |piece: &[u8]| out.write_all(piece).map_err(BundleError::Write);
        from.blob(*digest, blob.size, watch, &mut take)?;
        pad(out, blob.size)?;
    }
    from.end()?;
    out.write_all(&[0; 2 * BLOCK])
        .and_then(|()| out.flush())
        .map_err(BundleError::Write)
}

/// Writes the head with its signatures.
pub(super) fn write_head(head: &Head, out: &mut dyn Write) -> Result<(), BundleError> {
    for (name, content) in head.parts() {
        let size = content.len() as u64;
        let written = out.write_all(&tar_header::header(&name, size));
        written
            .and_then(|()| out.write_all(&content))
            .map_err(BundleError::Write)?;
        pad(out, size)?;
    }
    Ok(())
}

fn pad(out: &mut dyn Write, size: u64) -> Result<(), BundleError> {
    out.write_all(&[0; BLOCK][..tar_header::padding(size)])
        .map_err(BundleError::Write)
}
