//! `outpost mirror import`: unpacking bundles into a mirror.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

use super::{Place, key::read_public, source::Identity, work};
use crate::{
    cli::output::{Output, facts},
    files,
    mirror::{
        Digest, Store,
        bundle::{self, Guard, Imported, Records, Trust},
    },
    registry::Platform,
    stop::Stop,
};

/// Add a bundle to the mirror of an air-gapped site
///
/// The bundle is verified while it is read: first its signatures, then every file. Until all of it is there and valid,
/// the mirror serves what it had. The same command resumes an interrupted import.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Import {
    /// The bundle, or `-` for stdin; of several volumes any one, or their name without the number
    bundle: PathBuf,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    identity: Identity,
    /// Public key to trust, also for later bundles; repeatable
    #[arg(
        long,
        value_name = "FILE",
        env = "OUTPOST_MIRROR_TRUST",
        value_delimiter = ','
    )]
    trust: Vec<PathBuf>,
    /// Number of trusted keys that must have signed, also for later bundles
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=16))]
    threshold: Option<u8>,
    /// Accept a bundle that is older than the last imported one
    #[arg(long)]
    allow_rollback: bool,
    /// Also write the receipt for the next bundle to this file; it is always in the mirror's receipt.json
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

#[derive(Serialize)]
struct Summary {
    bundle: Digest,
    channel: String,
    sequence: u64,
    generation: u64,
    files: usize,
    new_files: usize,
    providers: usize,
    modules: usize,
    repositories: usize,
    tools: usize,
}

impl Import {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let store = Store::open(&self.place.dir()?)?;
        let input = self.identity.open(&self.bundle)?;
        let lock = store.lock(&stop).await?;
        let guard = Guard {
            trust: self.trust(&store)?,
            allow_rollback: self.allow_rollback,
            now: Timestamp::now(),
            platform: Platform::current(),
        };
        let of_mirror = store.dir().join("receipt.json");
        let imported = work::run(&stop, move |watch| {
            bundle::import(&store, &lock, input, &guard, watch)
        });
        let imported = imported.await?;
        let receipts = [Some(of_mirror.as_path()), self.receipt.as_deref()];
        for path in receipts.into_iter().flatten() {
            write_receipt(path, &imported)?;
        }
        print(output, &imported)
    }

    /// Returns the keys that this mirror trusted so far, and those that the options add.
    fn trust(&self, store: &Store) -> anyhow::Result<Trust> {
        let mut trust = Records::of(store)?.trust();
        for path in &self.trust {
            trust.keys.insert(read_public(path)?);
        }
        if let Some(threshold) = self.threshold {
            trust.threshold = threshold.into();
        }
        Ok(trust)
    }
}

fn write_receipt(path: &Path, imported: &Imported) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(&imported.receipt)?;
    let path = std::path::absolute(path)?;
    files::write_private(&path, &text)
        .with_context(|| format!("failed to write the receipt `{}`", path.display()))
}

fn print(output: Output, imported: &Imported) -> anyhow::Result<()> {
    let generation = &imported.manifest.generation;
    let summary = Summary {
        bundle: imported.receipt.bundle,
        channel: imported.manifest.channel.clone(),
        sequence: imported.manifest.sequence,
        generation: imported.generation,
        files: imported.manifest.blobs.len(),
        new_files: imported.fresh,
        providers: generation.providers.len(),
        modules: generation.modules.len(),
        repositories: generation.git.len(),
        tools: generation.tools.len(),
    };
    output.item(&summary, |summary| {
        facts(&[
            ("Bundle", summary.bundle.to_string()),
            (
                "Channel",
                format!("{}, number {}", summary.channel, summary.sequence),
            ),
            ("Generation", summary.generation.to_string()),
            (
                "Files",
                format!("{}, of which {} are new", summary.files, summary.new_files),
            ),
            (
                "Has",
                format!(
                    "{} versions of providers, {} of modules, {} repositories, {} tools",
                    summary.providers, summary.modules, summary.repositories, summary.tools
                ),
            ),
        ])
    })?;
    Ok(())
}
