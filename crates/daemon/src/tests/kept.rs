//! States that no server has, when the next job of their workspace comes.

use super::*;
use crate::metrics::Metrics;

const OLD: &str =
    r#"{"lineage":"l","serial":1,"resources":[{"type":"x","name":"a","instances":[{}]}]}"#;
const NEW: &str =
    r#"{"lineage":"l","serial":4,"resources":[{"type":"x","name":"b","instances":[{}]}]}"#;
const OTHER: &str =
    r#"{"lineage":"other","serial":9,"resources":[{"type":"x","name":"c","instances":[{}]}]}"#;

/// A build of a workspace, with the state that the server has.
fn build_of(workspace: &str, number: u128, state: &'static str) -> Job {
    let metadata = Metadata {
        workspace_id: workspace.to_owned(),
        ..Metadata::default()
    };
    Job {
        id: JobId(Uuid::from_u128(number)),
        ..job(Work::WorkspaceBuild(WorkspaceBuild {
            metadata,
            state: state.into(),
            ..WorkspaceBuild::default()
        }))
    }
}

/// Leaves an entry of workspace `w` in the journal of a daemon that is not running. With `refused` it is kept.
async fn leave(dir: &tempfile::TempDir, number: u128, state: &'static str, refused: Option<&str>) {
    let identity = Identity {
        server: String::new(),
        name: "dead".to_owned(),
    };
    let Work::WorkspaceBuild(build) = build_of("w", number, OLD).work else {
        unreachable!("it is a build")
    };
    let job = JobId(Uuid::from_u128(number));
    let entry = Entry {
        state: state.into(),
        refused: refused.map(str::to_owned),
        ..Entry::new(job, &identity, &build, Timestamp::UNIX_EPOCH)
    };
    let journals = Journals::open(dir.path(), None).unwrap();
    let journal = journals.take(&identity, &Stop::new()).await.unwrap();
    journal.write(&entry).unwrap();
}

async fn run_with(dir: &tempfile::TempDir, server: &Arc<Server>, engine: &Engine) -> Summary {
    let source: Arc<dyn JobSource> = Arc::clone(server) as Arc<dyn JobSource>;
    let provisioner = Arc::new(engine.clone());
    let ran = run(config(dir), vec![source], provisioner, Stop::new()).await;
    ran.unwrap()
}

