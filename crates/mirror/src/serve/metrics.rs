//! Metrics of the server in Prometheus's text format.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use outpost_net::listener::{CertificateEnd, ConnectionCounters, Listener};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use crate::sync::Counts;

/// Value of `Content-Type` for the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    listener: Arc<OnceLock<Watched>>,
}

/// The listener through which the server is reached.
struct Watched {
    counters: Arc<ConnectionCounters>,
    certificate: CertificateEnd,
}

/// Metrics of a listener, collected with each scrape.
#[derive(Debug)]
struct OfListener(Arc<OnceLock<Watched>>);

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.counters.fmt(f)
    }
}

impl Collector for OfListener {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(Watched {
            counters,
            certificate,
        }) = self.0.get()
        else {
            return Ok(());
        };
        let open = i64::try_from(counters.open.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let mut gauge = |name: &str, help: &str, value: &dyn EncodeMetric| {
            let of_one = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(of_one)
        };
        gauge(
            "connections",
            "Connections that are open.",
            &ConstGauge::new(open),
        )?;
        gauge(
            "refused_connections",
            "Connections that were closed because a limit was reached.",
            &ConstCounter::new(counters.refused.load(Ordering::Relaxed)),
        )?;
        gauge(
            "displaced_connections",
            "Idle connections that were closed to make room for others.",
            &ConstCounter::new(counters.displaced.load(Ordering::Relaxed)),
        )?;
        if let Some(ends) = certificate.at() {
            let left = ends.duration_since(Timestamp::now()).as_secs_f64() / SECONDS_PER_DAY;
            gauge(
                "certificate_days_left",
                "Days until the TLS certificate expires; negative once it has.",
                &ConstGauge::new(left),
            )?;
        }
        Ok(())
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
        let gauge = |bytes: u64| ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        let mut add = |name: &str, help: &str, value: &dyn EncodeMetric| {
            let of_one = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(of_one)
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

const SECONDS_PER_DAY: f64 = 24.0 * 60.0 * 60.0;

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
        registry.register_collector(Box::new(OfListener(listener.clone())));
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
        let watched = Watched {
            counters: listener.counters(),
            certificate: listener.certificate_end(),
        };
        let _ = self.listener.set(watched);
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
        let mut text = String::new();
        // A write to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
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
