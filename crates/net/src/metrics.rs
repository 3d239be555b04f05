//! Metrics in Prometheus's text form, and those that every listener has.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::listener::{CertificateEnd, ConnectionCounters, Listener};

/// Value of `Content-Type` for [`text()`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const SECONDS_PER_DAY: f64 = 24.0 * 60.0 * 60.0;

/// Formats all metrics of `registry`.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // A write to a string does not fail.
    let _ = text::encode(&mut text, registry);
    text
}

/// Adds one metric without labels.
///
/// # Errors
/// That of the encoder.
pub fn add(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &dyn EncodeMetric,
) -> fmt::Result {
    let of_one = encoder.encode_descriptor(name, help, None, value.metric_type())?;
    value.encode(of_one)
}

/// Returns a gauge with this value, or with the largest possible one.
pub fn gauge(value: impl TryInto<i64>) -> ConstGauge<i64> {
    ConstGauge::new(value.try_into().unwrap_or(i64::MAX))
}

/// Metrics of a listener, which it updates while it serves.
#[derive(Clone)]
pub struct OfListener {
    counters: Arc<ConnectionCounters>,
    certificate: CertificateEnd,
}

impl fmt::Debug for OfListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counters.fmt(f)
    }
}

impl OfListener {
    /// Watches `listener`.
    pub fn new(listener: &Listener) -> Self {
        Self {
            counters: listener.counters(),
            certificate: listener.certificate_end(),
        }
    }

    /// Adds the numbers of connections, and the days until the certificate expires if there is one.
    ///
    /// # Errors
    /// That of the encoder.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &self.counters;
        let open = counters.open.load(Ordering::Relaxed);
        let help = "Connections that are open.";
        add(encoder, "connections", help, &gauge(open))?;
        let refused = ConstCounter::new(counters.refused.load(Ordering::Relaxed));
        let help = "Connections that were closed because a limit was reached.";
        add(encoder, "refused_connections", help, &refused)?;
        let displaced = ConstCounter::new(counters.displaced.load(Ordering::Relaxed));
        let help = "Idle connections that were closed to make room for others.";
        add(encoder, "displaced_connections", help, &displaced)?;
        let Some(ends) = self.certificate.at() else {
            return Ok(());
        };
        let left = ends.duration_since(Timestamp::now()).as_secs_f64() / SECONDS_PER_DAY;
        let help = "Days until the TLS certificate expires; negative once it has.";
        add(
            encoder,
            "certificate_days_left",
            help,
            &ConstGauge::new(left),
        )
    }

    /// Adds what is counted where callers authenticate: connections by pool, and what was cut off or refused.
    ///
    /// # Errors
    /// That of the encoder.
    pub fn encode_authentication(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &self.counters;
        let open = counters.open.load(Ordering::Relaxed);
        let unauthenticated = open.saturating_sub(counters.authenticated.load(Ordering::Relaxed));
        let help = "Open connections on which nobody has authenticated yet.";
        add(
            encoder,
            "unauthenticated_connections",
            help,
            &gauge(unauthenticated),
        )?;
        let revoked = ConstCounter::new(counters.revoked.load(Ordering::Relaxed));
        let help = "Responses and connections that were cut off because their credential was revoked or expired.";
        add(encoder, "revoked_connections", help, &revoked)?;
        let overdrawn = ConstCounter::new(counters.overdrawn.count());
        let help = "Messages and streams that were refused because a memory budget was used up.";
        add(encoder, "budget_refusals", help, &overdrawn)
    }
}
