//! Metrics of the control plane for Prometheus.

use std::{fmt, sync::Arc};

use outpost_net::metrics::{OfListener, add, gauge};
use outpost_tailnet::derp::Counts;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
    },
    registry::Registry,
};
use tracing::warn;

use crate::{
    model::{JobRecord, JobStatus},
    plane::Plane,
};

/// Statuses of jobs that have not ended.
const OPEN: [JobStatus; 3] = [JobStatus::Queued, JobStatus::Running, JobStatus::Cancelling];

/// Numbers of jobs that ended since the start, by status.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndedJobs(Family<[(&'static str, &'static str); 1], Counter>);

impl EndedJobs {
    /// Counts the end of a job.
    pub(crate) fn count(&self, status: JobStatus) {
        let labels = [("status", status.as_str())];
        self.0.get_or_create(&labels).inc();
    }
}

/// Access to the metrics of a running control plane.
#[derive(Clone)]
pub struct Metrics {
    plane: Arc<Plane>,
    listener: OfListener,
}

impl Metrics {
    pub(crate) fn new(plane: Arc<Plane>, listener: OfListener) -> Self {
        Self { plane, listener }
    }

    /// Adds the metrics of this moment to a registry that is encoded once. Without a database those of open jobs are
    /// missing.
    pub async fn register(&self, registry: &mut Registry) {
        let jobs = self.plane.store().open_jobs().await;
        let jobs = jobs.inspect_err(|error| warn!(%error, "cannot count jobs for the metrics"));
        let help = "Jobs that ended since the start, by status.";
        registry.register("ended_jobs", help, self.plane.ended_jobs.0.clone());
        let (agents, clients) = self.plane.coordinator().counts();
        registry.register_collector(Box::new(Moment {
            listener: self.listener.clone(),
            jobs: jobs.ok(),
            daemons: self.plane.connected_daemons(),
            agents,
            clients,
            relay: self.plane.relay().counts(),
        }));
    }
}

/// Numbers at the time of a scrape.
#[derive(Debug)]
struct Moment {
    listener: OfListener,
    /// Jobs that have not ended; `None` if they are unknown.
    jobs: Option<Vec<JobRecord>>,
    daemons: usize,
    agents: usize,
    clients: usize,
    relay: Counts,
}

impl Collector for Moment {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.listener.encode(&mut encoder)?;
        self.listener.encode_authentication(&mut encoder)?;
        self.encode_jobs(&mut encoder)?;
        let help = "Provisioner daemons that are connected.";
        add(&mut encoder, "daemons", help, &gauge(self.daemons))?;
        let help = "Agents that are connected.";
        add(&mut encoder, "agents", help, &gauge(self.agents))?;
        let help = "Clients of agents that are connected.";
        add(&mut encoder, "clients", help, &gauge(self.clients))?;
        self.encode_relay(&mut encoder)
    }
}

impl Moment {
    fn encode_jobs(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(jobs) = &self.jobs else {
            return Ok(());
        };
        let help = "Jobs that are queued, running or being cancelled.";
        let mut of_all = encoder.encode_descriptor("jobs", help, None, MetricType::Gauge)?;
        for status in OPEN {
            let count = jobs.iter().filter(|job| job.status() == status).count();
            let labels = [("status", status.as_str())];
            gauge(count).encode(of_all.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_relay(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let relay = &self.relay;
        let help = "Clients that are connected to the relay.";
        add(encoder, "relay_clients", help, &gauge(relay.clients))?;
        let slowed = ConstCounter::new(relay.slowed.as_secs_f64());
        let help = "Seconds for which the relay did not read clients that had exceeded their rate, summed over all of them.";
        add(encoder, "relay_slowed_seconds", help, &slowed)?;
        let counters = [
            (
                "relay_received_bytes",
                "Bytes that the relay read from clients.",
                relay.received_bytes,
            ),
            (
                "relay_sent_bytes",
                "Bytes that the relay wrote to clients.",
                relay.sent_bytes,
            ),
            (
                "relay_dropped_packets",
                "Packets that the relay dropped because their recipient read too slowly or was not connected.",
                relay.dropped_packets,
            ),
            (
                "relay_refused_clients",
                "Connections to the relay whose client has an unexpected key or did not introduce itself.",
                relay.refused,
            ),
            (
                "relay_stalled_clients",
                "Clients that the relay disconnected because they read nothing.",
                relay.stalled,
            ),
        ];
        for (name, help, count) in counters {
            add(encoder, name, help, &ConstCounter::new(count))?;
        }
        Ok(())
    }
}
