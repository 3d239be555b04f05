//! Order of the steps of jobs, and their failures.

use outpost_base::job::{Agent, Devcontainer, Script, ScriptDependency, ScriptRequirement};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_import_plans_a_start_and_a_stop_and_never_applies() {
    let server = Server::with(job(Work::TemplateImport(TemplateImport::default())));
    let engine = Engine::default();

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), COMPLETED);
    let steps = [
        "open",
        "init",
        "parse",
        "plan start",
        "graph plan",
        "plan stop",
        "graph plan",
        "close",
    ]
    .map(str::to_owned);
    assert_eq!(engine.steps(), steps);
    let stages = [
        "Setting up",
        "Initializing Terraform Directory",
        "Parsing template parameters",
        "Detecting persistent resources",
        "Detecting ephemeral resources",
        "Cleaning Up",
    ];
    assert_eq!(server.stages(), stages);
    assert_eq!(server.calls.lock().unwrap().last().unwrap(), "complete");
}

#[tokio::test(start_paused = true)]
async fn a_build_walks_through_its_stages_and_ends_with_the_state() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine::default();

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), COMPLETED);
    assert_eq!(
        engine.steps(),
        [
            "open",
            "init",
            "plan start",
            "graph plan",
            "apply",
            "graph state",
            "close"
        ]
        .map(str::to_owned)
    );
    assert_eq!(server.calls_named("quota"), 0);
    let CompletedWork::WorkspaceBuild(result) =
        server.completed.lock().unwrap().clone().unwrap().result
    else {
        panic!("another kind of job")
    };
    assert_eq!(result.state, "{\"serial\":2}");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_fills_what_is_missing() {
    let server = Server::with(job(Work::TemplateDryRun(TemplateDryRun::default())));
    let engine = Engine::default();

    run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(
        engine.steps(),
        ["open", "init", "plan start dryrun", "graph plan", "close"].map(str::to_owned)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_quota_fails_the_build_before_it_applies() {
    let server = Server::with(build(Transition::Start));
    *server.quota.lock().unwrap() = Some(Quota {
        ok: false,
        consumed: 7,
        budget: 10,
    });
    let engine = Engine {
        daily_cost: 25,
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    assert_eq!(server.failure().code, Some(FailureCode::InsufficientQuota));
    assert!(!engine.steps().contains(&"apply".to_owned()));
    assert!(
        server
            .lines
            .lock()
            .unwrap()
            .iter()
            .any(|(_, text)| text == "Build cost       —   25")
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_speaks_of_quota_gets_no_code() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        failing: Some("plan start"),
        ..Engine::default()
    };

    run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(
        (server.failure().code, server.failure().error.as_str()),
        (None, "engine says no")
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_result_is_failed_with_its_state() {
    let server = Server::with(build(Transition::Start));
    server.refuse_complete.store(true, Ordering::SeqCst);

    let (summary, ..) = run_one(&server, &Engine::default(), &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    let failure = server.failure();
    assert_eq!(
        failure.error,
        "internal provisionerserver error: duplicate app slug"
    );
    assert_eq!(state_of(&failure), Some(WHOLE));
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_a_step_fails_only_that_job() {
    let server = Server::with(build(Transition::Start));
    server
        .jobs
        .lock()
        .unwrap()
        .push_back(build(Transition::Stop));
    let engine = Engine {
        panics_in: Some("plan start"),
        ..Engine::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        max_jobs: Some(2),
        ..config(&dir)
    };

    let source: Arc<dyn JobSource> = Arc::clone(&server) as Arc<dyn JobSource>;
    let summary = run(config, vec![source], Arc::new(engine), Stop::new())
        .await
        .unwrap();

    assert_eq!(counts(&summary), (1, 1, 0));
    assert!(server.failure().error.contains("internal error"));
    assert_eq!(state_of(&server.failure()), None);
}

#[tokio::test(start_paused = true)]
async fn a_bug_after_apply_costs_no_state() {
    for (step, state) in [("graph state", WHOLE), ("apply", PARTIAL)] {
        let server = Server::with(build(Transition::Start));
        let engine = Engine {
            panics_in: Some(step),
            ..Engine::default()
        };

        let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

        assert_eq!(counts(&summary), FAILED, "{step}");
        assert_eq!(state_of(&server.failure()), Some(state), "{step}");
        assert_eq!(engine.steps().last().unwrap(), "close", "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_knows_is_failed_and_not_dropped() {
    let server = Server::with(job(Work::Unknown));

    let (summary, ..) = run_one(&server, &Engine::default(), &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    assert!(server.failure().error.starts_with("unknown job type"));
}

#[tokio::test(start_paused = true)]
async fn the_engines_time_is_told_apart_from_ours() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        apply_takes: Duration::from_secs(30),
        ..Engine::default()
    };

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary.engine, Duration::from_secs(30));
    assert!(summary.total - summary.engine < Duration::from_secs(1));
}

#[test]
fn a_configuration_that_cannot_work_names_its_value() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(config(&dir).check(), Ok(()));

    let mut wrong = config(&dir);
    wrong.max_jobs = Some(0);
    assert_eq!(wrong.check(), Err(ConfigError::Zero("max_jobs")));
    wrong = config(&dir);
    wrong.outage_limit = wrong.heartbeat;
    assert!(matches!(
        wrong.check(),
        Err(ConfigError::ShortOutageLimit { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn what_no_server_would_take_fails_before_anything_is_built() {
    let agent = Agent {
        name: "not_a_name".to_owned(),
        ..Agent::default()
    };
    let engine = Engine {
        resources: vec![Resource {
            agents: vec![agent],
            ..Resource::default()
        }],
        ..Engine::default()
    };
    for work in [
        Work::TemplateImport(TemplateImport::default()),
        Work::TemplateDryRun(TemplateDryRun::default()),
        build(Transition::Start).work,
    ] {
        let server = Server::with(job(work));

        let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

        assert_eq!(counts(&summary), FAILED);
        let error = server.failure().error;
        assert!(error.contains("not_a_name"), "{error}");
        assert_eq!(server.calls_named("complete"), 0);
        assert!(!engine.steps().contains(&"apply".to_owned()));
        assert_eq!(state_of(&server.failure()), None);
    }
    let server = Server::with(build(Transition::Destroy));

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(
        counts(&summary),
        COMPLETED,
        "what is refused can be destroyed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_too_large_loses_its_timings_before_its_resources() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        measures: 1000,
        ..Engine::default()
    };
    *server.limit.lock().unwrap() = Some(1000);

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), COMPLETED);
    let completed = server.completed.lock().unwrap().clone().unwrap();
    let CompletedWork::WorkspaceBuild(result) = completed.result else {
        panic!("another kind of job")
    };
    assert_eq!((result.state.as_ref(), result.timings.len()), (WHOLE, 0));
}

#[tokio::test(start_paused = true)]
async fn of_a_result_that_is_far_too_large_the_state_alone_arrives() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        resources: vec![Resource {
            name: "x".repeat(2000),
            ..Resource::default()
        }],
        measures: 1000,
        ..Engine::default()
    };
    *server.limit.lock().unwrap() = Some(1000);

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    let failure = server.failure();
    assert!(failure.error.contains("too large"), "{}", failure.error);
    assert_eq!(state_of(&failure), Some(WHOLE));
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_too_large_alone_stays_on_disk_and_the_job_ends_nevertheless() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        state_bytes: 5000,
        ..Engine::default()
    };
    *server.limit.lock().unwrap() = Some(1000);

    let (summary, took, dir) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(summary.undelivered, 1);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let failure = server.failure();
    assert_eq!(state_of(&failure), None);
    assert!(
        failure.error.contains("outpost recover"),
        "{}",
        failure.error
    );
    assert_eq!(kept(&dir).unwrap().len(), 5000);
}

#[tokio::test(start_paused = true)]
async fn an_import_warns_of_a_server_that_drops_the_order_of_scripts() {
    let script = |prerequisite: Option<&str>| Script {
        dependencies: prerequisite
            .map(|prerequisite| ScriptDependency {
                prerequisite: prerequisite.to_owned(),
                requirement: ScriptRequirement::Success,
            })
            .into_iter()
            .collect(),
        ..Script::default()
    };
    let resource = |agents, containers| {
        let agent = Agent {
            name: "dev".to_owned(),
            scripts: agents,
            devcontainers: vec![Devcontainer {
                scripts: containers,
                ..Devcontainer::default()
            }],
            ..Agent::default()
        };
        vec![Resource {
            agents: vec![agent],
            ..Resource::default()
        }]
    };
    let first = Some("coder_script.first");
    for (version, resources, is_warned) in [
        (Some("1.18"), resource(vec![script(first)], vec![]), true),
        (Some("1.18"), resource(vec![], vec![script(first)]), true),
        (Some("1.18"), resource(vec![script(None)], vec![]), false),
        (None, resource(vec![script(first)], vec![]), false),
    ] {
        let server = Arc::new(Server {
            jobs: Mutex::new([job(Work::TemplateImport(TemplateImport::default()))].into()),
            without_script_order: version.map(str::to_owned),
            ..Server::default()
        });
        let engine = Engine {
            resources,
            ..Engine::default()
        };

        run_one(&server, &engine, &Stop::new()).await;

        let lines = server.lines.lock().unwrap();
        // Coder's CLI takes the first line of a stage for its beginning, and does not show it.
        let first = lines
            .iter()
            .find(|(stage, _)| stage == "Graphing Infrastructure");
        assert!(first.is_none_or(|(_, line)| line.is_empty()), "{lines:?}");
        let warnings = lines.iter().filter(|(_, line)| {
            line.contains("ignores `coder_script_order`: its daemon API is 1.18")
        });
        assert_eq!(warnings.count(), usize::from(is_warned), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ai_tasks_are_counted_and_reported_only_where_the_server_has_them() {
    let engine = |count| Engine {
        ai_tasks: vec![AiTask::default(); count],
        ..Engine::default()
    };
    let server = |has_ai_tasks, job| {
        let jobs = Mutex::new([job].into());
        Arc::new(Server {
            jobs,
            has_ai_tasks,
            ..Server::default()
        })
    };
    let import = || job(Work::TemplateImport(TemplateImport::default()));
    let cases = [(true, 0), (true, 1), (false, 0), (false, 1), (false, 2)];
    for (has_ai_tasks, count) in cases {
        let reported = if has_ai_tasks { count } else { 0 };
        let built = server(has_ai_tasks, build(Transition::Start));
        run_one(&built, &engine(count), &Stop::new()).await;
        let imported = server(has_ai_tasks, import());
        run_one(&imported, &engine(count), &Stop::new()).await;

        let result = |server: &Server| server.completed.lock().unwrap().clone().unwrap().result;
        let CompletedWork::WorkspaceBuild(built) = result(&built) else {
            panic!("another kind of job")
        };
        assert_eq!(built.ai_tasks.len(), reported, "{has_ai_tasks} {count}");
        let CompletedWork::TemplateImport(imported) = result(&imported) else {
            panic!("another kind of job")
        };
        assert_eq!(
            imported.has_ai_tasks,
            reported > 0,
            "{has_ai_tasks} {count}"
        );
    }
    let refusing = server(true, build(Transition::Start));
    run_one(&refusing, &engine(2), &Stop::new()).await;
    assert_eq!(
        refusing.failure().error,
        "only one 'coder_ai_task' resource can be provisioned per template, found 2"
    );
}

#[tokio::test(start_paused = true)]
async fn an_import_says_which_of_its_two_plans_failed() {
    let explained =
        "; the plan for a started workspace succeeded, only the one for a stopped workspace failed";
    for (transition, is_explained) in [("start", false), ("stop", true)] {
        let server = Server::with(job(Work::TemplateImport(TemplateImport::default())));
        let failing = match transition {
            "start" => "plan start",
            _ => "plan stop",
        };
        let engine = Engine {
            failing: Some(failing),
            ..Engine::default()
        };

        run_one(&server, &engine, &Stop::new()).await;

        let error = server.failure().error;
        let words = format!("template import provision for {transition}: plan during");
        assert!(error.starts_with(&words), "{error}");
        assert_eq!(error.ends_with(explained), is_explained, "{error}");
    }
}
