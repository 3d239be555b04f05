//! `outpost mirror verify`, `gc`, `prune` and `rollback`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Place,
    doctor::template,
    key::read_public,
    source::{Identity, open},
    work,
};
use crate::{
    cli::{
        exit::{ChecksFailed, Hint as _, UsageError},
        output::{Output, facts, note},
    },
    mirror::{
        Store, StoreError,
        bundle::{self, Head, Records, Trust},
        doctor,
        keys::KeyId,
        pulled::{Ledger, leave_out},
        sync::config::Engine,
        tend::{self, Collected, IndexState, Keep, Needed},
    },
    stop::Stop,
};

/// Verify everything in the mirror or in a bundle
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Verify {
    /// A bundle, instead of the mirror; its signers must be trusted
    bundle: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    identity: Identity,
    /// Also check the content of every package and its publisher's signature
    #[arg(long, conflicts_with = "bundle")]
    deep: bool,
    /// Move damaged files aside, so that the next sync or import replaces them
    #[arg(long, conflicts_with = "bundle")]
    repair: bool,
    /// Public key to trust in addition to those that the mirror trusts; repeatable
    ///
    /// With it the mirror's current generation must be signed by a trusted key.
    #[arg(
        long,
        value_name = "FILE",
        env = "OUTPOST_MIRROR_TRUST",
        value_delimiter = ','
    )]
    trust: Vec<PathBuf>,
}

/// Remove files that no generation needs
///
/// They are moved to `trash` below the mirror first, and deleted by a later run.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Gc {
    #[command(flatten)]
    place: Place,
    /// Keep files that are newer than this, or were moved aside more recently
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    grace: humantime::Duration,
    /// Only count, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// Make a generation with fewer versions, and remove old generations
///
/// Files stay until `outpost mirror gc`, and at least as long as a job uses them.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Prune {
    #[command(flatten)]
    place: Place,
    /// Number of generations to keep, including the current one
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    keep_generations: usize,
    /// Number of newest versions of each provider, module and tool to keep; if missing, all
    ///
    /// They are counted for each platform, and releases are kept before pre-releases.
    #[arg(long, value_name = "NUMBER")]
    keep_versions: Option<usize>,
    /// Also keep what these templates need: directories or tar archives
    #[arg(
        long,
        value_name = "TEMPLATE",
        num_args = 1..,
        requires = "keep_versions"
    )]
    templates: Vec<PathBuf>,
}

/// Make an earlier generation the current one
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Rollback {
    /// Number of the generation [default: the one before the current one]
    generation: Option<u64>,
    #[command(flatten)]
    place: Place,
}

#[derive(Serialize)]
struct RolledBack {
    from: u64,
    to: u64,
}

impl Verify {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        if let Some(path) = &self.bundle {
            return self.bundle(path, output, &stop).await;
        }
        let store = Store::existing(&self.place.dir()?)?;
        let wanted = tend::Wanted {
            deep: self.deep,
            trust: self.trust(Some(&store))?,
            must_be_signed: !self.trust.is_empty(),
        };
        let of_thread = store.clone();
        let verified = work::run(&stop, move |watch| {
            Ok(tend::verify(&of_thread, &wanted, watch.stop)?)
        });
        let verified = verified.await?;
        output.item(&verified, |verified| {
            facts(&[
                ("Generations", verified.generations.to_string()),
                ("Indexes", indexes(&verified.indexes)),
                (
                    "Files",
                    format!("{} ({} bytes)", verified.files, verified.bytes),
                ),
                ("Unpacked", verified.trees.to_string()),
                ("Problems", verified.problems.len().to_string()),
            ])
        })?;
        for problem in &verified.problems {
            note(&format!("{}: {}", problem.what, problem.why));
        }
        if self.repair && !verified.problems.is_empty() {
            let lock = store.lock(&stop).await?;
            let before = store.current()?;
            let count = verified.repair(&store, SystemTime::now(), &lock)?;
            note(&format!("moved {count} damaged items aside"));
            match store.current()? {
                current if current == before => {}
                Some(number) => note(&format!("generation {number} is now the current one")),
                None => note("no generation is left"),
            }
        }
        match verified.problems.len() {
            0 => Ok(()),
            count if self.repair => Err(ChecksFailed(count)).hint("run the sync or import again"),
            count => Err(ChecksFailed(count)).hint("`--repair` moves damaged files aside"),
        }
    }

    async fn bundle(&self, path: &Path, output: Output, stop: &Stop) -> anyhow::Result<()> {
        // A bundle can be checked on a machine without a mirror.
        let store = Store::existing(&self.place.dir()?).ok();
        let trust = self.trust(store.as_ref())?;
        let verify = move |head: &Head| {
            let manifest = head.verify(&trust)?.manifest;
            manifest.check_time(Timestamp::now())?;
            Ok(manifest)
        };
        let manifest = if self.identity.is_plain_file(path) {
            let file = open(path)?;
            work::run(stop, move |watch| bundle::check_file(&file, verify, watch)).await?
        } else {
            let input = self.identity.open(path)?;
            work::run(stop, move |watch| bundle::check(input, verify, watch)).await?
        };
        output.item(
            &serde_json::json!({"files": manifest.blobs.len(), "bytes": manifest.bytes()}),
            |_| {
                let (files, bytes) = (manifest.blobs.len(), manifest.bytes());
                format!("the bundle is good: {files} files, {bytes} bytes")
            },
        )?;
        Ok(())
    }
}

