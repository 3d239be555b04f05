//! Counters of a daemon in Prometheus's text form, under the reference's names.
//!
//! # Source
//! coder `provisionerd/provisionerd.go` and `provisionerd/runner/runner.go` for names, labels and buckets.

mod process;

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::daemon::metrics::{BUCKETS, BuildLabels, Histogram, Snapshot};

/// Value of `Content-Type` for the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Type of all our provisioners.
const PROVISIONER: &str = "terraform";

/// Number of requests for the metrics, which Prometheus's own library counts as well.
#[derive(Debug, Default)]
pub struct Scrapes(AtomicU64);

/// Formats all metrics, including this request.
pub fn text(snapshot: &Snapshot, scrapes: &Scrapes) -> String {
    let mut text = Text::default();
    text.gauge(
        "coderd_provisionerd_num_daemons",
        "The number of provisioner daemons.",
        snapshot.slots as f64,
    );
    text.head(
        "coderd_provisionerd_jobs_current",
        "The number of currently running provisioner jobs.",
        "gauge",
    );
    text.sample(
        "coderd_provisionerd_jobs_current",
        &[("provisioner", PROVISIONER)],
        snapshot.running.len() as f64,
    );
    job_timings(&mut text, snapshot);
    builds(&mut text, snapshot);
    build_timings(&mut text, snapshot);
    text.gauge(
        "outpost_provisionerd_kept_states",
        "The number of states in the state directory that no server has; see outpost recover list.",
        snapshot.kept as f64,
    );
    process::add(&mut text);
    scrapes.0.fetch_add(1, Ordering::Relaxed);
    let name = "promhttp_metric_handler_requests_total";
    text.head(
        name,
        "Total number of scrapes by HTTP status code.",
        "counter",
    );
    let count = scrapes.0.load(Ordering::Relaxed) as f64;
    text.sample(name, &[("code", "200")], count);
    text.0
}

fn job_timings(text: &mut Text, snapshot: &Snapshot) {
    let jobs = &snapshot.totals.jobs;
    if jobs.is_empty() {
        return;
    }
    let name = "coderd_provisionerd_job_timings_seconds";
    text.head(
        name,
        "The provisioner job time duration in seconds.",
        "histogram",
    );
    for (succeeded, histogram) in jobs {
        let labels = [("provisioner", PROVISIONER), ("status", status(*succeeded))];
        text.histogram(name, &labels, histogram);
    }
}

fn builds(text: &mut Text, snapshot: &Snapshot) {
    let builds = &snapshot.totals.builds;
    if builds.is_empty() {
        return;
    }
    let name = "coderd_workspace_builds_total";
    let help = "The number of workspaces started, updated, or deleted.";
    text.head(name, help, "counter");
    for (labels, count) in builds {
        let owned = [
            ("workspace_owner", labels.owner.as_str()),
            ("workspace_name", labels.workspace.as_str()),
        ];
        let all = [&owned[..], &build_labels(labels)].concat();
        text.sample(name, &all, *count as f64);
    }
}

fn build_timings(text: &mut Text, snapshot: &Snapshot) {
    let times = &snapshot.totals.build_times;
    if times.is_empty() {
        return;
    }
    let name = "coderd_provisionerd_workspace_build_timings_seconds";
    text.head(
        name,
        "The time taken for a workspace to build.",
        "histogram",
    );
    for (labels, histogram) in times {
        text.histogram(name, &build_labels(labels), histogram);
    }
}

fn build_labels(labels: &BuildLabels) -> [(&'static str, &str); 4] {
    [
        ("template_name", &labels.template),
        ("template_version", &labels.template_version),
        ("workspace_transition", labels.transition),
        ("status", status(labels.succeeded)),
    ]
}

fn status(succeeded: bool) -> &'static str {
    if succeeded { "success" } else { "failed" }
}

/// Text under construction. Writing into a string cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "counter");
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (position, (label, text)) in labels.iter().enumerate() {
            self.0.push(if position == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let mut within = 0;
        for (bound, count) in BUCKETS.iter().zip(histogram.buckets) {
            within += count;
            let bound = bound.to_string();
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.sample(&bucket, &labels, within as f64);
        }
        let all = [labels, &[("le", "+Inf")]].concat();
        self.sample(&bucket, &all, histogram.count as f64);
        self.sample(&format!("{name}_sum"), labels, seconds(histogram.sum));
        self.sample(&format!("{name}_count"), labels, histogram.count as f64);
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::daemon::metrics::Totals;

    #[test]
    fn a_daemon_that_did_nothing_is_counted_as_one_without_jobs() {
        let snapshot = Snapshot {
            slots: 1,
            running: BTreeMap::new(),
            totals: Totals::default(),
            kept: 2,
            refusal: None,
        };

        let text = text(&snapshot, &Scrapes::default());

        for line in [
            "# TYPE coderd_provisionerd_num_daemons gauge\ncoderd_provisionerd_num_daemons 1\n",
            "\ncoderd_provisionerd_jobs_current{provisioner=\"terraform\"} 0\n",
            "\noutpost_provisionerd_kept_states 2\n",
            "\n# TYPE process_resident_memory_bytes gauge\n",
            "\npromhttp_metric_handler_requests_total{code=\"200\"} 1\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains("job_timings"));
    }

    #[test]
    fn buckets_are_cumulative_and_labels_are_escaped() {
        let histogram = Histogram {
            buckets: [2, 0, 1, 0, 0, 0, 0, 0],
            count: 4,
            sum: Duration::from_millis(4_000_500),
        };
        let mut text = Text::default();

        text.histogram("x", &[("a", "say \"\\\"")], &histogram);

        let lines: Vec<&str> = text.0.lines().collect();
        assert_eq!(lines[0], r#"x_bucket{a="say \"\\\"",le="1"} 2"#);
        assert_eq!(lines[2], r#"x_bucket{a="say \"\\\"",le="30"} 3"#);
        assert_eq!(lines[8], r#"x_bucket{a="say \"\\\"",le="+Inf"} 4"#);
        assert_eq!(lines[9], r#"x_sum{a="say \"\\\""} 4000.5"#);
        assert_eq!(lines[10], r#"x_count{a="say \"\\\""} 4"#);
    }
}
