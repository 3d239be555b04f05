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
    signing::sign,
    source::{Identity, is_pipe, open},
    work,
};
use crate::{
    cli::{
        exit::{Hint as _, UsageError},
        output::{Output, facts, note},
        values,
    },
    files,
    mirror::{
        Digest, Store,
        bundle::{
            self, BundleError, Head, MIN_VOLUME_BYTES, Reader, Receipt, Records, Step,
            VolumeWriter, Wanted, Watch,
        },
        keys::KeyId,
    },
    stop::Stop,
};

/// Write the mirror's contents into one signed file, for an air-gapped site
///
/// The same mirror and the same keys give the same file. With --since it contains only what the site lacks.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Bundle {
    #[command(flatten)]
    place: Place,
    /// File to write, or `-` for stdout
    #[arg(long = "out", short, value_name = "FILE")]
    out: PathBuf,
    /// File of a signing key; repeatable
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
    /// Leave out what a site already has: its receipt, a bundle that it imported, or the number of a generation
    #[arg(long, value_name = "WHAT")]
    since: Option<PathBuf>,
    /// Number of the generation to write, if not the current one
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
    /// Channel: the sequence that this bundle belongs to
    #[arg(long, value_name = "NAME", default_value = "main")]
    channel: String,
    /// Number in the channel; a site refuses a lower one than it has [default: the generation's number]
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// Time from which sites refuse the bundle, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
    /// Write volumes FILE.001, FILE.002 and so on of at most this size, such as 4700MB or 25GB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    split: Option<u64>,
    /// Write only this volume again
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "split",
        conflicts_with = "encrypt"
    )]
    volume: Option<u32>,
    /// Encrypt for this age recipient (`age1…`); repeatable
    #[arg(long, value_name = "RECIPIENT")]
    encrypt: Vec<String>,
    /// Also write a list of the bundle's components as CycloneDX JSON
    ///
    /// Each has a package URL, and packages their licences: SPDX's name where a text is exactly that of a licence, else the
    /// file's name and digest. Engines and providers depend on the Go modules that they were built from.
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,
}

/// Add a second person's signature to a bundle
///
/// Review it first with `outpost mirror inspect` and `outpost mirror diff`. A bundle that is split into volumes stays
/// split, with volumes of the same size. An encrypted bundle does not record its recipients: name them again with
/// --encrypt, or write it unencrypted with --decrypt.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Sign {
    /// Path of the bundle
    bundle: PathBuf,
    /// File for the result
    #[arg(long = "out", short, value_name = "FILE")]
    out: PathBuf,
    /// File of the signing key
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_KEY")]
    key: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
    #[command(flatten)]
    identity: Identity,
    /// Encrypt for this age recipient (`age1…`); repeatable
    #[arg(long, value_name = "RECIPIENT")]
    encrypt: Vec<String>,
    /// Write an encrypted bundle unencrypted
    #[arg(long, conflicts_with = "encrypt")]
    decrypt: bool,
    /// Write volumes of at most this size, such as 4700MB or 25GB [default: the same size as before]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    split: Option<u64>,
    #[command(flatten)]
    place: Place,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<u32>,
}

impl Bundle {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        if let Some(expires) = self.expires.filter(|time| *time <= Timestamp::now()) {
            let text =
                format!("`--expires {expires}` is in the past: every site would refuse the bundle");
            return Err(UsageError(text).into());
        }
        let store = Store::existing(&self.place.dir()?)?;
        let number = match self.generation {
            Some(number) => number,
            None => store.newest()?.0,
        };
        // Held until the file is written, so that its content is not garbage-collected.
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
        let mut keys = Vec::new();
        for path in &self.key {
            let (key, line) = read_secret(path, &self.passphrase)?;
            head.sign_unless(&manifest.revoked, &key, line)?;
            keys.push(key);
        }
        let mut written = summary(&head, Some(number))?;
        if let Some(path) = &self.sbom {
            let (of_thread, generation) = (store.clone(), manifest.generation.clone());
            let look = move |watch: Watch<'_>| {
                let inside = bundle::look_inside(&of_thread, &generation, watch)?;
                Ok(bundle::sbom(&generation, &inside))
            };
            let text = serde_json::to_vec_pretty(&work::run(&stop, look).await?)?;
            whole_file(path, |out| out.write_all(&text))
                .with_context(|| format!("failed to write `{}`", path.display()))?;
        }
        let target = Target {
            out: self.out.clone(),
            split: self.split,
            volume: self.volume,
            bundle: volumes_id(&head, &self.encrypt)?,
            recipients: self.encrypt.clone(),
        };
        let of_thread = store.clone();
        written.volumes = work::run(&stop, move |watch| {
            let _lease = lease;
            (watch.hear)(Step::Begun(manifest.bytes()));
            target.write(|out| bundle::write(&of_thread, &head, watch, out))
        })
        .await?;
        if let Err(error) = sign(&store, number, keys, &stop).await {
            // The bundle is usable all the same.
            note(&format!(
                "generation {number} of the mirror itself is not signed: {error:#}"
            ));
        }
        print(output, &self.out, &written)
    }

    /// Returns the content that the site already has.
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
            .context("--since is neither a receipt, a bundle nor a generation")?
            .have)
    }
}

