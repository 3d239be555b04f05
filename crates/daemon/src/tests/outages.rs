//! Outages of the server, and jobs that it has given up.

use super::*;

/// A stop that kills the daemon after a minute of the paused clock.
fn killed_after_a_minute() -> Stop {
    let stop = Stop::new();
    let killer = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(60)).await;
        killer.kill();
    });
    stop
}

/// A stop that drains the daemon once the server has a job's end.
fn drained_once(
    server: &Arc<Server>,
    has_ended: impl Fn(&Server) -> bool + Send + 'static,
) -> Stop {
    let (stop, server) = (Stop::new(), Arc::clone(server));
    let drainer = stop.clone();
    tokio::spawn(async move {
        while !has_ended(&server) {
            sleep(Duration::from_secs(1)).await;
        }
        drainer.drain();
    });
    stop
}

#[tokio::test(start_paused = true)]
async fn an_outage_below_the_limit_changes_nothing() {
    let server = Server::with(build(Transition::Start));
    server.away_for(Duration::from_secs(240));
    let engine = Engine {
        apply_takes: Duration::from_secs(60),
        logs_always: true,
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), COMPLETED);
    assert_eq!(
        server
            .lines
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, text)| text == "still creating")
            .count(),
        600
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_over_the_limit_stops_the_engine_and_the_state_arrives_later() {
    let server = Server::with(build(Transition::Start));
    later(&server, |server| server.away_for(Duration::from_secs(1000)));
    let engine = Engine {
        apply_takes: Duration::from_secs(7200),
        ..Engine::default()
    };

    let (summary, took, _) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    assert!((1001..1010).contains(&took.as_secs()), "{took:?}");
    assert_eq!(
        server.failure().error,
        "job was stopped because the server was unreachable for too long: interrupted"
    );
    assert_eq!(state_of(&server.failure()), Some(WHOLE));
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_over_the_limit_a_restart_delivers_the_state_of_a_job_that_ended_by_itself()
{
    let server = Server::with(build(Transition::Start));
    later(&server, |server| server.away_for(Duration::from_secs(1000)));
    let engine = Engine {
        apply_takes: Duration::from_secs(7200),
        ..Engine::default()
    };
    let stop = Stop::new();
    let (killer, watched) = (stop.clone(), engine.clone());
    let killed = tokio::spawn(async move {
        let running = || watched.running.load(Ordering::SeqCst);
        sleep(Duration::from_secs(269)).await;
        assert_eq!(running(), 1, "no outage below the limit stops an engine");
        sleep(Duration::from_secs(9)).await;
        // Long before anything is killed: the engine was asked to end, and ended.
        assert_eq!(running(), 0);
        killer.kill();
    });
    let (summary, took, dir) = run_one(&server, &engine, &stop).await;
    killed.await.unwrap();
    assert!(took < Duration::from_secs(300), "{took:?}");
    assert_eq!(counts(&summary), (0, 0, 1));
    assert_eq!(kept(&dir).unwrap(), WHOLE);
    assert!(server.failed.lock().unwrap().is_none());

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let next = drained_once(&server, |it| it.failed.lock().unwrap().is_some());
    let summary = run(config(&dir), vec![source], Arc::new(engine.clone()), next).await;

    assert_eq!(counts(&summary.unwrap()), (0, 0, 0));
    assert_eq!(state_of(&server.failure()), Some(WHOLE));
    assert_eq!(kept(&dir), None);
    let applies = engine
        .steps()
        .iter()
        .filter(|step| *step == "apply")
        .count();
    assert_eq!(applies, 1);
}

#[tokio::test(start_paused = true)]
async fn a_killed_daemon_keeps_a_state_that_nobody_took() {
    let server = Server::with(build(Transition::Start));
    later(&server, |server| {
        server.away_for(Duration::from_secs(100_000))
    });
    let engine = Engine {
        apply_takes: Duration::from_secs(10),
        ..Engine::default()
    };
    let stop = killed_after_a_minute();

    let (summary, _, dir) = run_one(&server, &engine, &stop).await;

    assert_eq!(summary.undelivered, 1);
    assert_eq!(kept(&dir).unwrap(), WHOLE);
}

#[tokio::test(start_paused = true)]
async fn a_state_is_on_disk_while_the_server_is_away_and_gone_once_it_was_taken() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(10),
        ..Engine::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let (seen, observed) = (Arc::clone(&server), dir.path().to_owned());
    let observer = tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        seen.away_for(Duration::from_secs(200));
        sleep(Duration::from_secs(100)).await;
        entries(&observed)[0].state == WHOLE
    });

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let summary = run(config(&dir), vec![source], Arc::new(engine), Stop::new())
        .await
        .unwrap();

    assert_eq!(counts(&summary), COMPLETED);
    assert!(observer.await.unwrap(), "it was on disk");
    assert_eq!(kept(&dir), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_gave_the_job_up_stops_it_and_the_state_stays_on_disk() {
    let server = Server::with(build(Transition::Start));
    later(&server, |server| {
        server.is_gone.store(true, Ordering::SeqCst)
    });
    let engine = Engine {
        apply_takes: Duration::from_secs(3600),
        ..Engine::default()
    };

    let (summary, took, dir) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), (0, 0, 1));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(kept(&dir).unwrap(), WHOLE);
}

