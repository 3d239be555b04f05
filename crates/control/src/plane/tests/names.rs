//! Daemons' names, and the credentials that they belong to.

use super::*;

impl Lab {
    /// Creates a provisioner key of the default organization, whose daemons take any job without tags.
    pub(super) async fn key(&self, name: &str) -> Credential {
        let made = self
            .plane
            .create_key(&self.caller, "", name, BTreeMap::new())
            .await;
        let (_, value) = made.unwrap();
        let credential = self.plane.daemon_credential(None, Some(&value)).await;
        credential.unwrap()
    }

    async fn register(&self, credential: &Credential) -> Result<Daemon, RequestError> {
        let registration = registration("daemon", &[]);
        self.plane.register(credential, registration).await
    }

    /// Lets enough time pass for a daemon to count as offline.
    fn pass_until_offline(&self) {
        self.pass(self.plane.limits().offline + Duration::from_secs(1));
    }

    pub(super) async fn audited(&self, action: &str) -> Vec<String> {
        let entries = self.plane.audit_log(&self.caller, None, 100).await.unwrap();
        let named = entries.into_iter().filter(|entry| entry.action == action);
        named.map(|entry| entry.detail).collect()
    }
}

fn why(refused: Result<Daemon, RequestError>) -> String {
    match refused {
        Err(RequestError::Conflict(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_name_of_a_daemon_that_runs_is_refused_to_another_credential_and_audited() {
    let lab = Lab::new().await;
    let key = lab.key("other").await;
    let person = Credential::Person(lab.caller.user.clone());

    for (stranger, with) in [(&key, "provisioner key other"), (&person, "token of admin")] {
        let why = why(lab.register(stranger).await);
        assert!(why.contains("a pre-shared key"), "{why}");
        assert!(why.contains("outpost provisioner delete"), "{why}");
        let audited = lab.audited("daemon.refused").await;
        assert!(audited[0].starts_with(with), "{audited:?}");
    }

    let again = lab.register(&Credential::Shared).await.unwrap();
    assert_eq!((again.id, again.holder), (lab.daemon.id, Holder::Shared));
}

#[tokio::test]
async fn a_name_passes_on_once_its_daemon_is_offline_and_no_job_goes_with_it() {
    let lab = Lab::new().await;
    let (_, job) = lab.started("one").await;
    lab.pass_until_offline();

    let other = lab.register(&lab.key("other").await).await.unwrap();

    assert_ne!(other.id, lab.daemon.id);
    let failed = FailedJob {
        id: job,
        error: "mine now".to_owned(),
        code: None,
        work: FailedWork::WorkspaceBuild {
            state: Some(Bytes::from_static(b"foreign")),
            timings: Vec::new(),
        },
    };
    let error = lab.plane.fail_job(&other, failed).await.unwrap_err();
    assert_eq!(error.to_string(), "you don't own this job");
    // Late calls of the previous connection are refused.
    let late = lab.fail(job, Some("late")).await;
    assert!(matches!(late, Err(RequestError::Unauthenticated(_))));
    assert!(why(lab.register(&Credential::Shared).await).contains("provisioner key other"));
}

#[tokio::test]
async fn a_daemon_with_a_job_or_with_a_lost_state_keeps_its_name_however_long_it_is_silent() {
    let lab = Lab::new().await;
    let (key, version) = (lab.key("other").await, lab.import().await);
    let workspace = lab.create_workspace().await.unwrap();
    let job = lab.take().await.unwrap();

    lab.pass_until_offline();
    assert!(why(lab.register(&key).await).contains("1 jobs"));
    lab.pass(lab.plane.limits().lease);
    assert_eq!(lab.plane.reap().await.unwrap(), [job.id]);
    assert!(why(lab.register(&key).await).contains("1 jobs"));

    // The same credential reconnects and delivers its job; then the name is free.
    let back = lab.register(&Credential::Shared).await.unwrap();
    assert_eq!(back.id, lab.daemon.id);
    lab.complete(job.id, built("late")).await.unwrap();
    assert_eq!(lab.state(&workspace).await, "late");
    lab.pass_until_offline();
    assert_ne!(lab.register(&key).await.unwrap().id, lab.daemon.id);
    assert_eq!(lab.job(version.job_id).await.status(), JobStatus::Succeeded);
}

#[tokio::test]
async fn a_server_that_has_just_begun_takes_nobody_for_offline() {
    let lab = Lab::new().await;
    let key = lab.key("other").await;
    lab.pass_until_offline();
    let restarted = Plane::new(
        lab.plane.store.clone(),
        Vault::new(&Key::generate(), &[]),
        Limits::standard(),
        psk::Accepted::default(),
        lab.plane.clock.clone(),
        Stop::new(),
    );

    let taken = restarted.register(&key, registration("daemon", &[])).await;

    assert!(matches!(taken, Err(RequestError::Conflict(_))), "{taken:?}");
    assert!(lab.register(&key).await.is_ok());
}

#[tokio::test]
async fn a_clock_that_is_set_neither_frees_a_name_nor_keeps_it() {
    let lab = Lab::new().await;
    let key = lab.key("other").await;

    lab.set_clock(3600);
    let taken = lab.register(&key).await;
    assert!(matches!(taken, Err(RequestError::Conflict(_))), "{taken:?}");

    lab.set_clock(-7200);
    lab.pass_until_offline();
    assert!(lab.register(&key).await.is_ok());
}

#[tokio::test]
async fn a_deleted_key_ends_what_its_daemon_says_of_its_job() {
    let lab = Lab::new().await;
    lab.pass_until_offline();
    let daemon = lab.register(&lab.key("other").await).await.unwrap();
    let version = lab.queue_version(version("demo")).await;
    lab.take_as(&daemon).await.unwrap();
    let heartbeat = JobUpdate::heartbeat(version.job_id);
    assert!(
        lab.plane
            .update_job(&daemon, heartbeat.clone())
            .await
            .is_ok()
    );

    lab.plane
        .delete_key(&lab.caller, "", "other")
        .await
        .unwrap();

    let refused = lab.plane.update_job(&daemon, heartbeat).await;
    assert!(
        matches!(refused, Err(RequestError::Unauthenticated(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn names_that_a_terminal_would_obey_are_refused() {
    let lab = Lab::new().await;
    for name in ["a\u{1b}[2Jb", "a\nb", "a\u{202e}b", "a\u{9b}b"] {
        let daemon = registration(name, &[]);
        let daemon = lab.plane.register(&Credential::Shared, daemon).await;
        assert!(matches!(daemon, Err(RequestError::Invalid(_))), "{name:?}");
        let tagged = registration("x", &[("tag", name)]);
        let tagged = lab.plane.register(&Credential::Shared, tagged).await;
        assert!(matches!(tagged, Err(RequestError::Invalid(_))), "{name:?}");
        let token = lab.plane.create_token(&lab.caller, "", name, None).await;
        let why = token.map(drop).unwrap_err().to_string();
        // The refusal itself is shown to people as well.
        assert!(!why.contains(name) && why.contains("control character"));
    }
}
