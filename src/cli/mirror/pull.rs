//! The registries behind `outpost mirror serve --pull-through`.

use std::{path::Path, sync::Arc, time::Duration};

use super::sync::token;
use crate::{
    mirror::{
        Store,
        fetch::{FetchError, Fetcher, Manners, Retry, Watch, registry::Registries},
        sync::{MirrorConfig, Sync, Trust, Upstream, read_keys},
    },
    net::{proxy::Proxies, tls, web::Web},
};

/// An engine waits for the answer, and asks again by itself.
const RETRY: Retry = Retry {
    tries: 2,
    first_pause: Duration::from_millis(500),
};

/// Asks as the mirror.toml `file` says, and believes the keys that the mirror and the file's mirror.lock know. At most
/// `max_bytes` of what is pulled are kept.
///
/// # Errors
/// What is wrong with one of the two, or with the file of authorities.
pub(super) fn upstream(
    file: &Path,
    store: Store,
    trust: &tls::Trust,
    max_bytes: Option<u64>,
) -> anyhow::Result<Upstream> {
    let config = MirrorConfig::load(file)?;
    let known = read_keys(&file.with_extension("lock"))?;
    // What never has room is not fetched to its end.
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
        dry_run: false,
    };
    Ok(Upstream::with_limit(sync, max_bytes))
}

/// Asks for what a job waits for.
///
/// # Errors
/// What is wrong with the file of authorities.
pub(in crate::cli) fn fetcher(trust: &tls::Trust) -> anyhow::Result<Fetcher> {
    fetcher_with_limit(trust, None)
}

/// The same for files of at most `max_bytes`.
fn fetcher_with_limit(trust: &tls::Trust, max_bytes: Option<u64>) -> anyhow::Result<Fetcher> {
    let mut manners = Manners {
        retry: RETRY,
        ..Manners::default()
    };
    manners.max_file_bytes = manners.max_file_bytes.min(max_bytes.unwrap_or(u64::MAX));
    let web = Web::new(trust, Proxies::from_env())?;
    Ok(Fetcher::new(web, manners, Arc::new(Logged)))
}

/// A server has a log, and nobody who looks at a screen.
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
