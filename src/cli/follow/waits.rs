//! Reasons why a job waits, for people.

use crate::proto::outpost::v1::JobDetails;

/// Reasons that were printed last.
#[derive(Default)]
pub(super) struct Waits(Option<(i32, Vec<(String, usize)>)>);

impl Waits {
    /// Returns why the job waits, if it does and the reasons have changed. The time for which a daemon has been
    /// offline, for example, is not a change.
    pub(super) fn news(&mut self, details: &JobDetails) -> Option<String> {
        let text = why(details)?;
        let daemons = details.daemons.iter();
        let kinds = daemons.map(|it| (it.daemon.clone(), it.reasons.len()));
        let key = (details.queue_position, kinds.collect());
        if self.0.as_ref() == Some(&key) {
            return None;
        }
        self.0 = Some(key);
        Some(text)
    }
}

/// Returns why a job waits; `None` if it does not, or a daemon is about to take it.
pub(in crate::cli) fn why(details: &JobDetails) -> Option<String> {
    let is_queued = details
        .job
        .as_ref()
        .is_some_and(|job| job.status == "queued");
    let is_free = details
        .daemons
        .iter()
        .any(|it| it.eligible && it.reasons.is_empty());
    // A job that was taken between two queries of the server no longer has a position.
    if !is_queued || is_free || details.queue_position == 0 {
        return None;
    }
    let (position, length) = (details.queue_position, details.queue_length);
    let place = format!("Waiting for a provisioner daemon, at position {position} of {length}");
    if details.daemons.is_empty() {
        return Some(format!(
            "{place}: no daemon is registered; start one with `outpost provisioner start --server outpost`"
        ));
    }
    let daemons = details.daemons.iter();
    let daemons = daemons.map(|it| format!("\n  {} {}", it.daemon, it.reasons.join("; ")));
    Some(format!("{place}:{}", daemons.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::outpost::v1::{DaemonVerdict, Job};

    fn details(daemons: &[(&str, bool, &[&str])]) -> JobDetails {
        let verdict = |(name, eligible, reasons): &(&str, bool, &[&str])| DaemonVerdict {
            daemon: (*name).to_owned(),
            eligible: *eligible,
            reasons: reasons.iter().map(|it| (*it).to_owned()).collect(),
            ..DaemonVerdict::default()
        };
        JobDetails {
            job: Some(Job {
                status: "queued".to_owned(),
                ..Job::default()
            }),
            queue_position: 1,
            queue_length: 2,
            daemons: daemons.iter().map(verdict).collect(),
        }
    }

    #[test]
    fn a_job_that_nobody_is_about_to_take_says_why_and_only_once() {
        assert_eq!(why(&details(&[("a", true, &[])])), None);
        let taken = JobDetails {
            queue_position: 0,
            ..details(&[("a", true, &["is running another job"])])
        };
        assert_eq!(why(&taken), None);
        let none = why(&details(&[])).unwrap();
        assert!(
            none.contains("position 1 of 2: no daemon is registered"),
            "{none}"
        );

        let mut waits = Waits::default();
        let first = details(&[("a", true, &["is offline: last seen 5m ago"])]);
        let said = waits.news(&first).unwrap();
        assert!(
            said.ends_with(":\n  a is offline: last seen 5m ago"),
            "{said}"
        );
        let later = details(&[("a", true, &["is offline: last seen 6m ago"])]);
        assert_eq!(waits.news(&later), None);
        assert!(waits.news(&details(&[])).is_some());
    }
}
