//! How fast a bundle is verified, against the digest's own speed on all processors.
//!
//! Run it: cargo bench --bench bundle
//!
//! Both read the same amount: the digest from memory that stays in the processor's cache, the verification from a file
//! in the page cache, into which it came by being read once, as from a medium that somebody carried in.
//! `OUTPOST_BENCH_ROUNDS` sets the rounds (7), which alternate. Fails below 0.9.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures, and prints its figures"
)]

use std::{
    collections::BTreeSet,
    fs::File,
    hint::black_box,
    io::{self, BufReader, Seek as _},
    thread,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use aws_lc_rs::digest::{Context, SHA256};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use outpost::{
    mirror::{
        Generation, Store,
        bundle::{self, Head, Trust, Wanted, Watch},
        generation::StaticFile,
        keys::SecretKey,
    },
    stop::Stop,
};

/// Files of the bundle, and the length of each: providers are some ten to some hundred million bytes.
const FILES: u8 = 12;
const BYTES: usize = 48 << 20;

/// What has to be reached.
const LIMIT: f64 = 0.9;

fn main() -> anyhow::Result<()> {
    let rounds = match std::env::var("OUTPOST_BENCH_ROUNDS") {
        Ok(rounds) => rounds
            .parse()
            .context("OUTPOST_BENCH_ROUNDS is no number")?,
        Err(_) => 7,
    };
    let dir = tempfile::tempdir()?;
    let key = SecretKey::generate()?;
    let file = made(&Store::open(dir.path())?, &key)?;
    let trust = Trust {
        keys: [key.public()].into(),
        ..Trust::default()
    };
    let (mut of_digest, mut of_verify) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..=rounds {
        of_digest = of_digest.min(digest());
        of_verify = of_verify.min(verify(&file, &trust)?);
    }
    let megabytes = f64::from(FILES) * BYTES as f64 / 1e6;
    let ratio = of_digest / of_verify;
    println!(
        "digest {:.0} MB/s, verification {:.0} MB/s, ratio {ratio:.2}",
        megabytes / of_digest,
        megabytes / of_verify
    );
    ensure!(
        ratio >= LIMIT,
        "the verification is below {LIMIT} of the digest's own speed"
    );
    Ok(())
}

/// A bundle in a file.
fn made(store: &Store, key: &SecretKey) -> anyhow::Result<File> {
    let mut generation = Generation::default();
    for number in 0..FILES {
        let content = vec![number; BYTES];
        generation.files.push(StaticFile {
            url: format!("https://files.example/{number:02}"),
            content: store.put(&content)?,
            size: content.len() as u64,
        });
    }
    let wanted = Wanted {
        channel: "main".to_owned(),
        sequence: 1,
        created: "2026-01-01T00:00:00Z".parse()?,
        expires: None,
        revoked: BTreeSet::new(),
        there: BTreeSet::new(),
    };
    let mut head = bundle::plan(store, generation, wanted)?.head()?;
    head.sign(key, Vec::new());
    let mut file = tempfile::tempfile()?;
    bundle::write(store, &head, quiet(&Stop::new()), &mut file)?;
    // What was written lies in the page cache in smaller pieces than what was read.
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    file.rewind()?;
    io::copy(
        &mut BufReader::with_capacity(1 << 20, &file),
        &mut io::sink(),
    )?;
    Ok(file)
}

fn quiet(stop: &Stop) -> Watch<'_> {
    Watch {
        stop,
        hear: &|_| {},
    }
}

/// Seconds that the digest of as many bytes takes on all processors.
fn digest() -> f64 {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let pieces = usize::from(FILES) * BYTES / (64 << 10) / threads;
    let run = || {
        let (piece, mut context) = (vec![7; 64 << 10], Context::new(&SHA256));
        for _ in 0..pieces {
            context.update(black_box(&piece));
        }
        black_box(context.finish());
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(run);
        }
    });
    begun.elapsed().as_secs_f64()
}

/// Seconds that the verification of the bundle takes.
fn verify(file: &File, trust: &Trust) -> anyhow::Result<f64> {
    let stop = Stop::new();
    let begun = Instant::now();
    let verify = |head: &Head| Ok(head.verify(trust)?.manifest);
    bundle::check_file(file, verify, quiet(&stop))?;
    Ok(begun.elapsed().as_secs_f64())
}
