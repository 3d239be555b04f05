//! What the server did, in Prometheus's text form.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The `Content-Type` of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What kind of request it was, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    mode: &'static str,
    code: u16,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    bytes: Counter,
    missing: Gauge,
    generation: Gauge<i64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("outpost_mirror");
        let requests = Family::default();
        let bytes = Counter::<u64, AtomicU64>::default();
        let (missing, generation) = (Gauge::default(), Gauge::default());
        registry.register("requests", "Requests by mode and status.", requests.clone());
        registry.register("sent_bytes", "Bytes of answers, announced.", bytes.clone());
        let help = "Things that were asked for and are not there.";
        registry.register("missing_items", help, missing.clone());
        let help = "The generation that is served, 0 for none.";
        registry.register("generation", help, generation.clone());
        Self {
            registry,
            requests,
            bytes,
            missing,
            generation,
        }
    }

    /// Counts an answer to a request for `path`.
    pub(super) fn count(&self, path: &str, code: u16, length: u64) {
        let mode = mode(path);
        self.requests.get_or_create(&Labels { mode, code }).inc();
        self.bytes.inc_by(length);
    }

    pub(super) fn text(&self, missing: usize, generation: u64) -> String {
        self.missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// The first part of a path, if it is one of ours.
fn mode(path: &str) -> &'static str {
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
