//! Reasons why a job waits: the verdict of each daemon. Pure.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use super::Waiting;
use crate::model::{Daemon, DaemonId};

/// Verdict of one daemon on a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Id of the daemon.
    pub(crate) daemon_id: DaemonId,
    /// Name of the daemon, as registered.
    pub daemon: String,
    /// Set if the daemon may take the job at all; it may still be busy or offline.
    pub eligible: bool,
    /// Reasons why the daemon does not take the job now; empty if it should.
    pub reasons: Vec<Reason>,
}

/// A reason why a daemon does not take a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The daemon belongs to another organization.
    OtherOrganization,
    /// The daemon lacks the type of provisioner that the job needs.
    LacksProvisioner(String),
    /// The daemon lacks a tag that the job needs.
    LacksTag {
        /// Name of the tag.
        name: String,
        /// Value that the job needs.
        wanted: String,
    },
    /// The daemon has the tag with another value.
    OtherValue {
        /// Name of the tag.
        name: String,
        /// Value that the job needs.
        wanted: String,
        /// Value that the daemon has.
        has: String,
    },
    /// The daemon has tags, and the job has none.
    TaggedDaemon {
        /// Tags of the daemon, as displayed.
        has: String,
    },
    /// The daemon has been silent for this long.
    Offline(Duration),
    /// The daemon is running another job.
    Busy,
}

impl Reason {
    /// Returns whether the reason will remain once the daemon is online and idle.
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

/// Returns the verdict of each of `daemons` on `job`, eligible ones first, then by name.
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
