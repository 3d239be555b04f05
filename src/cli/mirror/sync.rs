//! `outpost mirror sync`: filling a mirror from registries.

mod accepted;
mod bars;

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use http::HeaderValue;
use serde::Serialize;
use url::Url;

use self::{
    accepted::{AcceptedEntry, AcceptedKey, AcceptedRelease, fingerprints, key, release},
    bars::Bars,
};
use super::{
    super::{
        exit::{Incomplete, UntrustedItems, UsageError},
        output::{self, Output, facts},
        remote::{Authorities, Revoked, trust},
    },
    Place,
    signing::{SigningKeys, sign},
};
use crate::{
    mirror::{
        Generation, Store, StoreError,
        fetch::{Fetcher, RequestLimits, network_mirror::NetworkMirror, registry::Registries},
        sync::{
            self, Accepted, Keys, MirrorConfig, Report, Trust, config, missed, read_keys,
            write_review, write_reviewed_keys,
        },
    },
    net::{proxy::Proxies, web::Web},
    secret::Secret,
    stop::Stop,
};

/// Exit codes of its own, for `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 complete, 1 failed, 2 wrong usage or configuration, 3 something is missing (run the same command \
again to resume), 4 something is not trusted, 130 interrupted.";

/// Download what templates need into the mirror
///
/// Everything in mirror.toml is resolved, downloaded, verified against its publishers' signatures and added to the
/// mirror as a new generation. What the mirror has is not downloaded again, and an interrupted download resumes.
/// mirror.lock beside mirror.toml records the result; commit both.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Sync {
    #[command(flatten)]
    place: Place,
    /// File that lists what to fetch [default: mirror.toml, if there is one]
    #[arg(long, short, value_name = "FILE", env = "OUTPOST_MIRROR_FILE")]
    file: Option<PathBuf>,
    /// Import the packages in a directory made by `terraform providers mirror`; repeatable
    #[arg(long, value_name = "DIR")]
    import_dir: Vec<PathBuf>,
    /// Take all providers from this network mirror instead of registries, and trust its checksums
    ///
    /// The URL of another site's `outpost mirror serve` is its address followed by /mirror/. Providers that must be signed
    /// by a key in mirror.toml are not taken from it.
    #[arg(long, value_name = "URL", env = "OUTPOST_MIRROR_FROM")]
    from_mirror: Option<Url>,
    /// Also fetch the misses that `outpost mirror serve` recorded in this file at an air-gapped site; repeatable
    #[arg(long, value_name = "FILE")]
    misses: Vec<PathBuf>,
    /// Count the files and bytes to download, without downloading anything
    #[arg(long)]
    dry_run: bool,
    /// Accept this publisher's key from now on, for one namespace or for all; repeatable
    ///
    /// With a namespace, such as registry.terraform.io/coder=FINGERPRINT, it is accepted at once, also by a running
    /// `outpost mirror serve --pull-through` of the same mirror.
    #[arg(long, value_name = "[HOST/NAMESPACE=]FINGERPRINT", value_parser = key)]
    accept_key: Vec<AcceptedKey>,
    /// Fetch this version again and accept that its files differ from those that the mirror first saw; repeatable
    ///
    /// A version of a provider, module or program, or a tag of a git repository: HOST/OWNER/REPO@TAG.
    #[arg(long, value_name = "ADDRESS@VERSION", value_parser = release)]
    accept_changed: Vec<AcceptedRelease>,
    /// Accept signatures that this key made after it expired; repeatable
    #[arg(long, value_name = "FINGERPRINT")]
    allow_expired: Vec<String>,
    /// Number of parallel downloads
    #[arg(long, value_name = "N", default_value_t = 8)]
    parallel: usize,
    /// Limit for all downloads together in bytes per second, such as 500k or 10M
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<u64>,
    #[command(flatten)]
    signing: SigningKeys,
    #[command(flatten)]
    authorities: Authorities,
    #[command(flatten)]
    revoked: Revoked,
}

