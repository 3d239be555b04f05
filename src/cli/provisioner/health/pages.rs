//! Pages of a daemon: `/livez`, `/readyz`, `/status` and metrics.

use std::sync::Arc;

use http::StatusCode;

use super::Health;
use crate::{
    cli::scrape::{Page, Pages, TEXT},
    observe::metrics::{self, CONTENT_TYPE},
};

/// Health and metrics of a daemon.
#[derive(Debug)]
pub(in crate::cli::provisioner) struct HealthPages {
    pub(in crate::cli::provisioner) health: Arc<Health>,
    /// Set if every other path serves the metrics, as with Coder's daemon, and not only `/metrics`.
    pub(in crate::cli::provisioner) is_for_prometheus: bool,
}

impl Pages for HealthPages {
    async fn page(&self, path: &str) -> Page {
        match path {
            "/livez" => Page::new(TEXT, "ok\n".to_owned()),
            "/readyz" => self.readiness(),
            "/status" => {
                let text = serde_json::to_string_pretty(&self.health.status());
                let text = text.expect("a status has nothing that JSON has not");
                Page::new("application/json", text + "\n")
            }
            _ if self.is_for_prometheus || path == "/metrics" => {
                let health = &self.health;
                let text = metrics::text(&health.metrics.snapshot(), &health.scrapes);
                Page::new(CONTENT_TYPE, text)
            }
            _ => {
                let text = "not found; available: /livez, /readyz, /status and /metrics\n";
                Page::new(TEXT, text.to_owned()).with(StatusCode::NOT_FOUND)
            }
        }
    }
}

impl HealthPages {
    fn readiness(&self) -> Page {
        let status = self.health.status();
        match status.ready {
            true => Page::new(TEXT, "ok\n".to_owned()),
            false => {
                let text = status.reasons.join("\n") + "\n";
                Page::new(TEXT, text).with(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}
