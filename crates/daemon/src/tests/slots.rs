//! Several jobs in one daemon: their number, their memory, and its end.

use super::*;

const GIB: u64 = 1 << 30;

/// Runs `jobs` builds in `slots` slots and returns the daemon's summary, and how long it took.
async fn run_many(
    server: &Arc<Server>,
    engine: &Engine,
    slots: usize,
    change: impl FnOnce(&mut Config),
) -> (Summary, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config {
        max_jobs: Some(server.jobs.lock().unwrap().len()),
        ..config(&dir)
    };
    change(&mut config);
    let source = Arc::clone(server) as Arc<dyn JobSource>;
    let sources = vec![source; slots];
    let began = Instant::now();
    let summary = run(config, sources, Arc::new(engine.clone()), Stop::new());
    (summary.await.unwrap(), began.elapsed())
}

fn with_jobs(count: usize) -> Arc<Server> {
    let server = Server::default();
    let jobs = std::iter::repeat_with(|| Job {
        id: JobId::from(uuid::Uuid::new_v4()),
        ..build(Transition::Start)
    });
    server.jobs.lock().unwrap().extend(jobs.take(count));
    Arc::new(server)
}

fn applying(time: u64, memory: u64) -> Engine {
    Engine {
        apply_takes: Duration::from_secs(time),
        memory,
        ..Engine::default()
    }
}

#[tokio::test]
async fn slots_run_jobs_side_by_side() {
    let server = with_jobs(4);
    let engine = Engine {
        meets: Some(Arc::new(Barrier::new(4))),
        ..Engine::default()
    };

    let ran = timeout(
        Duration::from_secs(60),
        run_many(&server, &engine, 4, |_| {}),
    );

    let (summary, _) = ran.await.expect("each apply meets the others");
    assert_eq!(counts(&summary), (4, 0, 0));
    assert_eq!(engine.most_running.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn the_limit_on_jobs_is_that_of_all_slots_together() {
    let (server, engine) = (with_jobs(5), applying(1, 0));

    let (summary, _) = run_many(&server, &engine, 4, |config| config.max_jobs = Some(2)).await;

    assert_eq!(counts(&summary), (2, 0, 0));
    assert_eq!(server.jobs.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_do_not_fit_together_run_one_after_the_other() {
    let (server, engine) = (with_jobs(3), applying(60, 600 << 20));

    let one_at_a_time = |config: &mut Config| config.capacity = Some(Capacity::new(GIB));
    let (summary, took) = run_many(&server, &engine, 3, one_at_a_time).await;

    assert_eq!(counts(&summary), (3, 0, 0));
    assert_eq!(engine.most_running.load(Ordering::SeqCst), 1);
    assert!(took.as_secs() >= 180, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn once_their_need_is_known_small_jobs_share_the_memory_also_after_a_restart() {
    let (engine, dir) = (applying(3600, 50 << 20), tempfile::tempdir().unwrap());
    let capacity = |config: &mut Config| {
        config.capacity = Some(Capacity::new(GIB));
        config.state_dir = dir.path().to_owned();
    };

    run_many(&with_jobs(1), &engine, 1, capacity).await;
    let (summary, _) = run_many(&with_jobs(4), &engine, 4, capacity).await;

    assert_eq!(counts(&summary), (4, 0, 0));
    assert_eq!(engine.most_running.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_that_is_over_cancels_jobs_and_then_leaves_them() {
    for (ignores_cancel, expected, ended) in [(false, 40, FAILED), (true, 700, (0, 0, 1))] {
        let server = with_jobs(1);
        let engine = Engine {
            ignores_cancel,
            ..applying(7200, 0)
        };
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            grace_period: Some(Duration::from_secs(30)),
            ..config(&dir)
        };
        let stop = Stop::new();
        let drainer = stop.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(10)).await;
            drainer.drain();
        });

        let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
        let began = Instant::now();
        let summary = run(config, vec![source], Arc::new(engine), stop)
            .await
            .unwrap();

        let took = began.elapsed().as_secs();
        assert_eq!(counts(&summary), ended);
        assert!((expected..expected + 5).contains(&took), "{took}");
        let failed = server.failed.lock().unwrap().clone();
        assert_eq!(
            failed.as_ref().and_then(state_of).is_some(),
            !ignores_cancel
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_daemon_ends_even_if_the_server_never_answers_again() {
    let server = with_jobs(1);
    later(&server, |server| {
        server.away_for(Duration::from_secs(1_000_000))
    });
    let dir = tempfile::tempdir().unwrap();
    let stop = Stop::new();
    let interrupt = stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(10)).await;
        interrupt.cancel();
    });

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let engine = Arc::new(applying(7200, 0));
    let began = Instant::now();
    let summary = run(config(&dir), vec![source], engine, stop).await.unwrap();

    assert_eq!(summary.undelivered, 1);
    let took = began.elapsed().as_secs();
    assert!((610..650).contains(&took), "{took}");
}