/// Result of a sync, for programs.
#[derive(Serialize)]
struct Summary {
    dry_run: bool,
    generation: Option<u64>,
    is_new: bool,
    downloaded_files: usize,
    downloaded_bytes: u64,
    /// Number of files whose length is not known before they are downloaded.
    unknown_lengths: usize,
    present: usize,
    failures: Vec<FailureRow>,
}

#[derive(Serialize)]
struct FailureRow {
    what: String,
    why: String,
    untrusted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Sync {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let (mut config, lock_file) = self.config()?;
        self.add_misses(&mut config)?;
        let known = match &lock_file {
            Some(path) => read_keys(path)?,
            None => Keys::new(),
        };
        let signing = self.signing.read()?;
        let bars = Arc::new(Bars::new());
        let fetcher = self.fetcher(Arc::clone(&bars))?;
        let registries = Registries::new(fetcher.clone(), &config.hosts, Arc::new(token));
        let registries = registries.with_mirror(self.network_mirror(&fetcher)?);
        let dir = self.place.dir()?;
        let store = Store::open(&dir).context("the mirror cannot be used")?;
        // Imported providers are not fetched as well.
        if self.import_dir.is_empty() {
            self.add_accepted(&mut config, &store)?;
        }
        let trust = self.trust(&config, known, &store).await?;
        let sync = sync::Sync {
            store,
            config,
            trust,
            fetcher,
            registries,
            watch: Arc::clone(&bars) as Arc<_>,
            authorities: match &self.authorities.ca_file {
                Some(path) => vec![super::super::provisioner::connect::read(path)?],
                None => Vec::new(),
            },
            import_dirs: self.import_dir.clone(),
            session_token: std::env::var("CODER_SESSION_TOKEN").ok().map(Secret::new),
            dry_run: self.dry_run,
        };
        let ran = sync.run(&stop).await;
        bars.end();
        let report = ran?;
        if let Some(generation) = report.generation.filter(|_| !self.dry_run) {
            sign(&sync.store, generation, signing, &stop).await?;
        }
        if let Some(path) = lock_file.filter(|_| !self.dry_run) {
            let keys = sync.trust.keys(&report.synced)?;
            match report.failures.is_empty() {
                true => write_review(&path, &report.synced, &keys)?,
                false => write_reviewed_keys(&path, &keys)?,
            };
        }
        self.print(output, &report)?;
        verdict(&report)
    }

    /// Returns the mirror's configuration, and the lock file that belongs to it.
    fn config(&self) -> anyhow::Result<(MirrorConfig, Option<PathBuf>)> {
        let default = PathBuf::from("mirror.toml");
        let path = match &self.file {
            Some(path) => path.clone(),
            None if default.is_file() => default,
            None if self.names_something() => return Ok((MirrorConfig::default(), None)),
            None => {
                let text = "no mirror.toml in this directory; write one, name one with --file, or import a directory \
                            with --import-dir";
                return Err(UsageError(text.to_owned()).into());
            }
        };
        let config = MirrorConfig::load(&path).map_err(|error| match error {
            config::MirrorConfigError::Invalid { .. } => UsageError(error.to_string()).into(),
            config::MirrorConfigError::Read { .. } => anyhow::Error::new(error),
        })?;
        Ok((config, Some(path.with_extension("lock"))))
    }

    /// Returns whether there is something to do without a mirror.toml.
    fn names_something(&self) -> bool {
        let is_key = |key: &AcceptedKey| key.namespace.is_some();
        !self.import_dir.is_empty()
            || !self.misses.is_empty()
            || !self.accept_changed.is_empty()
            || self.accept_key.iter().any(is_key)
    }