impl Sign {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let (key, line) = read_secret(&self.key, &self.passphrase)?;
        let (input, form) = self.identity.open_with_form(&self.bundle)?;
        if form.is_encrypted && self.encrypt.is_empty() && !self.decrypt {
            let text = "the bundle is encrypted, and its recipients are not recorded in it";
            return Err(UsageError(text.to_owned()))
                .hint("name its recipients again with --encrypt age1…, or write it in clear with --decrypt");
        }
        let mut reader = Reader::new(input);
        let mut head = reader.head()?;
        head.signers()?;
        // A key can also sign on a machine without a mirror.
        let revoked = match Store::existing(&self.place.dir()?) {
            Ok(store) => Records::of(&store)?.revoked,
            Err(_) => BTreeSet::new(),
        };
        head.sign_unless(&revoked, &key, line)?;
        head.unverified()?.check_time(Timestamp::now())?;
        let mut written = summary(&head, None)?;
        let bytes = written.bytes;
        let target = Target {
            out: self.out.clone(),
            split: self
                .split
                .or(form.volume_bytes.filter(|_| !is_pipe(&self.out))),
            volume: None,
            bundle: volumes_id(&head, &self.encrypt)?,
            recipients: self.encrypt.clone(),
        };
        written.volumes = work::run(&stop, move |watch: Watch<'_>| {
            (watch.hear)(Step::Begun(bytes));
            target.write(|out| bundle::rewrite(reader, &head, watch, out))
        })
        .await?;
        print(output, &self.out, &written)
    }
}

/// Id that volumes of the same bundle have in common. Each encryption has its own, because volumes of two do not fit
/// together.
fn volumes_id(head: &Head, recipients: &[String]) -> anyhow::Result<Digest> {
    if recipients.is_empty() {
        return Ok(head.id());
    }
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).context("the system's random number generator failed")?;
    Ok(Digest::of(&random))
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
        volumes: None,
    })
}

fn print(output: Output, out: &Path, written: &Written) -> anyhow::Result<()> {
    let human = |written: &Written| {
        let signers: Vec<_> = written.signers.iter().map(KeyId::to_string).collect();
        let mut pairs = vec![
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
        ];
        if let Some(volumes) = written.volumes {
            pairs.push(("Volumes", volumes.to_string()));
        }
        facts(&pairs)
    };
    match is_pipe(out) {
        true => note(&human(written)), // stdout has the bundle.
        false => output.item(written, human)?,
    }
    Ok(())
}

/// Destination of a bundle, and its form.
struct Target {
    out: PathBuf,
    split: Option<u64>,
    volume: Option<u32>,
    recipients: Vec<String>,
    bundle: Digest,
}

impl Target {
    /// Writes the bundle, and returns the number of volumes if it is split.
    fn write(
        self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), BundleError>,
    ) -> Result<Option<u32>, BundleError> {
        let recipients = self.recipients;
        let write = |out: &mut dyn Write| -> Result<(), BundleError> {
            if recipients.is_empty() {
                return write(out);
            }
            let mut sealed = bundle::encrypted(&recipients, out)?;
            write(&mut sealed)?;
            sealed.finish().map_err(BundleError::Write).map(drop)
        };
        if let Some(bytes) = self.split {
            let mut volumes = VolumeWriter::new(&self.out, bytes, self.volume, self.bundle);
            write(&mut volumes)?;
            return volumes.finish().map(Some).map_err(BundleError::Write);
        }
        if is_pipe(&self.out) {
            write(&mut BufWriter::with_capacity(1 << 20, io::stdout().lock()))?;
            return Ok(None);
        }
        let mut failed = None;
        let written = whole_file(&self.out, |out| {
            write(out).map_err(|error| {
                failed = Some(error);
                io::Error::other("the bundle was not written")
            })
        });
        match (failed, written) {
            (Some(error), _) => Err(error),
            (None, written) => written.map(|()| None).map_err(BundleError::Write),
        }
    }
}

/// Writes a file that either exists in full or not at all.
fn whole_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let dir = files::directory_of(path);
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

/// Parses the size of a volume.
fn size(text: &str) -> Result<u64, String> {
    match values::bytes(text)? {
        bytes if bytes < MIN_VOLUME_BYTES => Err(format!(
            "a volume must have at least {MIN_VOLUME_BYTES} bytes"
        )),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_of_a_thousand() {
        assert_eq!(size("4700MB"), Ok(4_700_000_000));
        assert_eq!(size("25G"), Ok(25_000_000_000));
        assert_eq!(size("2000000"), Ok(2_000_000));
        assert_eq!(size("5TB"), Ok(5_000_000_000_000));
        for wrong in [
            "",
            "GB",
            "1",
            "5PB",
            "99999999999999999999",
            "18446744073709551615GB",
        ] {
            size(wrong).unwrap_err();
        }
    }
}
