//! Cancelling, draining, interrupting, killing.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_cancel_is_noticed_within_a_second_while_lines_pour_in() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(3600),
        logs_always: true,
        ..Engine::default()
    };
    later(&server, |server| {
        server.cancelled.store(true, Ordering::SeqCst)
    });

    let (summary, took, _) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let failure = server.failure();
    assert_eq!(failure.error, "job was cancelled: interrupted");
    assert_eq!(state_of(&failure), Some(WHOLE));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ignores_its_cancel_is_killed_in_time_and_beats_until_then() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(7200),
        ignores_cancel: true,
        ..Engine::default()
    };
    later(&server, |server| {
        server.cancelled.store(true, Ordering::SeqCst)
    });

    let (_, took, _) = run_one(&server, &engine, &Stop::new()).await;

    assert!((601..606).contains(&took.as_secs()), "{took:?}");
    assert!(server.calls_named("update") > 590);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_survives_its_kill_is_given_up_with_the_state_that_it_wrote() {
    for (step, state) in [("init", None), ("apply", Some(PARTIAL))] {
        let server = Server::with(build(Transition::Start));
        later(&server, |server| {
            server.cancelled.store(true, Ordering::SeqCst)
        });
        let engine = Engine {
            hangs_in: Some(step),
            ..Engine::default()
        };

        let (summary, took, _) = run_one(&server, &engine, &Stop::new()).await;

        assert_eq!(counts(&summary), FAILED, "{step}");
        assert!((631..637).contains(&took.as_secs()), "{step}: {took:?}");
        assert_eq!(state_of(&server.failure()), state, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_before_apply_changes_nothing() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        plan_takes: Duration::from_secs(3),
        ..Engine::default()
    };
    server.cancelled.store(true, Ordering::SeqCst);

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    assert!(!engine.steps().contains(&"apply".to_owned()));
    assert_eq!(
        server.failure().error,
        "job was cancelled: stopped between two steps"
    );
    assert_eq!(state_of(&server.failure()), None);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_daemon_cancels_its_job_and_says_so() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(3600),
        ..Engine::default()
    };
    let stop = Stop::new();
    let interrupt = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(10)).await;
        interrupt.cancel();
    });

    let (summary, took, _) = run_one(&server, &engine, &stop).await;

    assert_eq!(counts(&summary), FAILED);
    assert_eq!(took.as_secs(), 10);
    assert_eq!(
        server.failure().error,
        "the provisioner daemon was stopped: interrupted"
    );
    assert_eq!(state_of(&server.failure()), Some(WHOLE));
}

#[tokio::test(start_paused = true)]
async fn a_draining_daemon_finishes_its_job_and_takes_no_other() {
    let server = Server::with(build(Transition::Start));
    server
        .jobs
        .lock()
        .unwrap()
        .push_back(build(Transition::Stop));
    let engine = Engine {
        apply_takes: Duration::from_secs(5),
        ..Engine::default()
    };
    let stop = Stop::new();
    let drainer = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        drainer.drain();
    });
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        max_jobs: None,
        ..config(&dir)
    };

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let summary = run(config, vec![source], Arc::new(engine), stop)
        .await
        .unwrap();

    assert_eq!(counts(&summary), COMPLETED);
    assert_eq!(server.jobs.lock().unwrap().len(), 1);
}

/// Asks a daemon to end at once, ten seconds after it began a job whose apply takes two hours.
async fn hurried(ignores_cancel: bool) -> (Arc<Server>, Summary, Duration, tempfile::TempDir) {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(7200),
        ignores_cancel,
        ..Engine::default()
    };
    let stop = Stop::new();
    let hurry = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(10)).await;
        hurry.kill();
    });
    let (summary, took, dir) = run_one(&server, &engine, &stop).await;
    (server, summary, took, dir)
}

#[tokio::test(start_paused = true)]
async fn a_hurried_daemon_interrupts_its_apply_and_tells_how_it_ended() {
    let (server, summary, took, dir) = hurried(false).await;

    assert_eq!(counts(&summary), FAILED);
    assert_eq!(took.as_secs(), 10);
    assert_eq!(state_of(&server.failure()), Some(WHOLE));
    assert_eq!(kept(&dir), None);
}

#[tokio::test(start_paused = true)]
async fn an_apply_that_does_not_end_in_time_is_left_to_the_next_daemon_and_nobody_is_told_that_it_ended()
 {
    let (server, summary, took, dir) = hurried(true).await;

    assert_eq!(counts(&summary), (0, 0, 1));
    assert!((70..75).contains(&took.as_secs()), "{took:?}");
    assert!(server.failed.lock().unwrap().is_none());
    let left = entries(dir.path()).pop().unwrap();
    assert!(left.is_pending());
}