fn said(server: &Server, text: &str) -> bool {
    let lines = server.lines.lock().unwrap();
    lines.iter().any(|(_, line)| line.contains(text))
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_on_the_newer_state_that_is_kept_of_its_workspace_and_it_goes_with_its_success()
{
    for given in [OLD, ""] {
        let dir = tempfile::tempdir().unwrap();
        leave(&dir, 7, NEW, Some("job already completed")).await;
        let (server, engine) = (Server::with(build_of("w", 8, given)), Engine::default());

        let summary = run_with(&dir, &server, &engine).await;

        assert_eq!(counts(&summary), COMPLETED);
        assert_eq!(*engine.planned_on.lock().unwrap(), [NEW]);
        assert!(said(&server, "using the state (serial 4) of job"));
        assert_eq!(entries(dir.path()), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_before_it_applies_leaves_the_kept_state_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, Some("job already completed")).await;
    let server = Server::with(build_of("w", 8, OLD));
    let engine = Engine {
        failing: Some("graph plan"),
        ..Engine::default()
    };

    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), FAILED);
    assert_eq!(kept(&dir).unwrap(), NEW.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_build_that_fails_in_its_apply_takes_the_kept_state_along() {
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, Some("job already completed")).await;
    let server = Server::with(build_of("w", 8, OLD));
    server.refuse_complete.store(true, Ordering::SeqCst);

    let summary = run_with(&dir, &server, &Engine::default()).await;

    assert_eq!(counts(&summary), FAILED);
    assert_eq!(state_of(&server.failure()), Some(WHOLE));
    assert_eq!(entries(dir.path()), []);
}

#[tokio::test(start_paused = true)]
async fn another_workspace_a_dry_run_and_an_import_know_nothing_of_it() {
    let import = job(Work::TemplateImport(TemplateImport::default()));
    let dry_run = job(Work::TemplateDryRun(TemplateDryRun {
        metadata: Metadata {
            workspace_id: "w".to_owned(),
            ..Metadata::default()
        },
        ..TemplateDryRun::default()
    }));
    for job in [build_of("another", 8, OTHER), import, dry_run] {
        let dir = tempfile::tempdir().unwrap();
        leave(&dir, 7, NEW, Some("job already completed")).await;
        let (server, engine) = (Server::with(job), Engine::default());

        let summary = run_with(&dir, &server, &engine).await;

        assert_eq!(counts(&summary), COMPLETED);
        let planned_on = engine.planned_on.lock().unwrap().clone();
        assert!(!planned_on.contains(&Bytes::from_static(NEW.as_bytes())));
        assert_eq!(kept(&dir).unwrap(), NEW.as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_fails_the_job_before_anything_is_planned_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, Some("job already completed")).await;
    let (server, engine) = (Server::with(build_of("w", 8, OTHER)), Engine::default());

    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), FAILED);
    assert_eq!(engine.steps(), Vec::<String>::new());
    let error = server.failure().error;
    assert!(error.contains("outpost recover forget"), "{error}");
    assert_eq!(kept(&dir).unwrap(), NEW.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_state_is_said_and_stays_for_a_person() {
    let given = r#"{"lineage":"l","serial":9,"resources":[]}"#;
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, Some("job already completed")).await;
    let (server, engine) = (Server::with(build_of("w", 8, given)), Engine::default());

    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), COMPLETED);
    assert_eq!(*engine.planned_on.lock().unwrap(), [given]);
    assert!(said(&server, "lacks x.b"));
    let left = entries(dir.path()).pop().unwrap();
    assert!(left.is_kept() && left.refused.unwrap().contains("lacks x.b"));
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_another_one_of_its_workspace_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, None).await;
    let (server, engine) = (Server::with(build_of("w", 8, OLD)), Engine::default());
    let began = Instant::now();

    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), FAILED);
    assert!((600..610).contains(&began.elapsed().as_secs()));
    assert!(said(&server, "Waiting for job"));
    let error = server.failure().error;
    assert!(
        error.contains("daemon dead on this host died while running job"),
        "{error}"
    );
    assert_eq!(engine.steps(), Vec::<String>::new());
}

