//! What people and daemons may do, and what they are told.

use futures::StreamExt as _;
use outpost::{
    control::{self, Registration, Storage, tokens},
    job::{LogLevel, LogLine, LogSource},
    proto::outpost::v1::{self as api},
    provision::{JobSource as _, JobUpdate, SourceError},
    stop::Stop,
    transport::auth::Credential,
};
use tokio::time::timeout;
use tonic::Code;

use super::{
    Lab, PATIENCE, build_id, built, config, daemon, imported, pull_state, state_of,
    version_request, workspace_request,
};

#[tokio::test]
async fn a_workspace_is_built_over_grpc() {
    let mut lab = Lab::start(Storage::Memory).await;
    let source = lab.daemon("daemon");
    lab.import(&source).await;

    let workspace = lab
        .api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap()
        .into_inner();
    let job = source.acquire(&Stop::new()).await.unwrap().unwrap();
    let line = LogLine {
        source: LogSource::Provisioner,
        level: LogLevel::Info,
        created_at: job.created_at,
        stage: "Starting workspace".to_owned(),
        output: "hello".to_owned(),
    };
    let update = JobUpdate {
        logs: vec![line],
        ..JobUpdate::heartbeat(job.id)
    };
    source.update(update).await.unwrap();
    source.complete(built(&job)).await.unwrap();

    let build = workspace.latest_build.unwrap();
    let request = api::ShowBuildRequest { build: build.id };
    let details = lab.api.show_build(request).await.unwrap().into_inner();
    let resources: Vec<_> = details
        .resources
        .iter()
        .map(|found| {
            (
                found.address.as_str(),
                found.class.as_str(),
                found.persistence.as_str(),
            )
        })
        .collect();
    let expected = [
        ("a.disk", "peripheral", "persistent"),
        ("a.vm", "peripheral", "ephemeral"),
    ];
    assert_eq!(resources, expected);
    let build = details.build.unwrap();
    let record = build.job.unwrap();
    assert_eq!(
        (record.status.as_str(), record.worker.as_str()),
        ("succeeded", "daemon")
    );
    assert_eq!(
        pull_state(&mut lab.api, "dev").await,
        state_of(&build_id(&job))
    );
    let request = api::StreamLogsRequest {
        job_id: record.id,
        after: 0,
        follow: true,
    };
    let batches = lab.api.stream_logs(request).await.unwrap().into_inner();
    let lines: Vec<_> = batches
        .flat_map(|batch| futures::stream::iter(batch.unwrap().lines))
        .collect()
        .await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].output, "hello");
}

