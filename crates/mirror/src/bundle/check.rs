//! Verifies a bundle in a file, with all processors: the manifest determines the position of each part.

use std::{
    fs::File,
    io::{self, Seek as _},
    os::unix::fs::FileExt as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use aws_lc_rs::digest::{Context, SHA256};
use outpost_files::mapped::Mapped;

use super::{
    Blob, BundleError, Head, Manifest, Reader, Step, Watch,
    head::blob_name,
    read::refused,
    tar_header::{self, BLOCK},
};
use crate::Digest;

/// Bytes of the mapped file that are requested at a time: many, because each request is a system call.
const WINDOW_BYTES: u64 = 1 << 20;
/// Bytes that are read at a time where mapping is not possible. Few, so that they are hashed while they are in the
/// processor's cache.
const PIECE_BYTES: usize = 64 * 1024;

/// Verifies all files of a bundle against its manifest; `verify` decides whether to trust the manifest.
///
/// # Errors
/// The first invalid part, in the bundle's order.
pub fn check_file(
    file: &File,
    verify: impl FnOnce(&Head) -> Result<Manifest, BundleError>,
    watch: Watch<'_>,
) -> Result<Manifest, BundleError> {
    let mut reader = file;
    reader
        .rewind()
        .map_err(|e| unreadable("the beginning", e))?;
    let head = Reader::new(reader).head()?;
    let manifest = verify(&head)?;
    let mut at: u64 = head
        .parts()
        .iter()
        .map(|(_, text)| tar_header::room(text.len() as u64))
        .sum();
    let mut work = Vec::new();
    for (digest, blob) in &manifest.blobs {
        work.push((at, *digest, *blob));
        at = at.saturating_add(tar_header::room(blob.size));
    }
    (watch.hear)(Step::Begun(manifest.bytes()));
    // The largest files first, so that no processor has to wait long for another one.
    work.sort_by_key(|(at, _, blob)| (std::cmp::Reverse(blob.size), *at));
    let (next, worst) = (AtomicUsize::new(0), Mutex::new(None::<(u64, BundleError)>));
    let run = || {
        let mut piece = vec![0; PIECE_BYTES];
        while let Some((at, digest, blob)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Err(error) = check_blob(file, *at, *digest, *blob, &mut piece, watch) else {
                continue;
            };
            // Several threads may find damage; the first part of the file is reported, so that the error is always
            // the same.
            let mut worst = worst.lock().unwrap_or_else(PoisonError::into_inner);
            if worst.as_ref().is_none_or(|(other, _)| at < other) {
                *worst = Some((*at, error));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(work.len()));
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    if let Some((_, error)) = worst.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    check_end(file, at)?;
    Ok(manifest)
}

/// Does the same for a bundle that can only be read from its beginning to its end.
///
/// # Errors
/// The first invalid part.
pub fn check(
    input: impl io::Read,
    verify: impl FnOnce(&Head) -> Result<Manifest, BundleError>,
    watch: Watch<'_>,
) -> Result<Manifest, BundleError> {
    let mut reader = Reader::new(input);
    let manifest = verify(&reader.head()?)?;
    (watch.hear)(Step::Begun(manifest.bytes()));
    for (digest, blob) in &manifest.blobs {
        reader.blob(*digest, blob.size, watch, &mut |_| Ok(()))?;
    }
    reader.end()?;
    Ok(manifest)
}

fn check_blob(
    file: &File,
    at: u64,
    digest: Digest,
    blob: Blob,
    piece: &mut [u8],
    watch: Watch<'_>,
) -> Result<(), BundleError> {
    let name = blob_name(digest);
    let read = |bytes: &mut [u8], at| {
        file.read_exact_at(bytes, at)
            .map_err(|e| unreadable(&name, e))
    };
    let mut block = [0; BLOCK];
    read(&mut block, at)?;
    if block != tar_header::header(&name, blob.size) {
        let why = "is not where the manifest says, or its header was modified";
        return Err(refused(&name, why));
    }
    let (mut context, begin) = (Context::new(&SHA256), at + BLOCK as u64);
    let mapped = Mapped::of(file, begin, blob.size);
    let mut done = 0;
    while done < blob.size {
        let length = (blob.size - done).min(WINDOW_BYTES) as usize;
        let shown = mapped.as_ref().and_then(|it| it.look_at(done, length));
        if let Some(bytes) = shown {
            context.update(bytes);
        } else {
            for from in (0..length).step_by(PIECE_BYTES) {
                let piece = &mut piece[..(length - from).min(PIECE_BYTES)];
                read(piece, begin + done + from as u64)?;
                context.update(piece);
            }
        }
        done += length as u64;
        watch.advance(length)?;
    }
    if Digest::finish(context) != digest {
        return Err(refused(
            &name,
            "is damaged: its digest does not match its name",
        ));
    }
    let padding = &mut block[..tar_header::padding(blob.size)];
    read(padding, begin + blob.size)?;
    // No digest covers the padding. It must be zero, or a bundle could carry bytes that nobody signed.
    match padding.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(refused(&name, "has something after it")),
    }
}

fn check_end(file: &File, at: u64) -> Result<(), BundleError> {
    const END: &str = "the end";
    let mut blocks = [1; 2 * BLOCK];
    file.read_exact_at(&mut blocks, at)
        .map_err(|e| unreadable(END, e))?;
    let length = file.metadata().map_err(|e| unreadable(END, e))?.len();
    match blocks.iter().all(|byte| *byte == 0) && length == at + blocks.len() as u64 {
        true => Ok(()),
        false => Err(refused(END, "has something after it, or was modified")),
    }
}

fn unreadable(name: &str, source: io::Error) -> BundleError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => refused(name, "is incomplete: the bundle ends before it"),
        _ => BundleError::Read {
            entry: name.to_owned(),
            source,
        },
    }
}