/// Runs `jobs` in one slot while somebody else works on workspace `w`. Returns the daemon's summary.
async fn run_beside(
    dir: &tempfile::TempDir,
    server: &Arc<Server>,
    engine: &Engine,
    jobs: usize,
) -> Summary {
    let source: Arc<dyn JobSource> = Arc::clone(server) as Arc<dyn JobSource>;
    let config = Config {
        max_jobs: Some(jobs),
        ..config(dir)
    };
    let ran = run(config, vec![source], Arc::new(engine.clone()), Stop::new());
    ran.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_another_one_of_its_workspace_leaves_its_slot_to_others() {
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, None).await;
    let (server, engine) = (Server::with(build_of("w", 8, OLD)), Engine::default());
    for number in 9..12 {
        let job = build_of("another", number, "");
        server.jobs.lock().unwrap().push_back(job);
    }
    let watched = Arc::clone(&server);
    let others_ended = tokio::spawn(async move {
        sleep(Duration::from_secs(30)).await;
        watched.ended.lock().unwrap().len()
    });

    let summary = run_beside(&dir, &server, &engine, 4).await;

    assert_eq!(counts(&summary), (3, 1, 0), "the one that waited failed");
    assert_eq!(others_ended.await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_waited_goes_on_once_its_slot_is_free() {
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, None).await;
    let server = Server::with(build_of("w", 8, OLD));
    server
        .jobs
        .lock()
        .unwrap()
        .push_back(build_of("another", 9, ""));
    let engine = Engine {
        apply_takes: Duration::from_secs(100),
        ..Engine::default()
    };
    let state_dir = dir.path().to_owned();
    let began = Instant::now();
    tokio::spawn(async move {
        sleep(Duration::from_secs(20)).await;
        let journals = Journals::open(&state_dir, None).unwrap();
        let dead = |found: &journal::Found| {
            found
                .entry
                .as_ref()
                .is_ok_and(|entry| entry.daemon == "dead")
        };
        let found = journals.entries().unwrap();
        journal::erase(&found.iter().find(|it| dead(it)).unwrap().path).unwrap();
    });

    let summary = run_beside(&dir, &server, &engine, 2).await;

    assert_eq!(counts(&summary), (2, 0, 0));
    assert_eq!(engine.most_running.load(Ordering::SeqCst), 1);
    let (first, second) = (JobId(Uuid::from_u128(9)), JobId(Uuid::from_u128(8)));
    assert_eq!(*server.ended.lock().unwrap(), [first, second]);
    assert!((200..210).contains(&began.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn a_success_that_is_told_late_counts_and_the_next_job_runs_on_its_state_whatever_the_server_gives()
 {
    let server = Server::with(build_of("w", 8, OLD));
    later(&server, |server| server.away_for(Duration::from_secs(1000)));
    let engine = Engine {
        apply_takes: Duration::from_secs(10),
        ..Engine::default()
    };
    let dir = tempfile::tempdir().unwrap();

    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), COMPLETED);
    let left = entries(dir.path()).pop().unwrap();
    assert!(!left.is_kept() && !left.is_pending());

    // Somebody started a build while the server considered the job dead.
    server.jobs.lock().unwrap().push_back(build_of("w", 9, ""));
    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), COMPLETED);
    assert_eq!(engine.planned_on.lock().unwrap()[1], WHOLE);
    assert_eq!(entries(dir.path()), []);
}

#[tokio::test(start_paused = true)]
async fn an_apply_that_ends_well_is_a_success_although_the_server_was_away_too_long() {
    let server = Server::with(build_of("w", 8, OLD));
    later(&server, |server| server.away_for(Duration::from_secs(290)));
    let engine = Engine {
        apply_takes: Duration::from_secs(300),
        ignores_cancel: true,
        ..Engine::default()
    };
    let dir = tempfile::tempdir().unwrap();

    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), COMPLETED);
    assert_eq!(server.calls_named("fail"), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_applied_for_a_job_that_the_server_may_have_given_up() {
    let server = Server::with(build_of("w", 8, OLD));
    let engine = Engine {
        plan_takes: Duration::from_secs(5),
        ..Engine::default()
    };
    // The daemon is frozen: when it continues, the server answers at once, even for a job that it has ended.
    tokio::spawn(async {
        sleep(Duration::from_secs(1)).await;
        tokio::time::advance(Duration::from_secs(271)).await;
    });
    let dir = tempfile::tempdir().unwrap();

    let summary = run_with(&dir, &server, &engine).await;

    assert_eq!(counts(&summary), FAILED);
    assert!(!engine.steps().contains(&"apply".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn kept_states_are_counted_and_one_that_was_taken_late_is_not() {
    let dir = tempfile::tempdir().unwrap();
    leave(&dir, 7, NEW, Some("job already completed")).await;
    let metrics = Arc::new(Metrics::default());
    let config = Config {
        metrics: Arc::clone(&metrics),
        ..config(&dir)
    };
    let server = Server::with(build_of("another", 8, OLD));
    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;

    let engine = Arc::new(Engine::default());
    run(config, vec![source], engine, Stop::new())
        .await
        .unwrap();

    assert_eq!(metrics.snapshot().kept, 1);
}
