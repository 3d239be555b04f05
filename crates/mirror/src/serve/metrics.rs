//! Metrics of the server in Prometheus's text format.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use outpost_net::{
    listener::Listener,
    metrics::{self, OfListener, gauge},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
    },
    registry::Registry,
};

use crate::sync::Counts;

pub(super) use outpost_net::metrics::CONTENT_TYPE;

/// Kind and status of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    mode: &'static str,
    code: u16,
}

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    bytes: Counter,
    damaged: Counter,
    missing: Gauge,
    generation: Gauge<i64>,
    listener: Arc<OnceLock<OfListener>>,
}

/// The listener through which the server is reached, once there is one.
#[derive(Debug)]
struct Watched(Arc<OnceLock<OfListener>>);

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let listener = self.0.get();
        listener.map_or(Ok(()), |it| it.encode(&mut encoder))
    }
}

/// Counts of pulled packages, and the limit of their size in bytes.
type Pulled = (Arc<Counts>, Option<u64>);

/// Metrics of an upstream, collected with each scrape.
#[derive(Debug)]
struct OfUpstream(Pulled);

impl Collector for OfUpstream {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (counts, max_bytes) = &self.0;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut add = |name: &str, help: &str, value: &dyn EncodeMetric| {
            metrics::add(&mut encoder, name, help, value)
        };
        let help = "Bytes of packages and modules that were pulled from registries and are there.";
        add("pulled_bytes", help, &gauge(read(&counts.bytes)))?;
        if let Some(max_bytes) = max_bytes {
            let help = "Bytes that they may have; beyond it the least recently used are evicted.";
            add("pulled_max_bytes", help, &gauge(*max_bytes))?;
        }
        let help = "Packages and modules that were evicted.";
        add(
            "evicted_packages",
            help,
            &ConstCounter::new(read(&counts.evicted)),
        )?;
        let help = "Bytes of packages and modules that were evicted.";
        add(
            "evicted_bytes",
            help,
            &ConstCounter::new(read(&counts.evicted_bytes)),
        )
    }
}

impl Metrics {
    /// Returns metrics; `pulled` are those of an upstream.
    pub(super) fn new(pulled: Option<Pulled>) -> Self {
        let mut registry = Registry::with_prefix("outpost_mirror");
        let requests = Family::default();
        let bytes = Counter::<u64, AtomicU64>::default();
        let (missing, generation) = (Gauge::default(), Gauge::default());
        registry.register("requests", "Requests by mode and status.", requests.clone());
        registry.register(
            "sent_bytes",
            "Bytes of responses, as announced.",
            bytes.clone(),
        );
        let damaged = Counter::<u64, AtomicU64>::default();
        let help = "Requests for damaged files, which were refused.";
        registry.register("damaged_requests", help, damaged.clone());
        let help = "Requests for items that the mirror does not have.";
        registry.register("missing_items", help, missing.clone());
        let help = "The generation that is served, 0 for none.";
        registry.register("generation", help, generation.clone());
        let listener = Arc::new(OnceLock::new());
        registry.register_collector(Box::new(Watched(listener.clone())));
        if let Some(pulled) = pulled {
            registry.register_collector(Box::new(OfUpstream(pulled)));
        }
        Self {
            registry,
            requests,
            bytes,
            damaged,
            missing,
            generation,
            listener,
        }
    }

    /// Adds the metrics of this listener; only the first one is used.
    pub(super) fn watch(&self, listener: &Listener) {
        let _ = self.listener.set(OfListener::new(listener));
    }

    /// Counts an answer to a request for `path`.
    pub(super) fn count(&self, path: &str, code: u16, length: u64) {
        let mode = mode(path);
        self.requests.get_or_create(&Labels { mode, code }).inc();
        self.bytes.inc_by(length);
    }

    /// Counts a request for a damaged file.
    pub(super) fn found_damaged(&self) {
        self.damaged.inc();
    }

    pub(super) fn text(&self, missing: usize, generation: u64) -> String {
        self.missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        metrics::text(&self.registry)
    }
}

/// Returns the first part of a path, if it is one of ours.
fn mode(path: &str) -> &'static str {
    if path == "/" {
        return "landing-page";
    }
    let known = [
        ("/v1/providers/", "providers"),
        ("/v1/modules/", "modules"),
        ("/mirror/", "network-mirror"),
        ("/blobs/", "blobs"),
        ("/releases/", "releases"),
        ("/git/", "git"),
        ("/files/", "files"),
    ];
    let known = known.iter().find(|(prefix, _)| path.starts_with(prefix));
    known.map_or("other", |(_, mode)| mode)
}
