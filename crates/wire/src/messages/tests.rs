use bytes::Bytes;
use outpost_base::job::{
    Agent, AgentAuth, App, BuildResult, CompletedJob, CompletedWork, FailedJob, FailedWork,
    FailureCode, Healthcheck, ImportResult, Job, JobId, LogLevel, LogLine, LogSource, Metadata,
    OpenIn, Parameter, Preset, Resource, Script, SharingLevel, Timing, TimingState, Transition,
    Work, WorkspaceBuild,
};
use outpost_provision::JobUpdate;
use prost::Message;

use super::*;
use crate::proto::{provisioner, provisionerd};

const ID: JobId = JobId(uuid::Uuid::from_u128(7));

fn resource() -> Resource {
    let app = App {
        slug: "code".to_owned(),
        healthcheck: Some(Healthcheck {
            url: "http://localhost".to_owned(),
            interval: 5,
            threshold: 6,
        }),
        sharing_level: SharingLevel::Public,
        open_in: OpenIn::Tab,
        ..App::default()
    };
    let agent = Agent {
        name: "main".to_owned(),
        env: [("A".to_owned(), "b".to_owned())].into(),
        apps: vec![app],
        auth: AgentAuth::InstanceId("i-1".to_owned()),
        scripts: vec![Script {
            cron: "0 0 1 * * *".to_owned(),
            ..Script::default()
        }],
        ..Agent::default()
    };
    Resource {
        name: "vm".to_owned(),
        kind: "aws_instance".to_owned(),
        agents: vec![agent],
        ..Resource::default()
    }
}

fn timing() -> Timing {
    Timing {
        start: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
        end: "2026-01-02T03:04:06Z".parse().unwrap(),
        action: "create".to_owned(),
        source: String::new(),
        resource: "a.b".to_owned(),
        stage: "apply".to_owned(),
        state: TimingState::Completed,
    }
}

#[test]
fn a_build_survives_the_wire() {
    let build = BuildResult {
        state: Bytes::from_static(b"{}"),
        resources: vec![resource()],
        timings: vec![timing()],
        ..BuildResult::default()
    };
    let job = CompletedJob {
        id: ID,
        result: CompletedWork::WorkspaceBuild(build),
    };

    let sent = provisionerd::CompletedJob::from(job).encode_to_vec();
    let received =
        CompletedJob::try_from(provisionerd::CompletedJob::decode(&sent[..]).unwrap()).unwrap();

    let CompletedWork::WorkspaceBuild(build) = received.result else {
        panic!("another kind of job")
    };
    assert_eq!(
        (received.id, build.resources, build.timings),
        (ID, vec![resource()], vec![timing()])
    );
    assert_eq!(build.state, "{}");
}

#[test]
fn an_import_survives_the_wire_with_its_addresses() {
    let import = ImportResult {
        start_resources: vec![Resource {
            address: "aws_instance.vm[0]".to_owned(),
            ..resource()
        }],
        parameters: vec![Parameter {
            validation_min: Some(0),
            ..Parameter::default()
        }],
        presets: vec![Preset {
            name: "small".to_owned(),
            ..Preset::default()
        }],
        ..ImportResult::default()
    };
    let job = CompletedJob {
        id: ID,
        result: CompletedWork::TemplateImport(Box::new(import.clone())),
    };
    let (start, stop) = addresses(&job);

    let mut received = CompletedJob::try_from(provisionerd::CompletedJob::from(job)).unwrap();
    set_addresses(&mut received, start, stop).unwrap();

    let CompletedWork::TemplateImport(received) = received.result else {
        panic!("another kind of job")
    };
    assert_eq!(received.start_resources, import.start_resources);
    assert_eq!(
        (received.parameters, received.presets),
        (import.parameters, import.presets)
    );
}

#[test]
fn addresses_that_do_not_fit_are_refused() {
    let build = BuildResult {
        resources: vec![resource()],
        ..BuildResult::default()
    };
    let mut job = CompletedJob {
        id: ID,
        result: CompletedWork::WorkspaceBuild(build),
    };

    let error = set_addresses(&mut job, Vec::new(), Vec::new()).unwrap_err();

    assert_eq!(
        error.to_string(),
        "field `addresses` of the message has an invalid value: 0 for 1 resources"
    );
}

#[test]
fn a_job_survives_the_wire() {
    let metadata = Metadata {
        transition: Transition::Destroy,
        owner_ssh_private_key: "secret".to_owned().into(),
        owner_groups: vec!["Everyone".to_owned()],
        ..Metadata::default()
    };
    let job = Job {
        id: ID,
        created_at: "2026-01-02T03:04:05.006Z".parse().unwrap(),
        provisioner: "terraform".to_owned(),
        user_name: "ada".to_owned(),
        template_archive: Bytes::from_static(b"tar"),
        work: Work::WorkspaceBuild(WorkspaceBuild {
            metadata: metadata.clone(),
            ..WorkspaceBuild::default()
        }),
        trace: [("traceparent".to_owned(), "00-…".to_owned())].into(),
    };

    let received = Job::try_from(provisionerd::AcquiredJob::from(job.clone())).unwrap();

    assert_eq!(
        (received.created_at, received.trace),
        (job.created_at, job.trace)
    );
    let Work::WorkspaceBuild(build) = received.work else {
        panic!("another kind of job")
    };
    assert_eq!(build.metadata, metadata);
}

#[test]
fn a_job_of_a_kind_that_we_do_not_know_is_not_an_error() {
    let job = provisionerd::AcquiredJob {
        job_id: ID.to_string(),
        ..provisionerd::AcquiredJob::default()
    };

    assert!(matches!(Job::try_from(job).unwrap().work, Work::Unknown));
}

#[test]
fn an_error_names_the_field() {
    let metadata = provisioner::Metadata {
        workspace_transition: 9,
        ..provisioner::Metadata::default()
    };

    let error = Metadata::try_from(metadata).unwrap_err();

    assert_eq!(error, FieldError::new("metadata.workspace_transition", 9));
}

#[test]
fn a_failure_is_never_sent_without_a_reason() {
    let work = FailedWork::WorkspaceBuild {
        state: None,
        timings: vec![timing()],
    };
    let job = FailedJob {
        id: ID,
        error: String::new(),
        code: Some(FailureCode::InsufficientQuota),
        work,
    };

    let sent = provisionerd::FailedJob::from(job);
    assert!(!sent.error.is_empty());

    let received = FailedJob::try_from(sent).unwrap();
    assert_eq!(received.code, Some(FailureCode::InsufficientQuota));
    assert!(matches!(
        received.work,
        FailedWork::WorkspaceBuild { state: None, .. }
    ));
}

#[test]
fn an_update_survives_the_wire() {
    let line = LogLine {
        source: LogSource::Provisioner,
        level: LogLevel::Warn,
        created_at: "2026-01-02T03:04:05.006Z".parse().unwrap(),
        stage: "Planning Infrastructure".to_owned(),
        output: "hm".to_owned(),
    };
    let update = JobUpdate {
        logs: vec![line.clone()],
        ..JobUpdate::heartbeat(ID)
    };

    let received = JobUpdate::try_from(provisionerd::UpdateJobRequest::from(update)).unwrap();

    assert_eq!((received.job, received.logs), (ID, vec![line]));
}

#[test]
fn times_before_1970_survive_the_wire() {
    let time = "1969-12-31T23:59:59.25Z".parse().unwrap();

    let wire = to_wire_time(time);

    assert_eq!((wire.seconds, wire.nanos), (-1, 250_000_000));
    assert_eq!(from_wire_time("time", Some(wire)), Ok(time));
}
