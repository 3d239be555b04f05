//! Recovery of jobs that dead daemons left behind: they are ended under the name of their owner, before anything new
//! begins.

use std::{convert::Infallible, sync::Arc, time::Duration};

use outpost_base::{
    job::{CompletedJob, CompletedWork, FailedJob, FailedWork, JobId, Outcome},
    stop::Stop,
};
use outpost_files::removal;
use outpost_provision::{JobSource, JobUpdate, Provisioner, Salvaged, SourceError};
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument as _, error, info, info_span, warn};

use super::{
    Config, contact,
    delivery::{Delivery, DeliveryError, LAST_WORDS},
    journal::{Entry, Journal, Journals, Record},
};

/// Interval of checks for dead siblings. A server gives a silent job up after five minutes.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Recovery of jobs that a dead daemon left behind.
pub(super) struct Recovery<'a> {
    pub(super) config: &'a Config,
    pub(super) provisioner: &'a dyn Provisioner,
    pub(super) stop: &'a Stop,
}

impl Recovery<'_> {
    /// Ends the jobs in a journal. Those that the server refuses stay for `outpost recover`.
    pub(super) async fn run(&self, journal: &Journal, source: &dyn JobSource) {
        let left = journal.entries();
        for entry in left.into_iter().filter(|entry| entry.is_pending()) {
            let span = info_span!("recovery", job_id = %entry.job, workspace = entry.workspace);
            self.end(journal, entry, source).instrument(span).await;
        }
    }

    /// Looks for dead siblings at intervals.
    pub(super) async fn look_after_siblings(&self, journals: &Journals, source: &dyn JobSource) {
        let Some(identity) = source.identity() else {
            return;
        };
        loop {
            match journals.abandoned() {
                Ok(abandoned) => {
                    for journal in abandoned {
                        self.adopt(journal, &identity.server, source).await;
                    }
                }
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot check the journals of sibling daemons"
                ),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn adopt(&self, journal: Journal, server: &str, source: &dyn JobSource) {
        let left = journal.entries();
        let name = left
            .iter()
            .find(|entry| entry.is_pending() && entry.server == server)
            .map(|entry| entry.daemon.clone());
        if let Some(name) = name
            && let Some(sibling) = source.sibling(&name)
        {
            info!(name, "finishing the jobs of a sibling daemon that died");
            self.run(&journal, sibling.as_ref()).await;
        }
        if !left.is_empty() && journal.entries().is_empty() {
            info!(
                daemon = left[0].daemon,
                "all jobs of a sibling daemon that died are finished"
            );
        }
        journal.remove_if_empty();
    }

    /// Ends one job: its remaining processes are interrupted, and the server gets the newest state.
    async fn end(&self, journal: &Journal, entry: Entry, source: &dyn JobSource) {
        let (job, dirs) = (entry.job, entry.dirs.clone());
        let answered_at = entry.answered_at.unwrap_or(entry.updated_at);
        let is_late = contact::is_older(answered_at, self.config.outage_limit);
        warn!(daemon = entry.daemon, "a daemon died during this build");
        let record = match journal.begin(entry, None).await {
            Ok(record) => record,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                return error!(
                    error,
                    "cannot write to the journal; leaving the job as it is"
                );
            }
        };
        let mut problem = None;
        if record.result().is_none() {
            // A stop of this daemon does not kill an apply: the next daemon takes it over.
            let patient = Stop::new();
            let salvaged = tokio::select! {
                salvaged = self.provisioner.salvage(&dirs, record.observer(), &patient) => salvaged,
                never = self.beat(source, job) => match never {},
                () = self.stop.killed() => return record.keep(None).await,
            };
            match salvaged {
                Salvaged::Succeeded(made) => record.salvaged(made),
                Salvaged::Ended { problem: its } => problem = its,
            }
        }
        let is_late = is_late || has_given_up(source, job).await;
        let began = Instant::now();
        let outcome = outcome(&record, job, problem);
        let delivery = Delivery::new(source, self.stop, None);
        let told = tokio::select! {
            told = delivery.tell(outcome) => told,
            () = self.impatience() => Err(DeliveryError::Stopped),
        };
        match told {
            Ok(_) => {
                info!(took = ?began.elapsed(), "the server has the state");
                match is_late && record.is_worth_keeping() {
                    true => record.taken_late().await,
                    false => record.erase().await,
                }
                for dir in &dirs {
                    if let Err(error) = removal::remove_dir(dir).await {
                        warn!(%error, dir = %dir.display(), "cannot remove a session directory");
                    }
                }
            }
            Err(DeliveryError::Stopped) => record.keep(None).await,
            Err(DeliveryError::Refused(reason)) => record.keep(Some(reason)).await,
        }
    }

    /// Ends once a stopping daemon has waited long enough for a server: the next daemon delivers the state.
    async fn impatience(&self) {
        self.stop.draining().await;
        sleep(LAST_WORDS).await;
    }

    /// Sends heartbeats of the job until this is dropped.
    async fn beat(&self, source: &dyn JobSource, job: JobId) -> Infallible {
        loop {
            // Errors are ignored here: the delivery of the result will show them.
            source.update(JobUpdate::heartbeat(job)).await.ok();
            sleep(self.config.heartbeat).await;
        }
    }
}

/// Returns whether the server says that it has given the job up. Its patience may be shorter than we assume.
async fn has_given_up(source: &dyn JobSource, job: JobId) -> bool {
    let asked = timeout(LAST_WORDS, source.update(JobUpdate::heartbeat(job))).await;
    matches!(asked, Ok(Err(SourceError::Gone(_) | SourceError::Ended(_))))
}

/// Returns the outcome of the job: the success that its daemon could not report, or a failure.
fn outcome(record: &Record, id: JobId, problem: Option<String>) -> Outcome {
    match record.result() {
        Some(result) => Outcome::Completed(CompletedJob {
            id,
            result: CompletedWork::WorkspaceBuild(result),
        }),
        None => Outcome::Failed(failure(record, id, problem)),
    }
}

fn failure(record: &Record, job: JobId, problem: Option<String>) -> FailedJob {
    let mut error =
        "the provisioner daemon died during the build; the state is the newest one that it had saved"
            .to_owned();
    for text in problem.into_iter().chain(record.warning()) {
        error.push_str(&format!("; {text}"));
    }
    let work = FailedWork::WorkspaceBuild {
        state: record.state(),
        timings: Vec::new(),
    };
    FailedJob {
        id: job,
        error,
        code: None,
        work,
    }
}

/// Looks for dead siblings of a daemon until it is dropped.
pub(super) async fn look_after_siblings(
    config: Config,
    journals: Journals,
    source: Arc<dyn JobSource>,
    provisioner: Arc<dyn Provisioner>,
    stop: Stop,
) {
    let recovery = Recovery {
        config: &config,
        provisioner: provisioner.as_ref(),
        stop: &stop,
    };
    recovery
        .look_after_siblings(&journals, source.as_ref())
        .await;
}
