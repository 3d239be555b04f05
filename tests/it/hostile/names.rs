//! Somebody with a key of their own takes the name of a daemon that runs.

use std::collections::BTreeMap;

use outpost::{
    control::Storage,
    job::{FailedJob, FailedWork},
    proto::outpost::v1::{self as api},
    provision::{JobSource, JobUpdate, SourceError},
    secret::Secret,
    stop::Stop,
    transport::auth::Credential,
};
use tokio::time::timeout;

use crate::{
    control::{Lab, PATIENCE, daemon, version_request},
    support::coder_source,
};

async fn key(lab: &mut Lab) -> Secret {
    let request = api::CreateProvisionerKeyRequest {
        name: "other".to_owned(),
        tags: BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]),
        ..Default::default()
    };
    let made = lab.api.create_provisioner_key(request).await.unwrap();
    Secret::new(made.into_inner().value)
}

#[tokio::test]
async fn a_key_with_other_tags_gets_neither_the_name_nor_the_job_of_a_daemon_that_runs() {
    let mut lab = Lab::start(Storage::Memory).await;
    let owner = lab.daemon("builder");
    lab.api
        .create_version(version_request("demo"))
        .await
        .unwrap();
    let job = owner.acquire(&Stop::new()).await.unwrap().unwrap();
    let key = key(&mut lab).await;

    let url = lab.server.url();
    let by_grpc = daemon(url, "builder", Credential::Key(key.clone()));
    let by_coders_wire = coder_source(url, "builder", Credential::Key(key), &[]);
    let strangers: [&dyn JobSource; 2] = [&by_grpc, &by_coders_wire];
    for stranger in strangers {
        let failed = FailedJob {
            id: job.id,
            error: "not yours any more".to_owned(),
            code: None,
            work: FailedWork::TemplateImport,
        };
        let refused = timeout(PATIENCE, stranger.fail(failed)).await.unwrap();
        // The name may be free later, so that it is no refusal of the job.
        assert!(matches!(refused, Err(SourceError::Lost(_))), "{refused:?}");
    }

    assert!(owner.update(JobUpdate::heartbeat(job.id)).await.is_ok());
    // The same credential is the same daemon, also after a restart.
    let restarted = lab.daemon("builder");
    assert!(restarted.update(JobUpdate::heartbeat(job.id)).await.is_ok());
    let audit = lab.api.list_audit(api::ListAuditRequest::default()).await;
    let refused: Vec<_> = audit
        .unwrap()
        .into_inner()
        .entries
        .into_iter()
        .filter(|entry| entry.action == "daemon.refused")
        .collect();
    assert!(refused.len() >= 2, "{refused:?}");
    assert!(refused[0].detail.contains("provisioner key other"));
}