#[tokio::test]
async fn a_waiting_job_says_which_daemons_exist_and_what_excludes_each() {
    let mut lab = Lab::start(Storage::Memory).await;
    for (name, tags) in [("plain", vec![]), ("far", vec![("region", "us")])] {
        let tags = tags
            .into_iter()
            .map(|(name, value): (&str, &str)| (name.to_owned(), value.to_owned()));
        let registration = Registration {
            name: name.to_owned(),
            tags: tags.collect(),
            provisioners: vec!["terraform".to_owned()],
            version: "v0.1.0".to_owned(),
            ..Registration::default()
        };
        lab.server.local_source(registration).await.unwrap();
    }
    let request = api::CreateVersionRequest {
        tags: [("region".to_owned(), "eu".to_owned())].into(),
        ..version_request("demo")
    };
    let version = lab.api.create_version(request).await.unwrap().into_inner();

    let request = api::ShowJobRequest {
        id: version.job.unwrap().id,
    };
    let details = lab.api.show_job(request).await.unwrap().into_inner();

    assert_eq!(details.job.unwrap().status, "queued");
    assert_eq!((details.queue_position, details.queue_length), (1, 1));
    let verdicts: Vec<_> = details
        .daemons
        .iter()
        .map(|verdict| {
            (
                verdict.daemon.as_str(),
                verdict.eligible,
                verdict.reasons[0].as_str(),
            )
        })
        .collect();
    let expected = [
        (
            "far",
            false,
            "has the tag region=us, but the job requires region=eu",
        ),
        ("plain", false, "lacks the tag region=eu"),
    ];
    assert_eq!(verdicts, expected);
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_registers_nobody() {
    let mut lab = Lab::start(Storage::Memory).await;

    for credential in [
        Credential::Psk(tokens::generate()),
        Credential::Key(tokens::generate()),
    ] {
        let source = daemon(lab.server.url(), "daemon", credential);
        let error = source.acquire(&Stop::new()).await.unwrap_err();
        assert!(matches!(error, SourceError::Unauthorized(_)), "{error}");
    }

    let daemons = lab
        .api
        .list_daemons(api::ListDaemonsRequest::default())
        .await
        .unwrap();
    assert!(daemons.into_inner().daemons.is_empty());
}

#[tokio::test]
async fn two_keys_are_valid_while_they_are_changed() {
    let (old, new) = (tokens::generate(), tokens::generate());
    let temp = tempfile::tempdir().unwrap();
    let storage = Storage::Directory(temp.path().to_owned());
    let mut both = config(storage.clone(), &old);
    both.psks.push(new.clone());
    let mut lab = Lab::with(both).await;
    for psk in [&old, &new] {
        let source = daemon(lab.server.url(), "daemon", Credential::Psk(psk.clone()));
        lab.api
            .create_version(version_request("demo"))
            .await
            .unwrap();
        let job = source.acquire(&Stop::new()).await.unwrap().unwrap();
        source.complete(imported(job.id)).await.unwrap();
    }
    let shown = lab
        .api
        .show_pre_shared_keys(api::ShowPreSharedKeysRequest {})
        .await
        .unwrap();
    assert_eq!(shown.into_inner().fingerprints.len(), 2);
    lab.server.shutdown().await;

    let lab = Lab::with(config(storage, &new)).await;
    let source = daemon(lab.server.url(), "daemon", Credential::Psk(old));
    let error = source.acquire(&Stop::new()).await.unwrap_err();
    assert!(matches!(error, SourceError::Unauthorized(_)), "{error}");
}

#[tokio::test]
async fn keys_follow_their_file_without_a_restart() {
    let (old, new) = (tokens::generate(), tokens::generate());
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("psk");
    std::fs::write(&file, old.expose()).unwrap();
    let config = outpost::control::Config {
        psk_file: Some(file.clone()),
        ..config(Storage::Memory, &tokens::generate())
    };
    let mut lab = Lab::with(config).await;
    let source = daemon(lab.server.url(), "old", Credential::Psk(old));
    let waiting = tokio::spawn(async move {
        loop {
            // The connection may break before the refusal of the call arrives; the next one is refused then.
            match source.acquire(&Stop::new()).await {
                Err(SourceError::Lost(_)) => {}
                ended => break ended,
            }
        }
    });
    let registered = async {
        let request = api::ListDaemonsRequest::default;
        while lab
            .api
            .list_daemons(request())
            .await
            .unwrap()
            .into_inner()
            .daemons
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, registered).await.unwrap();

    std::fs::write(&file, new.expose()).unwrap();

    let shown = lab
        .api
        .show_pre_shared_keys(api::ShowPreSharedKeysRequest {});
    assert_eq!(shown.await.unwrap().into_inner().fingerprints.len(), 2);
    let error = timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, SourceError::Unauthorized(_)), "{error}");
    lab.api
        .create_version(version_request("demo"))
        .await
        .unwrap();
    let source = daemon(lab.server.url(), "new", Credential::Psk(new));
    let job = timeout(PATIENCE, source.acquire(&Stop::new()))
        .await
        .unwrap();
    assert!(job.unwrap().is_some());
}

