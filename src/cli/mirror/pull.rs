//! Registries behind `outpost mirror serve --pull-through`.

use std::{path::Path, sync::Arc, time::Duration};

use super::sync::token;
use crate::{
    mirror::{
        Store,
        fetch::{FetchError, Fetcher, RequestLimits, Retry, Watch, registry::Registries},
        sync::{MirrorConfig, Sync, Trust, Upstream, read_keys},
    },
    net::{proxy::Proxies, tls, web::Web},
};

/// Retries are few: an engine waits for the answer, and asks again by itself.
const RETRY: Retry = Retry {
    tries: 2,
    first_pause: Duration::from_millis(500),
};

/// Returns the registries that the mirror.toml `file` configures, and trusts the keys that the mirror and the file's
/// mirror.lock know. At most `max_bytes` of the fetched content are kept.
///
/// # Errors
/// If one of the two, or the file of authorities, is invalid.
pub(super) fn upstream(
    file: &Path,
    store: Store,
    trust: &tls::Trust,
    max_bytes: Option<u64>,
) -> anyhow::Result<Upstream> {
    let config = MirrorConfig::load(file)?;
    let known = read_keys(&file.with_extension("lock"))?;
    // A download that can never fit is aborted early.
    let fetcher = fetcher_with_limit(trust, max_bytes)?;
    let sync = Sync {
        trust: Trust::new(config.trust.clone(), known, &store),
        store,
        registries: Registries::new(fetcher.clone(), &config.hosts, Arc::new(token)),
        config,
        fetcher,
        watch: Arc::new(Logged),
        authorities: trust
            .extra
            .iter()
            .map(|path| super::super::provisioner::connect::read(path))
            .collect::<Result<_, _>>()?,
        import_dirs: Vec::new(),
        session_token: None,
        dry_run: false,
    };
    Ok(Upstream::with_limit(sync, max_bytes))
}

/// Returns a fetcher for downloads that a job waits for.
///
/// # Errors
/// If the file of authorities is invalid.
pub(in crate::cli) fn fetcher(trust: &tls::Trust) -> anyhow::Result<Fetcher> {
    fetcher_with_limit(trust, None)
}

/// Returns such a fetcher for files of at most `max_bytes`.
fn fetcher_with_limit(trust: &tls::Trust, max_bytes: Option<u64>) -> anyhow::Result<Fetcher> {
    let mut limits = RequestLimits {
        retry: RETRY,
        ..RequestLimits::default()
    };
    limits.max_file_bytes = limits.max_file_bytes.min(max_bytes.unwrap_or(u64::MAX));
    let web = Web::new(trust, Proxies::from_env())?;
    Ok(Fetcher::new(web, limits, Arc::new(Logged)))
}

/// Progress that goes to the log: nobody looks at a server's screen.
struct Logged;

impl Watch for Logged {
    fn phase(&self, _: &str) {}

    fn arrived(&self, name: &str, bytes: u64) {
        tracing::debug!(name, bytes, "downloaded from a registry");
    }

    fn note(&self, text: &str) {
        tracing::warn!("{text}");
    }

    fn advanced(&self, _: &str, _: u64, _: Option<u64>) {}

    fn trying_again(&self, what: &str, error: &FetchError, pause: Duration) {
        tracing::warn!(what, %error, ?pause, "retrying a registry");
    }
}