/// A server may be less patient than daemons expect, and hand out the workspace's next job meanwhile.
#[tokio::test(start_paused = true)]
async fn a_state_that_is_taken_of_a_job_that_was_given_up_stays_for_the_next_job() {
    let is_late = |dir: &tempfile::TempDir| entries(dir.path())[0].taken_late_at.is_some();
    let server = Server::with(build(Transition::Start));
    later(&server, |server| {
        server.has_given_up.store(true, Ordering::SeqCst)
    });
    let engine = Engine {
        apply_takes: Duration::from_secs(3600),
        ..Engine::default()
    };

    let (summary, took, dir) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), (0, 1, 0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(is_late(&dir));

    // The same by the next daemon, if this one is killed.
    let server = Server::with(build(Transition::Start));
    later(&server, |server| server.away_for(Duration::from_secs(1000)));
    let engine = Engine {
        apply_takes: Duration::from_secs(10),
        ..Engine::default()
    };
    let stop = killed_after_a_minute();
    let (_, _, dir) = run_one(&server, &engine, &stop).await;
    server.away_for(Duration::ZERO);
    server.has_given_up.store(true, Ordering::SeqCst);
    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let next = drained_once(&server, |it| it.completed.lock().unwrap().is_some());
    let summary = run(config(&dir), vec![source], Arc::new(engine), next).await;
    assert_eq!(counts(&summary.unwrap()), (0, 0, 0));
    assert!(is_late(&dir));
}

#[tokio::test(start_paused = true)]
async fn credentials_that_change_during_a_build_do_not_stop_it() {
    let server = Server::with(build(Transition::Start));
    server.credentials_change.store(true, Ordering::SeqCst);
    later(&server, |server| server.away_for(Duration::from_secs(60)));
    let engine = Engine {
        apply_takes: Duration::from_secs(30),
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), COMPLETED);
}

#[tokio::test(start_paused = true)]
async fn an_outage_while_the_budget_is_asked_for_only_delays_the_build() {
    let server = Server::with(build(Transition::Start));
    server.quota_fails.store(3, Ordering::SeqCst);
    let engine = Engine {
        daily_cost: 1,
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), COMPLETED);
    assert_eq!(server.calls_named("quota"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_daemon_kept_is_told_by_the_next_one_before_it_takes_a_job() {
    let server = Server::with(build(Transition::Start));
    later(&server, |server| server.away_for(Duration::from_secs(1000)));
    let engine = Engine {
        apply_takes: Duration::from_secs(10),
        ..Engine::default()
    };
    let stop = killed_after_a_minute();
    let (_, _, dir) = run_one(&server, &engine, &stop).await;
    server
        .jobs
        .lock()
        .unwrap()
        .push_back(build(Transition::Stop));

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let summary = run(config(&dir), vec![source], Arc::new(engine), Stop::new()).await;

    assert_eq!(counts(&summary.unwrap()), COMPLETED);
    let ended = server.ended.lock().unwrap().clone();
    assert_eq!(ended, [ID, ID], "a success is told as what it was");
    assert_eq!(server.calls_named("fail"), 0);
    assert_eq!(kept(&dir), None);
}

#[tokio::test(start_paused = true)]
async fn a_success_whose_answer_was_lost_counts_and_a_failure_keeps_its_state_for_the_server_may_not_have_it()
 {
    for (away, lost, is_told) in [
        (0, Some("complete"), true),
        (0, Some("fail"), false),
        (0, None, false),
        // By now somebody else may have ended the job.
        (1000, Some("complete"), false),
    ] {
        let server = Server::with(build(Transition::Start));
        server.ends_behind_our_back.store(true, Ordering::SeqCst);
        server.refuse_complete.store(true, Ordering::SeqCst);
        *server.loses_answer.lock().unwrap() = lost;
        later(&server, move |server| {
            server.away_for(Duration::from_secs(away))
        });
        let engine = Engine {
            apply_takes: Duration::from_secs(10),
            ..Engine::default()
        };

        let (summary, _, dir) = run_one(&server, &engine, &Stop::new()).await;

        let which = format!("{away} {lost:?}");
        assert_eq!(summary.undelivered, usize::from(!is_told), "{which}");
        assert_eq!(kept(&dir).is_none(), is_told, "{which}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_without_a_state_whose_answer_was_lost_counts() {
    let server = Server::with(build(Transition::Start));
    server.ends_behind_our_back.store(true, Ordering::SeqCst);
    *server.loses_answer.lock().unwrap() = Some("fail");
    let engine = Engine {
        failing: Some("graph plan"),
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
}

#[tokio::test(start_paused = true)]
async fn a_template_is_learned_whole_wherever_the_connection_breaks_meanwhile() {
    for breaks_at in 1..=4 {
        let server = Server::with(job(Work::TemplateImport(TemplateImport::default())));
        *server.breaks_at.lock().unwrap() = Some(breaks_at);

        let (summary, ..) = run_one(&server, &Engine::default(), &Stop::new()).await;

        assert_eq!(counts(&summary), COMPLETED, "{breaks_at}");
        let mut learned = server.learned.lock().unwrap().clone();
        learned.sort_unstable();
        assert_eq!(learned, ["region", "size", "team", "zone"], "{breaks_at}");
    }
}
