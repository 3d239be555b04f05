mod administration;
mod clocks;
mod names;
mod simulation;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use outpost_base::job::{
    BuildResult, CompletedJob, CompletedWork, DryRunResult, FailedJob, FailedWork, ImportResult,
    Job, JobId, LogLevel, LogLine, LogSource, Parameter, ParameterValue, Resource,
    TemplateVariable, Transition, VariableValue, Work,
};
use outpost_base::secret::Secret;
use outpost_provision::JobUpdate;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{
    crypt::Key,
    model::{
        Build, BuildId, Daemon, DaemonId, EndedBy, Holder, JobRecord, JobStatus, KeyId, Version,
        Workspace,
    },
    store::{JobFilter, sqlite::Sqlite},
};

/// A control plane with a clock of its own, a caller, and a daemon that the test controls.
struct Lab {
    plane: Arc<Plane>,
    caller: Caller,
    daemon: Daemon,
    seconds: Arc<AtomicI64>,
    uptime: Arc<AtomicI64>,
}

impl Lab {
    async fn new() -> Self {
        let seconds = Arc::new(AtomicI64::new(1_000_000));
        let clock = seconds.clone();
        let uptime = Arc::new(AtomicI64::new(1000));
        let plane = Plane::new(
            Arc::new(Sqlite::in_memory().await.unwrap()),
            Vault::new(&Key::generate(), &[]),
            Limits::standard(),
            psk::Accepted::default(),
            Arc::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap()),
            Stop::new(),
        );
        let plane = Arc::new(plane.with_uptime(up("boot", &uptime)));
        let caller = Caller::inside(plane.begin().await.unwrap());
        let daemon = plane
            .register(&Credential::Shared, registration("daemon", &[]))
            .await
            .unwrap();
        Self {
            plane,
            caller,
            daemon,
            seconds,
            uptime,
        }
    }

    fn pass(&self, time: Duration) {
        let seconds = i64::try_from(time.as_secs()).unwrap();
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
        self.uptime.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Returns the job that the daemon gets without waiting, if there is one.
    async fn take(&self) -> Option<Job> {
        self.take_as(&self.daemon).await
    }

    async fn take_as(&self, daemon: &Daemon) -> Option<Job> {
        self.plane
            .acquire(daemon, std::future::ready(()))
            .await
            .unwrap()
    }

    async fn queue_version(&self, request: VersionRequest) -> Version {
        let organization = self.plane.organization("").await.unwrap().id;
        self.plane
            .create_version(&self.caller, organization, request)
            .await
            .unwrap()
    }

    /// Imports a template with one parameter and a disk that survives a stop.
    async fn import(&self) -> Version {
        let version = self.queue_version(version("demo")).await;
        let job = self.take().await.unwrap();
        self.complete(
            job.id,
            CompletedWork::TemplateImport(Box::new(import_output())),
        )
        .await
        .unwrap();
        version
    }

    async fn complete(&self, id: JobId, result: CompletedWork) -> Result<(), RequestError> {
        let completed = CompletedJob { id, result };
        self.plane.complete_job(&self.daemon, completed).await
    }

    async fn fail(&self, id: JobId, state: Option<&str>) -> Result<(), RequestError> {
        let failed = FailedJob {
            id,
            error: "terraform apply: exit status 1".to_owned(),
            code: None,
            work: FailedWork::WorkspaceBuild {
                state: state.map(|state| Bytes::from(state.to_owned())),
                timings: Vec::new(),
            },
        };
        self.plane.fail_job(&self.daemon, failed).await
    }

    async fn create_workspace(&self) -> Result<Workspace, RequestError> {
        let organization = self.plane.organization("").await?.id;
        let template = self.plane.template(organization, "demo").await?;
        let version = self.plane.version(&template, "").await?;
        let request = WorkspaceRequest {
            name: "dev".to_owned(),
            owner: String::new(),
            parameters: vec![value("size", "3")],
            preset: String::new(),
            log_level: String::new(),
        };
        self.plane
            .create_workspace(&self.caller, &template, &version, request)
            .await
    }

    async fn build(&self, workspace: &Workspace, to: Transition) -> Result<Build, RequestError> {
        let request = BuildRequest {
            transition: to,
            version: String::new(),
            parameters: Vec::new(),
            log_level: String::new(),
        };
        self.plane
            .create_build(&self.caller, workspace, request)
            .await
    }

    /// Creates a workspace, starts it with `state`, and returns the job that did it.
    async fn started(&self, state: &str) -> (Workspace, JobId) {
        self.import().await;
        let workspace = self.create_workspace().await.unwrap();
        let job = self.take().await.unwrap();
        self.complete(job.id, built(state)).await.unwrap();
        (workspace, job.id)
    }

    async fn state(&self, workspace: &Workspace) -> String {
        let state = self
            .plane
            .pull_state(&self.caller, workspace, 0)
            .await
            .unwrap();
        String::from_utf8(state).unwrap()
    }

    async fn job(&self, id: JobId) -> JobRecord {
        self.plane.job(&self.caller, id).await.unwrap()
    }
}

