//! Metrics of a server, with those of the daemons in its process.

use std::sync::Arc;

use prometheus_client::{
    metrics::{gauge::Gauge, info::Info},
    registry::Registry,
};

use crate::{
    cli::scrape::{Page, Pages},
    control, daemon,
    net::metrics::{CONTENT_TYPE, text},
    observe::BUILD,
};

/// Source of the metrics, which are collected with each scrape.
pub(super) struct Scraped {
    pub(super) server: control::Metrics,
    /// Metrics of the daemons in this process, if there are any.
    pub(super) daemons: Option<Arc<daemon::metrics::Metrics>>,
}

impl Pages for Scraped {
    async fn page(&self, _path: &str) -> Page {
        let mut registry = Registry::default();
        let of_server = registry.sub_registry_with_prefix("outpost_server");
        let build = Info::new([("version", BUILD.version), ("platform", BUILD.platform)]);
        of_server.register("build", "Version and platform of the program.", build);
        self.server.register(of_server).await;
        if let Some(daemons) = &self.daemons {
            let kept: Gauge = Gauge::default();
            let count = daemons.snapshot().kept;
            kept.set(i64::try_from(count).unwrap_or(i64::MAX));
            let help = "States of daemons in this process that the server no longer accepts; see outpost recover list.";
            registry.register("outpost_provisionerd_kept_states", help, kept);
        }
        Page::new(CONTENT_TYPE, text(&registry))
    }
}