    /// Returns what is trusted. Keys that the options name for a namespace are trusted for it from here on.
    async fn trust(
        &self,
        config: &MirrorConfig,
        known: Keys,
        store: &Store,
    ) -> anyhow::Result<Trust> {
        let mut accepted = Accepted {
            expired: fingerprints("--allow-expired", &self.allow_expired)?
                .into_iter()
                .collect(),
            releases: self
                .accept_changed
                .iter()
                .map(|it| it.name.clone())
                .collect(),
            ..Accepted::default()
        };
        let mut named = Keys::new();
        for key in self.accept_key.iter().cloned() {
            match key.namespace {
                Some(namespace) => named.entry(namespace).or_default().insert(key.fingerprint),
                None => accepted.keys.insert(key.fingerprint),
            };
        }
        let trust = Trust::new(config.trust.clone(), known, store);
        let trust = trust.accepting(accepted).dry(self.dry_run);
        trust.add(named).await?;
        Ok(trust)
    }

    fn add_misses(&self, config: &mut MirrorConfig) -> anyhow::Result<()> {
        for path in &self.misses {
            let list = super::super::provisioner::connect::read(path)?;
            let left = missed::add(config, &list).map_err(|error| {
                let text = format!("`{}` is not a list of misses: {error}", path.display());
                UsageError(text)
            })?;
            for name in left {
                output::note(&format!(
                    "cannot be fetched by name alone, so add it to mirror.toml if it is legitimate: {name}"
                ));
            }
        }
        Ok(())
    }

    /// Adds accepted versions to the configuration, except tags: a repository comes with all of its wanted tags.
    fn add_accepted(&self, config: &mut MirrorConfig, store: &Store) -> anyhow::Result<()> {
        let known = match store.newest() {
            Err(StoreError::Empty { .. }) => Generation::default(),
            newest => newest?.1,
        };
        for it in &self.accept_changed {
            let (address, _) = it.name.split_once('@').unwrap_or_default();
            // A tag may look like a version.
            let is_tag = known.git.iter().any(|git| git.place() == address);
            match &it.entry {
                Some(AcceptedEntry::Provider(entry)) if !is_tag => {
                    config.providers.push(entry.clone());
                }
                Some(AcceptedEntry::Module(entry)) if !is_tag => config.modules.push(entry.clone()),
                Some(AcceptedEntry::Provider(_) | AcceptedEntry::Module(_)) | None => {}
            }
        }
        Ok(())
    }

    fn network_mirror(&self, fetcher: &Fetcher) -> Result<Option<NetworkMirror>, UsageError> {
        let Some(url) = &self.from_mirror else {
            return Ok(None);
        };
        let mirror = NetworkMirror::new(url, fetcher.clone(), Arc::new(token));
        let wrong = || UsageError(format!("`--from-mirror {url}`: expected https://…"));
        mirror.ok_or_else(wrong).map(Some)
    }

    fn fetcher(&self, bars: Arc<Bars>) -> anyhow::Result<Fetcher> {
        let trust = trust(
            self.authorities.ca_file.clone(),
            self.revoked.crl_file.clone(),
        );
        let web = Web::new(&trust, Proxies::from_env())?;
        let at_once = self.parallel.max(1);
        let limits = RequestLimits {
            at_once,
            per_host: at_once.div_ceil(2),
            bytes_per_second: self.limit_rate,
            ..RequestLimits::default()
        };
        Ok(Fetcher::new(web, limits, bars))
    }

    fn print(&self, output: Output, report: &Report) -> anyhow::Result<()> {
        let failures = report.failures.iter().map(|failure| FailureRow {
            what: failure.what.clone(),
            why: failure.reason(),
            untrusted: failure.is_untrusted(),
            remedy: failure.hint(),
        });
        let summary = Summary {
            dry_run: self.dry_run,
            generation: report.generation,
            is_new: report.is_new,
            downloaded_files: report.files,
            downloaded_bytes: report.bytes,
            unknown_lengths: report.unknown,
            present: report.present,
            failures: failures.collect(),
        };
        output.item(&summary, human)?;
        for (things, failure) in folded(&summary.failures) {
            output::note(&format!("{things}: {}", failure.why));
            if let Some(remedy) = &failure.remedy {
                output::note(&format!("  {remedy}"));
            }
        }
        Ok(())
    }
}