impl Verify {
    /// Returns the keys that the mirror trusts, and those that the options add.
    fn trust(&self, store: Option<&Store>) -> anyhow::Result<Trust> {
        let mut trust = match store {
            Some(store) => Records::of(store)?.trust(),
            None => Trust::default(),
        };
        for path in &self.trust {
            trust.keys.insert(read_public(path)?);
        }
        Ok(trust)
    }
}

/// Describes how far the indexes of generations are authenticated, for people.
fn indexes(states: &[IndexState]) -> String {
    let names = |keys: &BTreeSet<KeyId>| {
        let keys: Vec<_> = keys.iter().map(KeyId::to_string).collect();
        keys.join(", ")
    };
    let one = |state: &IndexState| {
        let number = state.generation;
        match (state.has_inventory, &state.signed_by, &state.untrusted) {
            (_, signed, _) if !signed.is_empty() => {
                format!("{number}: signed by {}", names(signed))
            }
            (_, _, untrusted) if !untrusted.is_empty() => format!(
                "{number}: signed by {}, which is not trusted here (see --trust)",
                names(untrusted)
            ),
            (true, _, _) => format!("{number}: not signed"),
            (false, _, _) => {
                format!(
                    "{number}: not authenticated, made by an older release; the next sync records it"
                )
            }
        }
    };
    let all: Vec<_> = states.iter().map(one).collect();
    all.join("; ")
}

impl Gc {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let store = Store::existing(&self.place.dir()?)?;
        let lock = store.lock(&stop).await?;
        let (grace, dry_run) = (self.grace.into(), self.dry_run);
        let collected = work::run(&stop, move |_| {
            Ok(tend::collect(
                &store,
                grace,
                SystemTime::now(),
                dry_run,
                &lock,
            )?)
        });
        output.item(&collected.await?, |collected: &Collected| {
            let files = format!("{} ({} bytes)", collected.files, collected.bytes);
            facts(&[
                ("Files put aside", files),
                ("Unpacked packages moved aside", collected.trees.to_string()),
                ("Leftovers removed", collected.leftovers.to_string()),
                ("Earlier collections removed", collected.removed.to_string()),
            ])
        })?;
        Ok(())
    }
}

impl Prune {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let store = Store::existing(&self.place.dir()?)?;
        let lock = store.lock(&stop).await?;
        let keep = Keep {
            generations: self.keep_generations,
            versions: self.keep_versions,
            needed: self.needed(&store).await?,
        };
        let pruned = work::run(&stop, move |_| Ok(tend::prune(&store, &keep, &lock)?)).await?;
        output.item(&pruned, |pruned| {
            let numbers = |numbers: &[u64]| {
                let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
                if numbers.is_empty() {
                    "none".to_owned()
                } else {
                    numbers.join(", ")
                }
            };
            facts(&[
                ("Generation", pruned.generation.to_string()),
                ("Versions left out", pruned.versions.len().to_string()),
                ("Generations forgotten", numbers(&pruned.generations)),
                ("Kept because they are in use", numbers(&pruned.in_use)),
            ])
        })?;
        Ok(())
    }
}

impl Prune {
    /// Returns what the templates need, with either engine.
    async fn needed(&self, store: &Store) -> anyhow::Result<Needed> {
        let mut needed = Needed::default();
        if self.templates.is_empty() {
            return Ok(needed);
        }
        let (_, generation) = store.newest()?;
        for path in &self.templates {
            let tree = template(path)?;
            for engine in [Engine::Terraform, Engine::Tofu] {
                let host = engine.default_host();
                let closure = doctor::closure(store, &generation, tree.clone(), host).await;
                let of_one = doctor::needed(&closure, &generation);
                needed.providers.extend(of_one.providers);
                needed.modules.extend(of_one.modules);
            }
        }
        Ok(needed)
    }
}

impl Rollback {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let store = Store::existing(&self.place.dir()?)?;
        let lock = store.lock(&stop).await?;
        // This works even if the generation cannot be read: a rollback is then the remedy.
        let from = store.current()?.ok_or_else(|| StoreError::Empty {
            dir: store.dir().to_owned(),
        })?;
        let before = store
            .generations()?
            .into_iter()
            .rfind(|number| *number < from);
        let to = self.generation.or(before);
        let to = to.ok_or_else(|| UsageError("there is no earlier generation".to_owned()))?;
        let mut generation = store.generation(to)?;
        let before = generation.clone();
        // Packages that were pulled through and evicted since are fetched again on demand.
        leave_out(
            &mut generation,
            &Ledger::of(&store)
                .gone()?
                .into_iter()
                .filter(|it| !store.has(*it))
                .collect(),
        );
        // All other files must exist in full: they may have been garbage-collected, or damaged, since.
        let missing = generation
            .digests()
            .into_iter()
            .filter(|d| !store.has(*d))
            .count();
        if missing > 0 {
            let text = format!("{missing} files of generation {to} no longer exist");
            return Err(anyhow::Error::msg(text)).hint("import a bundle that has them");
        }
        let to = match generation == before {
            true => {
                store.switch(to).context("the current generation stays")?;
                to
            }
            false => {
                note(&format!(
                    "packages of generation {to} that were evicted are left out"
                ));
                store.commit(generation, Some(from), &lock)?
            }
        };
        let item = RolledBack { from, to };
        output.item(&item, |item| {
            format!("generation {} instead of {}", item.to, item.from)
        })?;
        Ok(())
    }
}