/// Returns the uptime clock of one boot of a machine.
fn up(boot: &'static str, seconds: &Arc<AtomicI64>) -> UptimeClock {
    let seconds = seconds.clone();
    Box::new(move || Uptime {
        boot: boot.to_owned(),
        at: Duration::from_secs(seconds.load(Ordering::Relaxed) as u64),
    })
}

fn registration(name: &str, tags: &[(&str, &str)]) -> Registration {
    Registration {
        name: name.to_owned(),
        tags: tags
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        provisioners: vec!["terraform".to_owned()],
        version: "v0.1.0".to_owned(),
        ..Registration::default()
    }
}

fn version(template: &str) -> VersionRequest {
    VersionRequest {
        template: template.to_owned(),
        archive: Bytes::from_static(b"tar"),
        name: String::new(),
        message: String::new(),
        variables: Vec::new(),
        tags: BTreeMap::new(),
        activate: true,
    }
}

fn value(name: &str, value: &str) -> ParameterValue {
    ParameterValue {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

fn resource(address: &str) -> Resource {
    Resource {
        address: address.to_owned(),
        ..Resource::default()
    }
}

fn import_output() -> ImportResult {
    ImportResult {
        start_resources: vec![resource("a.disk"), resource("a.vm")],
        stop_resources: vec![resource("a.disk")],
        parameters: vec![Parameter {
            name: "size".to_owned(),
            kind: "number".to_owned(),
            default_value: "1".to_owned(),
            mutable: true,
            ..Parameter::default()
        }],
        plan: Bytes::from_static(b"{}"),
        module_files: Bytes::from_static(b"modules"),
        ..ImportResult::default()
    }
}

fn built(state: &str) -> CompletedWork {
    CompletedWork::WorkspaceBuild(BuildResult {
        state: Bytes::from(state.to_owned()),
        resources: vec![resource("a.disk"), resource("a.vm")],
        ..BuildResult::default()
    })
}

fn line(output: &str) -> LogLine {
    LogLine {
        source: LogSource::Provisioner,
        level: LogLevel::Info,
        created_at: Timestamp::from_second(1).unwrap(),
        stage: "Planning Infrastructure".to_owned(),
        output: output.to_owned(),
    }
}

#[tokio::test]
async fn a_workspace_is_made_stopped_and_deleted() {
    let lab = Lab::new().await;
    let version = lab.import().await;
    let workspace = lab.create_workspace().await.unwrap();

    let job = lab.take().await.unwrap();
    let Work::WorkspaceBuild(build) = &job.work else {
        panic!("{:?}", job.work);
    };
    assert_eq!(job.template_archive, "tar");
    assert_eq!(build.parameters, [value("size", "3")]);
    assert!(build.previous_parameters.is_empty() && build.state.is_empty());
    let metadata = &build.metadata;
    assert_eq!(metadata.transition, Transition::Start);
    assert_eq!(
        (
            metadata.workspace_owner.as_str(),
            metadata.template_name.as_str()
        ),
        ("admin", "demo")
    );
    assert_eq!(metadata.template_version_id, version.id.to_string());
    assert_eq!(metadata.owner_groups, ["Everyone"]);
    assert!(
        lab.plane
            .authenticate(&metadata.owner_session_token)
            .await
            .is_ok()
    );
    let modules = metadata.template_version_modules_file.parse().unwrap();
    assert_eq!(
        lab.plane
            .download_modules(&lab.daemon, modules)
            .await
            .unwrap(),
        "modules"
    );
    let session = metadata.owner_session_token.clone();
    lab.complete(job.id, built("one")).await.unwrap();

    lab.build(&workspace, Transition::Stop).await.unwrap();
    let job = lab.take().await.unwrap();
    let Work::WorkspaceBuild(build) = &job.work else {
        panic!("{:?}", job.work);
    };
    assert_eq!(
        (build.state.as_ref(), build.metadata.transition),
        (&b"one"[..], Transition::Stop)
    );
    assert_eq!(build.previous_parameters, [value("size", "3")]);
    assert!(build.metadata.owner_session_token.is_empty());
    assert!(lab.plane.authenticate(&session).await.is_err());
    lab.complete(job.id, built("two")).await.unwrap();

    lab.build(&workspace, Transition::Destroy).await.unwrap();
    let job = lab.take().await.unwrap();
    lab.complete(job.id, built("")).await.unwrap();

    let gone = lab
        .plane
        .workspace(&lab.caller, workspace.organization_id, "dev")
        .await;
    assert!(matches!(gone, Err(RequestError::NotFound { .. })));
    let states = lab.plane.store().states(workspace.id).await.unwrap();
    assert_eq!(states.len(), 2);
    let builds = lab.plane.store().builds(workspace.id).await.unwrap();
    let numbers: Vec<_> = builds
        .iter()
        .map(|build| (build.number, build.has_state))
        .collect();
    assert_eq!(numbers, [(3, false), (2, true), (1, true)]);
    assert!(
        lab.create_workspace().await.is_ok(),
        "the name is free again"
    );
}

#[tokio::test]
async fn what_a_build_made_is_stored_with_what_the_import_learned() {
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;

    let build = lab
        .plane
        .store()
        .latest_build(workspace.id)
        .await
        .unwrap()
        .unwrap();
    let made = lab.plane.made(build.id).await.unwrap();

    assert_eq!(made.resources.len(), 2);
    let persistence: Vec<_> = made
        .persistence
        .values()
        .map(|kind| kind.as_str())
        .collect();
    assert_eq!(persistence, ["persistent", "ephemeral"]);
}

#[tokio::test]
async fn one_build_at_a_time() {
    let lab = Lab::new().await;
    lab.import().await;
    let workspace = lab.create_workspace().await.unwrap();

    let second = lab.build(&workspace, Transition::Stop).await;

    assert!(
        matches!(second, Err(RequestError::Conflict(reason)) if reason.contains("in progress"))
    );
}

#[tokio::test]
async fn a_repeated_terminal_message_changes_nothing_and_succeeds() {
    let lab = Lab::new().await;
    let (workspace, job) = lab.started("one").await;

    lab.complete(job, built("one")).await.unwrap();
    lab.fail(job, Some("one")).await.unwrap();

    assert_eq!(lab.job(job).await.status(), JobStatus::Succeeded);
    assert_eq!(lab.state(&workspace).await, "one");
    assert_eq!(
        lab.plane.store().states(workspace.id).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn another_daemon_cannot_touch_a_job() {
    let lab = Lab::new().await;
    let version = lab.queue_version(version("demo")).await;
    let waiting = lab
        .plane
        .update_job(&lab.daemon, JobUpdate::heartbeat(version.job_id))
        .await;
    assert!(matches!(waiting, Err(RequestError::Conflict(_))));
    lab.take().await.unwrap();
    let other = registration("other", &[]);
    let other = lab
        .plane
        .register(&Credential::Shared, other)
        .await
        .unwrap();

    let update = lab
        .plane
        .update_job(&other, JobUpdate::heartbeat(version.job_id))
        .await;
    let result = CompletedWork::TemplateImport(Box::default());
    let completed = CompletedJob {
        id: version.job_id,
        result,
    };
    let complete = lab.plane.complete_job(&other, completed).await;

    for refused in [update.map(|_| ()), complete] {
        let error = refused.unwrap_err();
        assert!(matches!(&error, RequestError::Gone(_)), "{error}");
        assert_eq!(error.to_string(), "you don't own this job");
    }
}

#[tokio::test]
async fn a_daemon_that_registers_again_keeps_its_id_and_its_jobs() {
    let lab = Lab::new().await;
    let version = lab.queue_version(version("demo")).await;
    lab.take().await.unwrap();

    let again = registration("daemon", &[("gpu", "yes")]);
    let again = lab
        .plane
        .register(&Credential::Shared, again)
        .await
        .unwrap();

    assert_eq!(again.id, lab.daemon.id);
    let update = JobUpdate::heartbeat(version.job_id);
    assert!(lab.plane.update_job(&again, update).await.is_ok());
}

#[tokio::test]
async fn a_failed_build_keeps_the_state_it_had_unless_it_brings_one() {
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;

    lab.build(&workspace, Transition::Stop).await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.fail(job, None).await.unwrap();
    assert_eq!(lab.state(&workspace).await, "one");
    assert_eq!(lab.job(job).await.status(), JobStatus::Failed);

    lab.build(&workspace, Transition::Stop).await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.fail(job, Some("partial")).await.unwrap();
    assert_eq!(lab.state(&workspace).await, "partial");
}

#[tokio::test]
async fn a_silent_job_is_ended_after_its_lease_and_its_late_success_counts() {
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    let build = lab.build(&workspace, Transition::Stop).await.unwrap();
    let job = lab.take().await.unwrap().id;
    let update = JobUpdate {
        logs: vec![line("working")],
        ..JobUpdate::heartbeat(job)
    };
    lab.plane.update_job(&lab.daemon, update).await.unwrap();

    lab.pass(Duration::from_secs(300));
    assert!(lab.plane.reap().await.unwrap().is_empty());
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.plane.reap().await.unwrap(), [job]);
    assert!(lab.plane.reap().await.unwrap().is_empty());

    let record = lab.job(job).await;
    assert_eq!(
        (record.status(), record.ended_by),
        (JobStatus::Failed, Some(EndedBy::Reaper))
    );
    let lines = lab.plane.store().log_lines(job, 0, 100).await.unwrap();
    let stages: Vec<_> = lines
        .iter()
        .map(|stored| stored.line.stage.as_str())
        .collect();
    assert_eq!(stages, ["Planning Infrastructure"; 4]);
    let gone = lab
        .plane
        .update_job(&lab.daemon, JobUpdate::heartbeat(job))
        .await;
    assert!(matches!(gone, Err(RequestError::Gone(_))));
    assert_eq!(lab.state(&workspace).await, "one");

    // The daemon was only disconnected, and what it has built exists.
    for _ in 0..2 {
        lab.complete(job, built("two")).await.unwrap();
        let record = lab.job(job).await;
        assert_eq!(
            (record.status(), record.error, record.ended_by),
            (JobStatus::Succeeded, String::new(), Some(EndedBy::Daemon))
        );
        assert_eq!(lab.state(&workspace).await, "two");
    }
    let lines = lab.plane.store().log_lines(job, 0, 100).await.unwrap();
    let last = format!(
        "Provisioner daemon {} delivered the result of the build, which has succeeded.",
        lab.daemon.name
    );
    assert_eq!((lines.len(), &lines[4].line.output), (5, &last));
    assert_eq!(lab.plane.made(build.id).await.unwrap().resources.len(), 2);
    assert_eq!(lab.audited("job.late").await.len(), 1);
    let failed = lab.fail(job, Some("three")).await;
    assert!(failed.is_ok() && lab.state(&workspace).await == "two");
    let states = lab.plane.store().states(workspace.id).await.unwrap();
    assert!(
        states
            .iter()
            .any(|state| state.build_id == build.id && state.adopted)
    );
}

#[tokio::test]
async fn a_late_state_does_not_replace_that_of_a_newer_build_but_is_kept() {
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    lab.build(&workspace, Transition::Stop).await.unwrap();
    let lost = lab.take().await.unwrap().id;
    lab.pass(Duration::from_secs(301));
    lab.plane.reap().await.unwrap();
    lab.build(&workspace, Transition::Start).await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.complete(job, built("three")).await.unwrap();

    lab.complete(lost, built("two")).await.unwrap();
    lab.complete(lost, built("two")).await.unwrap();

    assert_eq!(lab.state(&workspace).await, "three");
    let states = lab.plane.store().states(workspace.id).await.unwrap();
    assert_eq!(
        states.iter().map(|state| state.adopted).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(lab.job(lost).await.status(), JobStatus::Failed);
    assert_eq!(lab.audited("state.late").await.len(), 1);
}

#[tokio::test]
async fn a_late_success_does_not_count_where_somebody_else_has_decided() {
    // Somebody has repaired the state by hand.
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    let build = lab.build(&workspace, Transition::Stop).await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.pass(Duration::from_secs(301));
    lab.plane.reap().await.unwrap();
    let repaired = lab.plane.new_state(build.id, b"repaired");
    let pushed = lab
        .plane
        .store()
        .replace_state(build.id, repaired, lab.plane.now());
    assert!(pushed.await.unwrap());
    lab.complete(job, built("two")).await.unwrap();
    assert_eq!(lab.job(job).await.ended_by, Some(EndedBy::Reaper));

    // The server has ended the job, because its daemon said that it had applied nothing.
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    lab.build(&workspace, Transition::Stop).await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.plane.end(job, "restarted".to_owned()).await.unwrap();
    lab.complete(job, built("two")).await.unwrap();
    assert_eq!(lab.job(job).await.ended_by, Some(EndedBy::Server));

    // Only the daemon that took the job is heard, and only with its credential.
    let lab = Lab::new().await;
    let (workspace, _) = lab.started("one").await;
    lab.build(&workspace, Transition::Destroy).await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.pass(Duration::from_secs(301));
    lab.plane.reap().await.unwrap();
    let strangers = [
        Daemon {
            id: DaemonId::random(),
            ..lab.daemon.clone()
        },
        Daemon {
            holder: Holder::Key(KeyId::random()),
            ..lab.daemon.clone()
        },
    ];
    for stranger in &strangers {
        let result = built("two");
        let completed = CompletedJob { id: job, result };
        let refused = lab.plane.complete_job(stranger, completed).await;
        assert!(refused.is_err());
    }
    assert_eq!(lab.job(job).await.ended_by, Some(EndedBy::Reaper));
    lab.complete(job, built("")).await.unwrap();
    assert_eq!(lab.job(job).await.status(), JobStatus::Succeeded);
    let workspace = lab.plane.store().workspace(workspace.id).await.unwrap();
    assert!(workspace.unwrap().deleted_at.is_some());
}

#[tokio::test]
async fn a_job_that_nobody_takes_is_ended_after_half_an_hour() {
    let lab = Lab::new().await;
    let version = lab.queue_version(version("demo")).await;

    lab.pass(Duration::from_secs(1800));
    assert!(lab.plane.reap().await.unwrap().is_empty());
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.plane.reap().await.unwrap(), [version.job_id]);

    assert_eq!(lab.job(version.job_id).await.status(), JobStatus::Failed);
}

#[tokio::test]
async fn the_reaper_ends_a_limited_number_of_jobs_at_once() {
    let lab = Lab::new().await;
    for _ in 0..12 {
        lab.queue_version(version("demo")).await;
    }
    lab.pass(Duration::from_secs(1801));

    assert_eq!(lab.plane.reap().await.unwrap().len(), 10);
    assert_eq!(lab.plane.reap().await.unwrap().len(), 2);
}

#[tokio::test]
async fn cancelling_ends_a_waiting_job_and_asks_a_running_one() {
    let lab = Lab::new().await;
    let waiting = lab.queue_version(version("demo")).await.job_id;
    let cancelled = lab.plane.cancel_job(&lab.caller, waiting).await.unwrap();
    assert_eq!(cancelled.status(), JobStatus::Cancelled);
    assert!(lab.take().await.is_none());

    let running = lab.queue_version(version("demo")).await.job_id;
    lab.take().await.unwrap();
    let before = lab
        .plane
        .update_job(&lab.daemon, JobUpdate::heartbeat(running))
        .await;
    assert!(!before.unwrap().cancelled);
    let cancelled = lab.plane.cancel_job(&lab.caller, running).await.unwrap();
    assert_eq!(cancelled.status(), JobStatus::Cancelling);
    let after = lab
        .plane
        .update_job(&lab.daemon, JobUpdate::heartbeat(running))
        .await;
    assert!(after.unwrap().cancelled);
    let again = lab.plane.cancel_job(&lab.caller, running).await;
    assert!(matches!(again, Err(RequestError::Conflict(_))));
}

#[tokio::test]
async fn a_posted_job_wakes_a_waiting_daemon() {
    let lab = Lab::new().await;
    let waiting = lab.plane.acquire(&lab.daemon, std::future::pending());
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());

    let (job, version) = tokio::join!(waiting, lab.queue_version(version("demo")));

    assert_eq!(job.unwrap().unwrap().id, version.job_id);
}

#[tokio::test]
async fn a_job_is_handed_to_one_of_many_daemons() {
    let lab = Lab::new().await;
    let mut waiting = tokio::task::JoinSet::new();
    let (end, _) = tokio::sync::broadcast::channel::<()>(1);
    for number in 0..8 {
        let daemon = registration(&format!("daemon-{number}"), &[]);
        let daemon = lab
            .plane
            .register(&Credential::Shared, daemon)
            .await
            .unwrap();
        let (plane, mut end) = (lab.plane.clone(), end.subscribe());
        waiting.spawn(async move {
            let ended = async move { drop(end.recv().await) };
            plane.acquire(&daemon, ended).await.unwrap()
        });
    }
    let version = lab.queue_version(version("demo")).await;

    let first = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(first.unwrap().id, version.job_id);
    end.send(()).unwrap();
    while let Some(other) = waiting.join_next().await {
        assert!(other.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_job_for_a_daemon_that_went_away_fails_at_once() {
    let lab = Lab::new().await;
    let version = lab.queue_version(version("demo")).await;

    // Dropped after it was polled once: the job is being taken.
    assert!(
        lab.plane
            .acquire(&lab.daemon, std::future::pending())
            .now_or_never()
            .is_none()
    );

    let mut changes = lab.plane.changed.subscribe();
    while lab.job(version.job_id).await.completed_at.is_none() {
        changes.changed().await.unwrap();
    }
    let job = lab.job(version.job_id).await;
    assert_eq!(job.error, "connection to provisioner daemon broken");
}

#[tokio::test]
async fn variables_get_their_values_and_missing_ones_are_named() {
    let lab = Lab::new().await;
    let given = VariableValue {
        name: "given".to_owned(),
        value: Secret::new("secret"),
        sensitive: false,
    };
    let request = VersionRequest {
        variables: vec![given],
        ..version("demo")
    };
    let version = lab.queue_version(request).await;
    let job = lab.take().await.unwrap();
    let Work::TemplateImport(import) = job.work else {
        panic!("{:?}", job.work);
    };
    assert!(import.user_variables[0].sensitive);
    let declared = |name: &str, default: &str, required| TemplateVariable {
        name: name.to_owned(),
        default_value: default.to_owned(),
        required,
        ..TemplateVariable::default()
    };
    let update = |variables| JobUpdate {
        template_variables: variables,
        user_variables: import.user_variables.clone(),
        readme: Bytes::from_static(b"# Demo"),
        ..JobUpdate::heartbeat(job.id)
    };

    let complete = update(vec![
        declared("given", "", true),
        declared("other", "7", false),
    ]);
    let updated = lab.plane.update_job(&lab.daemon, complete).await.unwrap();
    let values: Vec<_> = updated
        .variables
        .iter()
        .map(|value| value.value.expose())
        .collect();
    assert_eq!(values, ["secret", "7"]);

    let missing = update(vec![
        declared("given", "", true),
        declared("a", "", true),
        declared("b", "", true),
    ]);
    let error = lab
        .plane
        .update_job(&lab.daemon, missing)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "required template variables need values: a, b"
    );
    let import_output = lab.plane.store().import_output(version.id).await.unwrap();
    assert_eq!(import_output.readme, "# Demo");
}

#[tokio::test]
async fn a_dry_run_gives_resources() {
    let lab = Lab::new().await;
    let version = lab.import().await;
    let organization = lab.plane.organization("").await.unwrap().id;
    let template = lab.plane.template(organization, "demo").await.unwrap();
    let given = [value("size", "5")];

    let job = lab
        .plane
        .create_dry_run(&lab.caller, &template, &version, &given, String::new())
        .await
        .unwrap();
    let early = lab.plane.dry_run(&lab.caller, job.id).await;
    assert!(matches!(early, Err(RequestError::Conflict(_))));
    let taken = lab.take().await.unwrap();
    let Work::TemplateDryRun(dry_run) = taken.work else {
        panic!("{:?}", taken.work);
    };
    assert_eq!(dry_run.parameters, given);
    let result = DryRunResult {
        resources: vec![resource("a.vm")],
        modules: Vec::new(),
    };
    lab.complete(job.id, CompletedWork::TemplateDryRun(result))
        .await
        .unwrap();

    let result = lab.plane.dry_run(&lab.caller, job.id).await.unwrap();
    assert_eq!(result.resources, [resource("a.vm")]);
}

#[tokio::test]
async fn a_result_of_another_kind_is_refused() {
    let lab = Lab::new().await;
    let version = lab.queue_version(version("demo")).await;
    lab.take().await.unwrap();

    let refused = lab.complete(version.job_id, built("state")).await;

    assert!(matches!(refused, Err(RequestError::Invalid(_))));
    assert_eq!(lab.job(version.job_id).await.status(), JobStatus::Running);
}

#[tokio::test]
async fn resources_that_no_server_accepts_are_refused_and_the_state_still_comes() {
    let lab = Lab::new().await;
    lab.import().await;
    let workspace = lab.create_workspace().await.unwrap();
    let job = lab.take().await.unwrap().id;
    let agent = outpost_base::job::Agent {
        name: "dev_1".to_owned(),
        ..outpost_base::job::Agent::default()
    };
    let result = BuildResult {
        state: Bytes::from_static(b"one"),
        resources: vec![Resource {
            agents: vec![agent],
            ..resource("a.vm")
        }],
        ..BuildResult::default()
    };

    let refused = lab
        .complete(job, CompletedWork::WorkspaceBuild(result))
        .await;

    assert!(matches!(refused, Err(RequestError::Invalid(reason)) if reason.contains("dev_1")));
    lab.fail(job, Some("one")).await.unwrap();
    assert_eq!(lab.state(&workspace).await, "one");
}

#[tokio::test]
async fn an_agent_that_never_came_is_late_after_its_template_s_time() {
    let lab = Lab::new().await;
    lab.import().await;
    let workspace = lab.create_workspace().await.unwrap();
    let job = lab.take().await.unwrap().id;
    lab.pass(Duration::from_secs(200)); // A long build does not make the agent late.
    let token = uuid::Uuid::new_v4().to_string();
    let agent = outpost_base::job::Agent {
        name: "main".to_owned(),
        auth: outpost_base::job::AgentAuth::Token(token),
        connection_timeout_seconds: 120,
        ..outpost_base::job::Agent::default()
    };
    let result = BuildResult {
        state: Bytes::from_static(b"one"),
        resources: vec![Resource {
            agents: vec![agent],
            ..resource("a.vm")
        }],
        ..BuildResult::default()
    };
    lab.complete(job, CompletedWork::WorkspaceBuild(result))
        .await
        .unwrap();
    let facts = lab.plane.last_agent(workspace.id, "").await;
    let AgentFacts { record, agent, .. } = facts.unwrap();

    assert_eq!(
        lab.plane.agent_status(&record, &agent),
        AgentStatus::Connecting
    );
    lab.pass(Duration::from_secs(121));
    assert_eq!(
        lab.plane.agent_status(&record, &agent),
        AgentStatus::Timeout
    );
    let patient = outpost_base::job::Agent {
        connection_timeout_seconds: 0,
        ..agent
    };
    assert_eq!(
        lab.plane.agent_status(&record, &patient),
        AgentStatus::Connecting
    );
}

#[tokio::test]
async fn quota_refuses_what_costs_more_than_before_and_more_than_the_budget() {
    let lab = Lab::new().await;
    lab.import().await;
    lab.plane
        .set_budget(&lab.caller, "admin", Some(10))
        .await
        .unwrap();
    let workspace = lab.create_workspace().await.unwrap();
    let job = lab.take().await.unwrap().id;

    let over = lab.plane.commit_quota(&lab.daemon, job, 11).await.unwrap();
    assert_eq!((over.ok, over.consumed, over.budget), (false, 0, 10));
    let fits = lab.plane.commit_quota(&lab.daemon, job, 10).await.unwrap();
    assert_eq!((fits.ok, fits.consumed), (true, 10));
    let again = lab.plane.commit_quota(&lab.daemon, job, 10).await.unwrap();
    assert_eq!(again, fits);
    lab.complete(job, built("one")).await.unwrap();

    lab.plane
        .set_budget(&lab.caller, "admin", Some(5))
        .await
        .unwrap();
    lab.build(&workspace, Transition::Start).await.unwrap();
    let job = lab.take().await.unwrap().id;
    let cheaper = lab.plane.commit_quota(&lab.daemon, job, 9).await.unwrap();
    assert!(cheaper.ok, "it costs less than before");
    let (_, consumed) = lab.plane.quota(&lab.caller, "", "").await.unwrap();
    assert_eq!(consumed, 9);
}

#[tokio::test]
async fn answers_are_checked_before_anything_is_queued() {
    let lab = Lab::new().await;
    lab.import().await;
    let organization = lab.plane.organization("").await.unwrap().id;
    let template = lab.plane.template(organization, "demo").await.unwrap();
    let version = lab.plane.version(&template, "").await.unwrap();
    let request = WorkspaceRequest {
        name: "dev".to_owned(),
        owner: String::new(),
        parameters: vec![value("size", "large")],
        preset: String::new(),
        log_level: String::new(),
    };

    let refused = lab
        .plane
        .create_workspace(&lab.caller, &template, &version, request)
        .await;

    let error = refused.unwrap_err().to_string();
    assert_eq!(
        error,
        "parameter `size` is \"large\", which is not a whole number"
    );
    assert!(lab.plane.store().waiting().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_version_cannot_be_used_before_its_import_succeeded() {
    let lab = Lab::new().await;
    lab.queue_version(version("demo")).await;

    let error = lab.create_workspace().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no active version of the template `demo`"
    );

    let organization = lab.plane.organization("").await.unwrap().id;
    let template = lab.plane.template(organization, "demo").await.unwrap();
    let version = lab.plane.version(&template, "v1").await.unwrap();
    let activated = lab
        .plane
        .activate_version(&lab.caller, &template, &version)
        .await;
    let error = activated.unwrap_err().to_string();
    assert_eq!(
        error,
        "the template version `v1` cannot be used: its import is queued"
    );
}

#[tokio::test]
async fn workspace_tags_decide_who_builds() {
    let lab = Lab::new().await;
    let version = lab.queue_version(version("demo")).await;
    let job = lab.take().await.unwrap();
    let tag = (
        "size".to_owned(),
        "data.coder_parameter.size.value".to_owned(),
    );
    let update = JobUpdate {
        workspace_tags: BTreeMap::from([tag]),
        ..JobUpdate::heartbeat(version.job_id)
    };
    lab.plane.update_job(&lab.daemon, update).await.unwrap();
    let result = CompletedWork::TemplateImport(Box::new(import_output()));
    lab.complete(job.id, result).await.unwrap();
    lab.create_workspace().await.unwrap();

    assert!(lab.take().await.is_none());
    let large = registration("large", &[("size", "3")]);
    let large = lab
        .plane
        .register(&Credential::Shared, large)
        .await
        .unwrap();
    assert!(lab.take_as(&large).await.is_some());
}

#[tokio::test]
async fn a_followed_log_ends_with_its_job_and_lacks_nothing() {
    let lab = Lab::new().await;
    let version = lab.queue_version(version("demo")).await;
    let id = lab.take().await.unwrap().id;
    let logs = lab.plane.logs(&lab.caller, id, 0, true).await.unwrap();
    let reading = tokio::spawn(logs.map(Result::unwrap).concat());

    for number in 0..5 {
        let update = JobUpdate {
            logs: vec![line(&number.to_string())],
            ..JobUpdate::heartbeat(id)
        };
        lab.plane.update_job(&lab.daemon, update).await.unwrap();
        tokio::task::yield_now().await;
    }
    let result = CompletedWork::TemplateImport(Box::new(import_output()));
    lab.complete(version.job_id, result).await.unwrap();

    let read = reading.await.unwrap();
    let read: Vec<_> = read
        .iter()
        .map(|stored| stored.line.output.as_str())
        .collect();
    assert_eq!(read, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn members_see_their_own_things_only() {
    let lab = Lab::new().await;
    let (workspace, job) = lab.started("one").await;
    let new = NewUser {
        name: "member".to_owned(),
        email: String::new(),
        full_name: String::new(),
        admin: false,
        budget: None,
    };
    let member = lab.plane.create_user(&lab.caller, new).await.unwrap();
    let member = Caller::inside(member);

    let organization = workspace.organization_id;
    let id = workspace.id.to_string();
    let found = lab.plane.workspace(&member, organization, &id).await;
    assert!(matches!(found, Err(RequestError::NotFound { .. })));
    assert!(matches!(
        lab.plane.job(&member, job).await,
        Err(RequestError::NotFound { .. })
    ));
    assert!(
        lab.plane
            .jobs(&member, JobFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    let key = lab
        .plane
        .create_key(&member, "", "key", BTreeMap::new())
        .await;
    assert!(matches!(key, Err(RequestError::Forbidden(_))));
    let audit = lab.plane.audit_log(&member, None, 10).await;
    assert!(matches!(audit, Err(RequestError::Forbidden(_))));
}

#[tokio::test]
async fn a_daemon_with_a_key_has_the_keys_tags_until_the_key_is_deleted() {
    let lab = Lab::new().await;
    let tags = BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]);
    let (_, value) = lab
        .plane
        .create_key(&lab.caller, "", "lab", tags)
        .await
        .unwrap();
    let credential = lab
        .plane
        .daemon_credential(None, Some(&value))
        .await
        .unwrap();

    let tagged = lab
        .plane
        .register(&credential, registration("x", &[("a", "b")]))
        .await;
    assert!(matches!(tagged, Err(RequestError::Forbidden(_))));
    let daemon = lab
        .plane
        .register(&credential, registration("x", &[]))
        .await
        .unwrap();
    assert_eq!(daemon.tags.to_string(), "gpu=yes");

    let (plane, waiting) = (lab.plane.clone(), daemon.clone());
    let waiting =
        tokio::spawn(async move { plane.acquire(&waiting, std::future::pending()).await });
    tokio::task::yield_now().await;
    lab.plane.delete_key(&lab.caller, "", "lab").await.unwrap();
    let ended = waiting.await.unwrap();
    assert!(matches!(ended, Err(RequestError::Unauthenticated(_))));
    assert!(
        lab.plane
            .daemon_credential(None, Some(&value))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_token_ends_with_its_lifetime_and_is_audited() {
    let lab = Lab::new().await;
    let lifetime = Some(Duration::from_secs(60));
    let (token, value) = lab
        .plane
        .create_token(&lab.caller, "", "short", lifetime)
        .await
        .unwrap();
    assert!(lab.plane.authenticate(&value).await.is_ok());

    lab.pass(Duration::from_secs(60));
    assert!(matches!(
        lab.plane.authenticate(&value).await,
        Err(RequestError::Unauthenticated(_))
    ));
    lab.plane
        .revoke_token(&lab.caller, &token.id.to_string())
        .await
        .unwrap();
    let audit = lab.plane.audit_log(&lab.caller, None, 3).await.unwrap();
    let actions: Vec<_> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["token.revoke", "token.login", "token.create"]);
}

#[tokio::test]
async fn an_unknown_build_is_not_found() {
    let lab = Lab::new().await;

    for named in [BuildId::random().to_string(), "x".to_owned()] {
        let found = lab.plane.build(&lab.caller, &named).await;
        assert!(matches!(found, Err(RequestError::NotFound { .. })));
    }
}

#[tokio::test]
async fn a_recovered_state_is_taken_only_if_it_is_newer_than_the_one_that_is_known() {
    let (known, newer) = (
        r#"{"lineage":"a","serial":2}"#,
        r#"{"lineage":"a","serial":3}"#,
    );
    let lab = Lab::new().await;
    let (workspace, _) = lab.started(known).await;
    let push = |state: &'static str| {
        lab.plane
            .push_state(&lab.caller, &workspace, state.as_bytes())
    };

    for state in [known, r#"{"lineage":"b","serial":9}"#] {
        let refused = push(state).await;
        assert!(matches!(refused, Err(RequestError::Conflict(_))));
    }
    assert!(matches!(
        push("no state").await,
        Err(RequestError::Invalid(_))
    ));
    assert_eq!(lab.state(&workspace).await, known);

    assert_eq!(push(newer).await.unwrap(), 1);
    assert_eq!(lab.state(&workspace).await, newer);
}

#[tokio::test]
async fn modules_that_no_import_named_are_removed_after_a_while_and_others_stay() {
    let lab = Lab::new().await;
    let (lost, used) = (Bytes::from_static(b"lost"), Bytes::from_static(b"used"));
    let digest = |content: &Bytes| Sha256::digest(content).to_vec();
    for content in [&lost, &used] {
        lab.plane.upload_modules(content.clone()).await.unwrap();
    }
    lab.queue_version(version("demo")).await;
    let job = lab.take().await.unwrap();
    let result = ImportResult {
        module_files: lab.plane.uploaded_modules(&digest(&used)).await.unwrap(),
        ..import_output()
    };
    lab.complete(job.id, CompletedWork::TemplateImport(Box::new(result)))
        .await
        .unwrap();

    lab.pass(Duration::from_secs(3500));
    lab.plane.reap().await.unwrap();
    assert_eq!(
        lab.plane.uploaded_modules(&digest(&lost)).await.unwrap(),
        lost
    );
    assert!(lab.plane.store().unused_modules().await.unwrap().len() == 1);

    lab.pass(Duration::from_secs(100));
    lab.plane.reap().await.unwrap();
    assert!(lab.plane.uploaded_modules(&digest(&lost)).await.is_err());
    assert_eq!(
        lab.plane.uploaded_modules(&digest(&used)).await.unwrap(),
        used
    );
}
