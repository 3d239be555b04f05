//! Calls that go wrong: a job ends exactly once, with its state, and the next one goes on.

use std::{path::Path, sync::Arc, time::Duration};

use outpost::{provision::JobSource, secret::Secret, transport::auth::Credential};

use super::{FakeCoderd, Fault};
use crate::{
    daemon::{Daemons, Engine, PSK, Server, anywhere, state_of},
    support::{
        coder_source,
        fault_proxy::{self, FaultProxy},
    },
};

/// The three moments at which a connection can end during a call.
const CUTS: [Fault; 3] = [Fault::BeforeRequest, Fault::AfterRequest, Fault::MidAnswer];

struct Lab {
    dir: tempfile::TempDir,
    server: Server,
    fake: FakeCoderd,
}

impl Lab {
    /// With a lease that no test outlasts.
    fn start() -> Self {
        Self::with_lease(Duration::from_secs(60))
    }

    fn with_lease(lease: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::with_lease(lease, &dir.path().join("server"), anywhere(), None);
        let fake = FakeCoderd::start(server.running.address());
        Self { dir, server, fake }
    }

    fn daemon(&self, engine: &Engine) -> Daemons {
        Daemons::start(vec![source(&self.fake.url())], engine, self.path())
    }

    /// Waits until the daemon has told everything and takes a job again.
    fn settle(&self) {
        assert_eq!(self.server.ended(self.server.import()).error, "");
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn source(url: &url::Url) -> Arc<dyn JobSource> {
    let credential = Credential::Psk(Secret::new(PSK));
    Arc::new(coder_source(url, "only", credential, &[]))
}

#[test]
fn whichever_call_of_a_build_is_cut_it_ends_once_and_its_state_is_kept() {
    let lab = Lab::start();
    let engine = Engine::new(Duration::from_millis(300));
    let daemon = lab.daemon(&engine);
    lab.settle();
    let mut number = 0;
    for method in ["UpdateJob", "CommitQuota", "CompleteJob", "DownloadFile"] {
        for fault in CUTS {
            let case = format!("{method} {fault:?}");
            number += 1;
            lab.fake.fail(method, fault);

            let (workspace, job) = lab.server.workspace(format!("box-{number}"));

            assert_eq!(lab.server.ended(job).error, "", "{case}");
            assert_eq!(*lab.fake.happened().borrow(), number, "{case}");
            let applied = engine.applied.lock().unwrap()[&workspace.name];
            assert_eq!(applied, 1, "{case}");
            let state = lab.server.state(&workspace);
            assert_eq!(state, state_of(&workspace.name), "{case}");
            lab.settle();
        }
    }
    let summary = daemon.end().unwrap();
    assert_eq!((summary.undelivered, summary.failed), (0, 0), "{summary:?}");
    lab.server.kill();
}

#[test]
fn whichever_call_of_an_import_is_cut_its_modules_arrive() {
    let lab = Lab::start();
    // Too large for a message, so that it goes in pieces; no larger than that, for it goes eighteen times.
    let engine = Engine::new(Duration::ZERO).with_modules((4 << 20) + 1);
    let daemon = lab.daemon(&engine);
    let mut number = 0;
    for method in ["UpdateJob", "UploadFile", "CompleteJob"] {
        for fault in CUTS {
            number += 1;
            lab.fake.fail(method, fault);
            let ended = lab.server.ended(lab.server.import());
            assert_eq!(ended.error, "", "{method} {fault:?}");
            assert_eq!(*lab.fake.happened().borrow(), number, "{method} {fault:?}");
        }
    }
    // The engine looks whether a build gets the very archive.
    let (_, job) = lab.server.workspace("box".to_owned());
    assert_eq!(lab.server.ended(job).error, "");
    assert_eq!(daemon.end().unwrap().undelivered, 0);
    lab.server.kill();
}

#[test]
fn a_job_that_is_lost_on_its_way_to_the_daemon_ends_and_the_next_one_runs() {
    // Only the server notices such a job, at the end of its lease.
    let lab = Lab::with_lease(Duration::from_secs(8));
    let engine = Engine::new(Duration::ZERO);
    lab.fake.fail("AcquireJobWithCancel", Fault::BeforeRequest);
    let daemon = lab.daemon(&engine);
    lab.settle();
    for fault in [Fault::AfterRequest, Fault::MidAnswer] {
        // It strikes this job, or the next one if the daemon waits in a call already.
        lab.fake.fail("AcquireJobWithCancel", fault);
        let mut jobs = std::iter::repeat_with(|| lab.server.ended(lab.server.import()));

        let lost = jobs.by_ref().take(2).find(|job| !job.error.is_empty());

        assert!(lost.is_some(), "{fault:?}");
        assert_eq!(jobs.next().unwrap().error, "", "{fault:?}");
    }
    daemon.end().unwrap();
    lab.server.kill();
}

#[test]
fn a_failure_that_cannot_be_told_at_once_is_told_later() {
    let lab = Lab::start();
    let engine = Engine::new(Duration::ZERO);
    let daemon = lab.daemon(&engine);
    lab.settle();
    let refused = Fault::Refuse("metadata value is too long");
    for (number, fault) in CUTS.into_iter().enumerate() {
        lab.fake.fail("FailJob", fault);
        lab.fake.fail("CompleteJob", refused);

        let (workspace, job) = lab.server.workspace(format!("box-{number}"));

        let error = lab.server.ended(job).error;
        assert!(
            error.contains("metadata value is too long"),
            "{fault:?}: {error}"
        );
        let state = lab.server.state(&workspace);
        assert_eq!(state, state_of(&workspace.name), "{fault:?}");
        lab.settle();
    }
    let summary = daemon.end().unwrap();
    assert_eq!(summary.undelivered, 0, "{summary:?}");
    lab.server.kill();
}

#[test]
fn a_state_that_the_server_does_not_take_stays_with_the_daemon() {
    let lab = Lab::start();
    let engine = Engine::new(Duration::ZERO).with_state(5 << 20);
    let daemon = lab.daemon(&engine);
    lab.settle();

    // Too large for the wire: the job ends with the reason, and the next one runs.
    let (_, job) = lab.server.workspace("large".to_owned());
    let error = lab.server.ended(job).error;
    assert!(error.contains("too large"), "{error}");
    lab.settle();

    let summary = daemon.end().unwrap();
    assert_eq!(summary.undelivered, 1, "{summary:?}");
    lab.server.kill();
}

#[test]
fn a_job_that_somebody_else_ended_keeps_its_state_with_the_daemon() {
    let lab = Lab::start();
    let engine = Engine::new(Duration::ZERO);
    let daemon = lab.daemon(&engine);
    lab.settle();
    let refused = Fault::Refuse("metadata value is too long");
    lab.fake.fail("CompleteJob", refused);
    lab.fake
        .fail("FailJob", Fault::Refuse("job already completed"));

    lab.server.workspace("box".to_owned());
    lab.settle();

    // As coderd does whose connection broke between the end of the job and its state.
    lab.fake.fail("CompleteJob", refused);
    lab.fake.fail("FailJob", Fault::AfterRequest);
    lab.fake
        .fail("FailJob", Fault::Refuse("job already completed"));
    lab.server.workspace("another".to_owned());
    lab.settle();

    let summary = daemon.end().unwrap();
    assert_eq!(summary.undelivered, 2, "{summary:?}");
    lab.server.kill();
}

#[test]
fn a_job_that_is_somebody_elses_by_now_is_let_go() {
    let lab = Lab::with_lease(Duration::from_secs(8));
    let engine = Engine::new(Duration::from_secs(3600));
    let daemon = lab.daemon(&engine);
    lab.settle();
    let (_, job) = lab.server.workspace("box".to_owned());
    engine.wait_for(&lab.server, 1);

    lab.fake
        .fail("UpdateJob", Fault::Refuse("you don't own this job"));

    // The engine is stopped long before it would end by itself, and the daemon takes the next job.
    lab.settle();
    assert!(!lab.server.ended(job).error.is_empty());
    daemon.end().unwrap();
    lab.server.kill();
}

#[test]
fn a_slow_line_delays_a_job_and_does_not_break_it() {
    let lab = Lab::start();
    let proxy = FaultProxy::start(lab.server.running.address());
    proxy.set(fault_proxy::Fault::Slow(2000));
    let engine = Engine::new(Duration::ZERO).with_modules(1 << 20);
    let daemon = Daemons::start(vec![source(&proxy.url())], &engine, lab.path());
    lab.settle();

    // Its modules take seconds to arrive.
    let (workspace, job) = lab.server.workspace("box".to_owned());
    assert_eq!(lab.server.ended(job).error, "");
    assert_eq!(lab.server.state(&workspace), state_of("box"));
    assert_eq!(daemon.end().unwrap().completed, 2);
    lab.server.kill();
}
