//! `outpost mirror inspect` and `outpost mirror diff`.

use std::path::PathBuf;

use serde::Serialize;

use super::{Place, source::Identity};
use crate::{
    cli::output::{Output, Row, facts, note, table},
    mirror::{
        Digest, Generation, Store,
        bundle::{self, Change, Difference, Reader},
        keys::KeyId,
    },
};

/// Show the contents of a bundle or a generation
///
/// This does not verify a bundle or read its files: use `outpost mirror verify` for that.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Inspect {
    /// A bundle, or the number of a generation [default: the current generation]
    what: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    identity: Identity,
}

/// Show the differences between two bundles or generations
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Diff {
    /// A bundle, or the number of a generation
    old: PathBuf,
    /// A bundle, or the number of a generation
    new: PathBuf,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    identity: Identity,
}

/// Facts about a bundle besides its content.
#[derive(Serialize)]
struct About {
    bundle: Digest,
    channel: String,
    sequence: u64,
    created: jiff::Timestamp,
    expires: Option<jiff::Timestamp>,
    producer: String,
    /// Keys whose signatures are valid; whether they are trusted is for each site to decide.
    signers: Vec<KeyId>,
    revoked: Vec<KeyId>,
    files: usize,
    bytes: u64,
    omitted: usize,
}

#[derive(Serialize)]
struct Inspected {
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<About>,
    content: Vec<Difference>,
}

impl Row for Difference {
    const COLUMNS: &'static [&'static str] = &["", "Kind", "Name", "Version", "Platform", "Bytes"];

    fn cells(&self) -> Vec<String> {
        let change = match self.change {
            Change::Added => "+",
            Change::Changed => "!",
            Change::Removed => "-",
        };
        vec![
            change.to_owned(),
            self.kind.to_owned(),
            self.name.clone(),
            self.version.clone(),
            self.platform.clone(),
            self.size.to_string(),
        ]
    }
}

/// An item of a generation, compared with nothing.
#[derive(Serialize)]
struct Thing<'a>(&'a Difference);

impl Row for Thing<'_> {
    const COLUMNS: &'static [&'static str] = &["Kind", "Name", "Version", "Platform", "Bytes"];

    fn cells(&self) -> Vec<String> {
        self.0.cells().split_off(1)
    }
}

impl Inspect {
    pub(super) fn exec(self, output: Output) -> anyhow::Result<()> {
        let (generation, about) = read(self.what.as_deref(), &self.place, &self.identity)?;
        let inspected = Inspected {
            about,
            content: bundle::compare(&Generation::default(), &generation),
        };
        output.item(&inspected, |inspected| {
            let about = inspected.about.as_ref().map(human).unwrap_or_default();
            let things: Vec<_> = inspected.content.iter().map(Thing).collect();
            format!("{about}{}", table(&things))
        })?;
        Ok(())
    }
}

impl Diff {
    pub(super) fn exec(self, output: Output) -> anyhow::Result<()> {
        let (old, _) = read(Some(&self.old), &self.place, &self.identity)?;
        let (new, _) = read(Some(&self.new), &self.place, &self.identity)?;
        let differences = bundle::compare(&old, &new);
        output.list(&differences)?;
        let changed = differences
            .iter()
            .filter(|d| d.change == Change::Changed)
            .count();
        if changed > 0 {
            note(&format!(
                "{changed} of them have different content under the same name, which publishers do not do with releases"
            ));
        }
        Ok(())
    }
}

fn human(about: &About) -> String {
    let names = |keys: &[KeyId]| {
        keys.iter()
            .map(KeyId::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut pairs = vec![
        ("Bundle", about.bundle.to_string()),
        (
            "Channel",
            format!("{}, number {}", about.channel, about.sequence),
        ),
        ("Made", format!("{} by {}", about.created, about.producer)),
        ("Signed by", names(&about.signers)),
        ("Files", format!("{} ({} bytes)", about.files, about.bytes)),
        (
            "Left out",
            format!("{} files that the site must have", about.omitted),
        ),
    ];
    if let Some(expires) = about.expires {
        let name = match expires <= jiff::Timestamp::now() {
            true => "Expired",
            false => "Expires",
        };
        pairs.push((name, expires.to_string()));
    }
    if !about.revoked.is_empty() {
        pairs.push(("Revokes", names(&about.revoked)));
    }
    format!("{}\n", facts(&pairs))
}

/// Reads a generation, with facts about the bundle that contains it.
fn read(
    what: Option<&std::path::Path>,
    place: &Place,
    identity: &Identity,
) -> anyhow::Result<(Generation, Option<About>)> {
    let number = what.and_then(|what| what.to_str()?.parse::<u64>().ok());
    match (what, number) {
        (None, _) => Ok((Store::existing(&place.dir()?)?.newest()?.1, None)),
        (_, Some(number)) => Ok((Store::existing(&place.dir()?)?.generation(number)?, None)),
        (Some(path), None) => {
            let head = Reader::new(identity.open(path)?).head()?;
            let signers = head.signers()?;
            let manifest = head.unverified()?;
            let about = About {
                bundle: head.id(),
                channel: manifest.channel.clone(),
                sequence: manifest.sequence,
                created: manifest.created,
                expires: manifest.expires,
                producer: manifest.producer.clone(),
                signers,
                revoked: manifest.revoked.iter().copied().collect(),
                files: manifest.blobs.len(),
                bytes: manifest.bytes(),
                omitted: manifest.omitted.len(),
            };
            Ok((manifest.generation, Some(about)))
        }
    }
}