/// Number of items that are named among those that fail for the same reason.
const NAMED: usize = 3;

/// Groups failures by reason, with the items that each affects.
fn folded(failures: &[FailureRow]) -> Vec<(String, &FailureRow)> {
    let mut all: Vec<(Vec<&str>, &FailureRow)> = Vec::new();
    for failure in failures {
        match all.iter_mut().find(|(_, known)| known.why == failure.why) {
            Some((things, _)) => things.push(&failure.what),
            None => all.push((vec![&failure.what], failure)),
        }
    }
    let text = |(things, failure): (Vec<&str>, _)| {
        let named = things[..things.len().min(NAMED)].join(", ");
        match things.len().saturating_sub(NAMED) {
            0 => (named, failure),
            more => (format!("{named} and {more} more"), failure),
        }
    };
    all.into_iter().map(text).collect()
}

fn human(summary: &Summary) -> String {
    let bytes = indicatif::HumanBytes(summary.downloaded_bytes);
    let mut downloads = format!("{} files, {bytes}", summary.downloaded_files);
    if summary.unknown_lengths > 0 {
        downloads = format!(
            "{downloads} and {} of unknown length",
            summary.unknown_lengths
        );
    }
    let generation = match (summary.generation, summary.is_new) {
        (Some(number), true) => format!("{number} (new)"),
        (Some(number), false) => format!("{number} (unchanged)"),
        (None, _) => "none".to_owned(),
    };
    let name = match summary.dry_run {
        true => "To download",
        false => "Downloaded",
    };
    let mut pairs = vec![(name, downloads), ("Present", summary.present.to_string())];
    if !summary.dry_run {
        pairs.push(("Generation", generation));
    }
    if !summary.failures.is_empty() {
        pairs.push(("Missing", summary.failures.len().to_string()));
    }
    facts(&pairs)
}

fn verdict(report: &Report) -> anyhow::Result<()> {
    let untrusted = report
        .failures
        .iter()
        .filter(|failure| failure.is_untrusted())
        .count();
    match (untrusted, report.failures.len()) {
        (0, 0) => Ok(()),
        (0, missing) => Err(Incomplete(missing).into()),
        (untrusted, _) => Err(UntrustedItems(untrusted).into()),
    }
}

/// Credential for a registry: `TF_TOKEN_HOST` as engines read it, with `_` for each dot and `__` for each dash.
pub(super) fn token(host: &str) -> Option<HeaderValue> {
    let name = format!("TF_TOKEN_{}", host.replace('-', "__").replace('.', "_"));
    let plain = format!("TF_TOKEN_{host}");
    let value = [name, plain]
        .iter()
        .find_map(|name| std::env::var(name).ok())?;
    let mut header = HeaderValue::from_str(&format!("Bearer {value}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Parses a rate in bytes per second: `10M`, `500k`, `1048576`.
fn rate(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((end, unit)) if unit.is_ascii_alphabetic() => {
            (&text[..end], unit.to_ascii_lowercase())
        }
        _ => (text, ' '),
    };
    let factor = match unit {
        ' ' => 1,
        'k' => 1 << 10,
        'm' => 1 << 20,
        'g' => 1 << 30,
        _ => 0,
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected bytes a second, such as 500k or 10M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        assert_eq!(rate("500k"), Ok(512_000));
        assert_eq!(rate("10M"), Ok(10_485_760));
        assert_eq!(rate("1234"), Ok(1234));
        assert!(
            ["", "0", "k", "5x", "-1", "99999999999G"]
                .iter()
                .all(|text| rate(text).is_err())
        );
    }
}