#[tokio::test]
async fn a_daemon_with_a_provisioner_key_takes_the_keys_jobs() {
    let mut lab = Lab::start(Storage::Memory).await;
    let tags: std::collections::BTreeMap<_, _> = [("gpu".to_owned(), "yes".to_owned())].into();
    let request = api::CreateProvisionerKeyRequest {
        name: "lab".to_owned(),
        tags: tags.clone(),
        ..Default::default()
    };
    let key = lab
        .api
        .create_provisioner_key(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(key.value.len(), tokens::LENGTH);
    let credential = Credential::Key(key.value.into());
    let source = daemon(lab.server.url(), "gpu", credential);
    lab.api
        .create_version(version_request("plain"))
        .await
        .unwrap();
    let request = api::CreateVersionRequest {
        tags,
        ..version_request("gpu")
    };
    let wanted = lab.api.create_version(request).await.unwrap().into_inner();

    let job = source.acquire(&Stop::new()).await.unwrap().unwrap();

    assert_eq!(job.id.to_string(), wanted.job.unwrap().id);
    let daemons = lab
        .api
        .list_daemons(api::ListDaemonsRequest::default())
        .await
        .unwrap();
    let daemons = daemons.into_inner().daemons;
    assert_eq!(
        (daemons[0].key.as_str(), daemons[0].status.as_str()),
        ("lab", "busy")
    );
    let request = api::DeleteProvisionerKeyRequest {
        name: "lab".to_owned(),
        ..Default::default()
    };
    lab.api.delete_provisioner_key(request).await.unwrap();
    let error = source.acquire(&Stop::new()).await.unwrap_err();
    assert!(matches!(error, SourceError::Unauthorized(_)), "{error}");
}

#[tokio::test]
async fn a_call_without_a_valid_token_is_refused() {
    let lab = Lab::start(Storage::Memory).await;
    let long_ended = tokens::generate();

    for token in [long_ended, "short".to_owned().into()] {
        let mut api = super::connect(lab.server.url(), &token);
        let status = api.who_am_i(api::WhoAmIRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn reading_a_state_and_making_a_key_are_in_the_audit_log() {
    let mut lab = Lab::start(Storage::Memory).await;
    let source = lab.daemon("daemon");
    lab.import(&source).await;
    lab.api
        .create_workspace(workspace_request("dev"))
        .await
        .unwrap();
    let job = source.acquire(&Stop::new()).await.unwrap().unwrap();
    source.complete(built(&job)).await.unwrap();
    pull_state(&mut lab.api, "admin/dev").await;
    let request = api::CreateTokenRequest {
        name: "laptop".to_owned(),
        ..Default::default()
    };
    let made = lab.api.create_token(request).await.unwrap().into_inner();

    let audit = lab
        .api
        .list_audit(api::ListAuditRequest::default())
        .await
        .unwrap()
        .into_inner();

    let entries: Vec<_> = audit
        .entries
        .iter()
        .map(|entry| {
            (
                entry.actor.as_str(),
                entry.action.as_str(),
                entry.target.as_str(),
            )
        })
        .take(2)
        .collect();
    assert_eq!(
        entries,
        [
            ("admin", "token.create", "admin"),
            ("admin", "state.read", "admin/dev")
        ]
    );
    assert!(
        audit
            .entries
            .iter()
            .all(|entry| !format!("{entry:?}").contains(&made.value))
    );
}

#[tokio::test]
async fn a_daemon_in_the_process_and_one_outside_work_alike() {
    let mut lab = Lab::start(Storage::Memory).await;
    let registration = Registration {
        name: "inside".to_owned(),
        tags: std::collections::BTreeMap::new(),
        provisioners: vec!["terraform".to_owned()],
        version: "v0.1.0".to_owned(),
        ..Registration::default()
    };
    let inside: control::LocalSource = lab.server.local_source(registration).await.unwrap();
    let outside = lab.daemon("outside");
    lab.import(&inside).await;
    for (name, source) in [
        ("a", &inside as &dyn outpost::provision::JobSource),
        ("b", &outside),
    ] {
        lab.api
            .create_workspace(workspace_request(name))
            .await
            .unwrap();
        let job = source.acquire(&Stop::new()).await.unwrap().unwrap();
        source.complete(built(&job)).await.unwrap();
        source.complete(built(&job)).await.unwrap();
        assert_eq!(
            pull_state(&mut lab.api, name).await,
            state_of(&build_id(&job))
        );
    }
    let stop = Stop::new();
    stop.drain();
    assert!(inside.acquire(&stop).await.unwrap().is_none());
    assert!(outside.acquire(&stop).await.unwrap().is_none());
}
