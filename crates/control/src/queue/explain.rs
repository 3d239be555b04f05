//! Why a job waits: what each daemon says to it.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use super::Waiting;
use crate::model::{Daemon, DaemonId};

/// What one daemon says to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which daemon.
    pub daemon_id: DaemonId,
    /// Its name.
    pub daemon: String,
    /// Whether it may take the job at all; it may still be busy or offline.
    pub eligible: bool,
    /// Everything that keeps it from the job now; empty if it should take it at once.
    pub reasons: Vec<Reason>,
}

/// One thing that keeps a daemon from a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It belongs to another organization.
    OtherOrganization,
    /// It does not have the type of provisioner that the job needs.
    LacksProvisioner(String),
    /// It lacks a tag.
    LacksTag {
        /// The tag's name.
        name: String,
        /// The value that the job wants.
        wanted: String,
    },
    /// It has a tag with another value.
    OtherValue {
        /// The tag's name.
        name: String,
        /// The value that the job wants.
        wanted: String,
        /// The value that it has.
        has: String,
    },
    /// The job has no tags, and the daemon has some.
    TaggedDaemon {
        /// The daemon's tags.
        has: String,
    },
    /// It was not heard of for some time.
    Offline(Duration),
    /// It is running another job.
    Busy,
}

impl Reason {
    /// Whether it will still be there when the daemon is up and idle.
    fn is_lasting(&self) -> bool {
        !matches!(self, Self::Offline(_) | Self::Busy)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherOrganization => f.write_str("belongs to another organization"),
            Self::LacksProvisioner(kind) => write!(f, "does not offer the provisioner `{kind}`"),
            Self::LacksTag { name, wanted } => write!(f, "lacks the tag {name}={wanted}"),
            Self::OtherValue { name, wanted, has } => {
                write!(
                    f,
                    "has the tag {name}={has}, but the job requires {name}={wanted}"
                )
            }
            Self::TaggedDaemon { has } => {
                write!(
                    f,
                    "has tags ({has}), but untagged jobs go to untagged daemons only"
                )
            }
            Self::Offline(silent) => write!(
                f,
                "is offline: last seen {} ago",
                humantime::format_duration(Duration::from_secs(silent.as_secs()))
            ),
            Self::Busy => f.write_str("is running another job"),
        }
    }
}

/// What each of `daemons` says to `job`, eligible ones first, then by name.
///
/// `busy` tells whether a daemon works on a job; one that was silent for `offline` counts as offline.
pub fn explain(
    job: &Waiting,
    daemons: &[Daemon],
    busy: impl Fn(DaemonId) -> bool,
    offline: Duration,
    now: Timestamp,
) -> Vec<Verdict> {
    let mut verdicts: Vec<_> = daemons
        .iter()
        .map(|daemon| {
            let mut reasons = exclusions(job, daemon);
            let silent = now.duration_since(daemon.last_seen_at).unsigned_abs();
            if silent > offline && now > daemon.last_seen_at {
                reasons.push(Reason::Offline(silent));
            } else if busy(daemon.id) {
                reasons.push(Reason::Busy);
            }
            Verdict {
                daemon_id: daemon.id,
                daemon: daemon.name.clone(),
                eligible: !reasons.iter().any(Reason::is_lasting),
                reasons,
            }
        })
        .collect();
    verdicts.sort_by(|a, b| (!a.eligible, &a.daemon).cmp(&(!b.eligible, &b.daemon)));
    verdicts
}

fn exclusions(job: &Waiting, daemon: &Daemon) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if job.organization_id != daemon.organization_id {
        reasons.push(Reason::OtherOrganization);
    }
    if !daemon.provisioners.contains(&job.provisioner) {
        reasons.push(Reason::LacksProvisioner(job.provisioner.clone()));
    }
    if daemon.tags.satisfy(&job.tags) {
        return reasons;
    }
    if job.tags.are_plain() {
        reasons.push(Reason::TaggedDaemon {
            has: daemon.tags.to_string(),
        });
        return reasons;
    }
    for (name, wanted) in job.tags.as_map() {
        let (name, wanted) = (name.clone(), wanted.clone());
        match daemon.tags.as_map().get(&name) {
            None => reasons.push(Reason::LacksTag { name, wanted }),
            Some(has) if *has != wanted => reasons.push(Reason::OtherValue {
                has: has.clone(),
                name,
                wanted,
            }),
            Some(_) => {}
        }
    }
    reasons
}
