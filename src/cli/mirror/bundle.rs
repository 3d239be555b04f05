//! `outpost mirror bundle` and `outpost mirror sign`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Place,
    key::{Passphrase, read_secret},
    work,
};
use crate::{
    cli::output::{Output, facts, note},
    mirror::{
        Digest, Store,
        bundle::{self, BundleError, Head, Reader, Receipt, Records, Step, Wanted, Watch},
        keys::KeyId,
    },
    stop::Stop,
};

/// Write what the mirror has into one signed file, for a site without a network
///
/// The same mirror and the same keys give the same file. With --since it has only what the site lacks.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Bundle {
    #[command(flatten)]
    place: Place,
    /// The file to write, or `-` for stdout
    #[arg(long = "out", short, value_name = "FILE")]
    out: PathBuf,
    /// Key that signs, any number of times
    #[arg(
        long,
        value_name = "FILE",
        required = true,
        env = "OUTPOST_MIRROR_KEY",
        value_delimiter = ','
    )]
    key: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Leave out what a site has: its receipt, a bundle that it took, or the number of a generation
    #[arg(long, value_name = "WHAT")]
    since: Option<PathBuf>,
    /// Number of the generation to write, if not the current one
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
    /// Whose bundles follow each other
    #[arg(long, value_name = "NAME", default_value = "main")]
    channel: String,
    /// Place among the bundles of the channel; a site takes no lower one than it had [default: the generation's number]
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// When sites must not take it any more, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
}

/// Sign a bundle that somebody else made, as a second person
///
/// Look at it first: `outpost mirror inspect` and `outpost mirror diff`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Sign {
    /// The bundle
    bundle: PathBuf,
    /// The file to write
    #[arg(long = "out", short, value_name = "FILE")]
    out: PathBuf,
    /// Key that signs
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_KEY")]
    key: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

#[derive(Serialize)]
struct Written {
    bundle: Digest,
    channel: String,
    sequence: u64,
    generation: Option<u64>,
    signers: Vec<KeyId>,
    files: usize,
    bytes: u64,
    omitted: usize,
}

impl Bundle {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let store = Store::existing(&self.place.dir()?)?;
        let number = match self.generation {
            Some(number) => number,
            None => store.newest()?.0,
        };
        // Held until the file is written, so that nobody collects what belongs to it.
        let lease = store.lease(number)?;
        let generation = store.generation(number)?;
        let wanted = Wanted {
            channel: self.channel.clone(),
            sequence: self.sequence.unwrap_or(number),
            created: store.made(number)?,
            expires: self.expires,
            revoked: Records::of(&store)?.revoked,
            there: self.there(&store)?,
        };
        let manifest = bundle::plan(&store, generation, wanted)?;
        let mut head = manifest.head()?;
        for path in &self.key {
            let (key, line) = read_secret(path, &self.passphrase)?;
            head.sign(&key, line);
        }
        let written = summary(&head, Some(number))?;
        let out = self.out.clone();
        work::run(&stop, move |watch| {
            let _lease = lease;
            (watch.hear)(Step::Begun(manifest.bytes()));
            to_file(&out, |out| bundle::write(&store, &head, watch, out))
        })
        .await?;
        print(output, &self.out, &written)
    }

    /// What the site has.
    fn there(&self, store: &Store) -> anyhow::Result<BTreeSet<Digest>> {
        let Some(since) = &self.since else {
            return Ok(BTreeSet::new());
        };
        if let Some(number) = since.to_str().and_then(|text| text.parse().ok()) {
            return Ok(store.generation(number)?.digests());
        }
        if let Ok(head) = Reader::new(open(since)?).head() {
            return Ok(head.unverified()?.generation.digests());
        }
        let receipt = Receipt::read(since);
        Ok(receipt
            .context("--since names neither a receipt nor a bundle nor a generation")?
            .have)
    }
}

impl Sign {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let (key, line) = read_secret(&self.key, &self.passphrase)?;
        let mut reader = Reader::new(open(&self.bundle)?);
        let mut head = reader.head()?;
        head.signers()?;
        head.sign(&key, line);
        let written = summary(&head, None)?;
        let (out, bytes) = (self.out.clone(), written.bytes);
        work::run(&stop, move |watch: Watch<'_>| {
            (watch.hear)(Step::Begun(bytes));
            to_file(&out, |out| bundle::rewrite(reader, &head, watch, out))
        })
        .await?;
        print(output, &self.out, &written)
    }
}

fn summary(head: &Head, generation: Option<u64>) -> anyhow::Result<Written> {
    let manifest = head.unverified()?;
    Ok(Written {
        bundle: head.id(),
        channel: manifest.channel.clone(),
        sequence: manifest.sequence,
        generation,
        signers: head.signers()?,
        files: manifest.blobs.len(),
        bytes: manifest.bytes(),
        omitted: manifest.omitted.len(),
    })
}

fn print(output: Output, out: &Path, written: &Written) -> anyhow::Result<()> {
    let human = |written: &Written| {
        let signers: Vec<_> = written.signers.iter().map(KeyId::to_string).collect();
        facts(&[
            ("Bundle", written.bundle.to_string()),
            (
                "Channel",
                format!("{}, number {}", written.channel, written.sequence),
            ),
            ("Signed by", signers.join(", ")),
            (
                "Files",
                format!("{} ({} bytes)", written.files, written.bytes),
            ),
            (
                "Left out",
                format!("{} files that the site has", written.omitted),
            ),
        ])
    };
    match is_stdout(out) {
        true => note(&human(written)), // stdout has the bundle.
        false => output.item(written, human)?,
    }
    Ok(())
}

pub(super) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("failed to open `{}`", path.display()))
}

/// Writes a file that is there in full or not at all, or stdout.
fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    if is_stdout(path) {
        let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
        return write(&mut out);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(BundleError::Write)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(BundleError::Write)?;
    file.persist(path)
        .map_err(|error| BundleError::Write(error.error))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(BundleError::Write)
}
