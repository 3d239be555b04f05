//! Reads a bundle from its beginning to its end, once.

use std::io::{ErrorKind, Read};

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    BundleError, Head, MAX_MANIFEST_BYTES, Watch,
    head::{MANIFEST, MAX_SIGNERS, Signer, blob_name, key_name, rotations_name, signature_name},
    tar_header::{self, BLOCK},
};
use crate::{
    Digest,
    keys::{self, KeyError, PublicKey, Rotation, Signature},
};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Name of the last part in errors.
const END: &str = "the end";

/// A bundle that is being read, without reading ahead beyond its end.
pub struct Reader<R> {
    input: R,
    /// Header after the last part, which marked its end.
    ahead: Option<[u8; BLOCK]>,
    piece: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Begins to read a bundle.
    pub fn new(input: R) -> Self {
        Self {
            input,
            ahead: None,
            piece: vec![0; PIECE_BYTES],
        }
    }

    /// Reads the parts before the first file, without deciding about trust. Nothing of it is believed yet.
    ///
    /// # Errors
    /// [`BundleError::Entry`] and [`BundleError::Key`] name the part that is wrong.
    pub fn head(&mut self) -> Result<Head, BundleError> {
        let manifest = self.text(MANIFEST, MAX_MANIFEST_BYTES)?;
        let mut signers: Vec<Signer> = Vec::new();
        loop {
            let last = signers.last().map(|last| signature_name(last.key.id));
            let behind = format!("the part behind {}", last.as_deref().unwrap_or(MANIFEST));
            let block = self.block(&behind)?;
            let next = tar_header::parse(&block);
            if next.is_none() && block != [0; BLOCK] {
                return Err(refused(&behind, "has a modified header"));
            }
            let Some((name, size)) = next.filter(|(name, _)| name.starts_with("keys/")) else {
                self.ahead = Some(block);
                return Ok(Head { manifest, signers });
            };
            if signers.len() == MAX_SIGNERS {
                return Err(refused(
                    &name,
                    format!("exceeds the limit of {MAX_SIGNERS} keys"),
                ));
            }
            let signer = self.signer(&name, size)?;
            if signers
                .last()
                .is_some_and(|last| last.key.id >= signer.key.id)
            {
                return Err(refused(&name, "is not in order"));
            }
            signers.push(signer);
        }
    }

    /// Reads a signer, whose key's header was read: the key with its earlier keys and its signature.
    fn signer(&mut self, name: &str, size: u64) -> Result<Signer, BundleError> {
        let text = as_text(name, self.content(name, size, keys::MAX_BYTES)?)?;
        let key = PublicKey::from_file(&text)
            .ok()
            .filter(|key| key.to_file() == text);
        let key = key.filter(|key| key_name(key.id) == name);
        let key = key.ok_or_else(|| refused(name, "is not the key with that name"))?;
        let name = rotations_name(key.id);
        let text = as_text(&name, self.text(&name, keys::MAX_BYTES)?)?;
        let rotations = Rotation::from_file(&text).map_err(|error| unusable(&name, error))?;
        let name = signature_name(key.id);
        let text = as_text(&name, self.text(&name, keys::MAX_BYTES)?)?;
        let signature = Signature::from_file(&text).map_err(|error| unusable(&name, error))?;
        Ok(Signer {
            key,
            rotations,
            signature,
        })
    }

    /// Reads the next file, which must be this one, and passes each piece to `take`.
    ///
    /// # Errors
    /// [`BundleError::Entry`] if it is another one, or damaged; the bytes that `take` received must not be used then.
    pub fn blob(
        &mut self,
        digest: Digest,
        size: u64,
        watch: Watch<'_>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), BundleError>,
    ) -> Result<(), BundleError> {
        let name = blob_name(digest);
        self.expect(&name, size)?;
        let (mut left, mut context) = (size, Context::new(&SHA256));
        while left > 0 {
            let piece = &mut self.piece[..left.min(PIECE_BYTES as u64) as usize];
            fill(&mut self.input, piece, &name)?;
            context.update(piece);
            take(piece)?;
            left -= piece.len() as u64;
            watch.advance(piece.len())?;
        }
        if Digest::finish(context) != digest {
            return Err(refused(
                &name,
                "is damaged: its digest does not match its name",
            ));
        }
        self.pad(&name, size)
    }

    /// Reads the end of the bundle, and checks that nothing follows it.
    ///
    /// # Errors
    /// [`BundleError::Entry`].
    pub fn end(mut self) -> Result<(), BundleError> {
        for _ in 0..2 {
            if self.block(END)? != [0; BLOCK] {
                return Err(refused(
                    END,
                    "is not where it must be: the bundle has more than what was signed",
                ));
            }
        }
        let mut more = [0];
        match self.input.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(refused(END, "has something after it")),
            Err(source) => Err(BundleError::Read {
                entry: END.to_owned(),
                source,
            }),
        }
    }

    /// Reads a part into memory.
    fn text(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
        let block = self.block(name)?;
        let (_, size) = tar_header::parse(&block)
            .filter(|(found, _)| found == name)
            .ok_or_else(|| refused(name, "is not where it must be, or its header was modified"))?;
        self.content(name, size, limit)
    }

    fn content(&mut self, name: &str, size: u64, limit: u64) -> Result<Vec<u8>, BundleError> {
        if size > limit {
            return Err(refused(
                name,
                format!("has {size} bytes, more than {limit}"),
            ));
        }
        // Memory grows with the bytes that arrive, not with the size that the header claims.
        let mut content = Vec::new();
        let read = (&mut self.input).take(size).read_to_end(&mut content);
        read.map_err(|source| BundleError::Read {
            entry: name.to_owned(),
            source,
        })?;
        if content.len() as u64 != size {
            return Err(ended(name));
        }
        self.pad(name, size)?;
        Ok(content)
    }

    fn expect(&mut self, name: &str, size: u64) -> Result<(), BundleError> {
        match self.block(name)? == tar_header::header(name, size) {
            true => Ok(()),
            false => Err(refused(
                name,
                "is not where the manifest says, or its header was modified",
            )),
        }
    }

    fn pad(&mut self, name: &str, size: u64) -> Result<(), BundleError> {
        let mut padding = [0; BLOCK];
        let padding = &mut padding[..tar_header::padding(size)];
        fill(&mut self.input, padding, name)?;
        match padding.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(refused(name, "has something after it")),
        }
    }

    fn block(&mut self, name: &str) -> Result<[u8; BLOCK], BundleError> {
        if let Some(block) = self.ahead.take() {
            return Ok(block);
        }
        let mut block = [0; BLOCK];
        fill(&mut self.input, &mut block, name)?;
        Ok(block)
    }
}

fn fill(input: &mut impl Read, piece: &mut [u8], name: &str) -> Result<(), BundleError> {
    input
        .read_exact(piece)
        .map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => ended(name),
            _ => BundleError::Read {
                entry: name.to_owned(),
                source,
            },
        })
}

fn as_text(name: &str, content: Vec<u8>) -> Result<String, BundleError> {
    String::from_utf8(content).map_err(|_| refused(name, "is no text"))
}

fn unusable(name: &str, source: KeyError) -> BundleError {
    BundleError::Key {
        entry: name.to_owned(),
        source,
    }
}

fn ended(name: &str) -> BundleError {
    refused(name, "is incomplete: the bundle ends before it")
}

pub(super) fn refused(entry: &str, why: impl Into<String>) -> BundleError {
    BundleError::Entry {
        entry: entry.to_owned(),
        why: why.into(),
    }
}
