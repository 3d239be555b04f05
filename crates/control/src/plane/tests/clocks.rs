//! Clock changes, reboots and restarted daemons.

use super::*;
use crate::plane::daemons::RestoredState;

impl Lab {
    /// Sets the clock without letting time pass.
    pub(super) fn set_clock(&self, by: i64) {
        self.seconds.fetch_add(by, Ordering::Relaxed);
    }

    /// Restarts the server with the same data, on this boot of the machine.
    pub(super) fn restarted(&self, boot: &'static str) -> Plane {
        let plane = Plane::new(
            self.plane.store.clone(),
            Vault::new(&Key::generate(), &[]),
            Limits::standard(),
            psk::Accepted::default(),
            self.plane.clock.clone(),
            Stop::new(),
        );
        plane.with_uptime(up(boot, &self.uptime))
    }

    async fn running(&self) -> JobId {
        self.queue_version(version("demo")).await;
        self.take().await.unwrap().id
    }

    async fn comes_back(&self, state_id: &str, held: &[JobId]) -> Daemon {
        let mut registration = registration("daemon", &[]);
        registration.restored = Some(RestoredState {
            state_id: state_id.to_owned(),
            held: held.to_vec(),
        });
        let registered = self.plane.register(&Credential::Shared, registration).await;
        registered.unwrap()
    }
}

const LEASE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_clock_that_is_set_neither_keeps_a_dead_job_nor_ends_a_live_one() {
    for by in [-3600, 3600] {
        let lab = Lab::new().await;
        let job = lab.running().await;

        lab.set_clock(by);
        lab.pass(LEASE);
        assert_eq!(lab.plane.reap().await.unwrap(), [], "{by}");
        lab.plane
            .update_job(&lab.daemon, JobUpdate::heartbeat(job))
            .await
            .unwrap();
        lab.set_clock(-2 * by);
        lab.pass(LEASE);
        assert_eq!(lab.plane.reap().await.unwrap(), [], "{by}");
        lab.pass(Duration::from_secs(1));
        assert_eq!(lab.plane.reap().await.unwrap(), [job], "{by}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_forward_forgets_no_daemon_that_has_a_job() {
    let lab = Lab::new().await;
    let job = lab.running().await;

    lab.set_clock(30 * 24 * 3600);
    lab.plane.reap().await.unwrap();

    let heartbeat = JobUpdate::heartbeat(job);
    assert!(lab.plane.update_job(&lab.daemon, heartbeat).await.is_ok());
}

#[tokio::test]
async fn a_server_that_starts_again_counts_on_and_after_a_new_start_of_the_machine_begins_anew() {
    let lab = Lab::new().await;
    let job = lab.running().await;
    lab.pass(LEASE);

    // However often the server restarts, the lease is counted once.
    assert_eq!(lab.restarted("boot").reap().await.unwrap(), []);
    let elsewhere = lab.restarted("another boot");
    lab.pass(Duration::from_secs(1));
    assert_eq!(elsewhere.reap().await.unwrap(), []);
    assert_eq!(lab.restarted("boot").reap().await.unwrap(), [job]);

    let job = lab.running().await;
    lab.restarted("another boot").count_anew().await.unwrap();
    lab.pass(LEASE);
    let again = lab.restarted("another boot");
    again.count_anew().await.unwrap();
    assert_eq!(again.reap().await.unwrap(), []);
    lab.pass(Duration::from_secs(1));
    assert_eq!(again.reap().await.unwrap(), [job]);
}

#[tokio::test]
async fn a_daemon_that_comes_back_without_a_job_ends_it_at_once_and_keeps_what_it_has() {
    let lab = Lab::new().await;
    let here = lab.comes_back("here", &[]).await;
    let mut jobs = Vec::new();
    for _ in 0..2 {
        lab.queue_version(version("demo")).await;
        jobs.push(lab.take_as(&here).await.unwrap().id);
    }
    let [lost, kept] = jobs[..] else {
        unreachable!()
    };

    // Neither a broken connection nor a daemon of this name elsewhere says anything about jobs.
    lab.plane
        .register(&Credential::Shared, registration("daemon", &[]))
        .await
        .unwrap();
    lab.comes_back("elsewhere", &[]).await;
    assert_eq!(lab.job(lost).await.status(), JobStatus::Running);

    lab.comes_back("here", &[kept]).await;

    let ended = lab.job(lost).await;
    assert_eq!(
        (ended.status(), ended.ended_by),
        (JobStatus::Failed, Some(EndedBy::Server))
    );
    assert!(ended.error.contains("before it applied"), "{}", ended.error);
    assert_eq!(lab.job(kept).await.status(), JobStatus::Running);
    let heartbeat = JobUpdate::heartbeat(kept);
    assert!(lab.plane.update_job(&lab.daemon, heartbeat).await.is_ok());
}
