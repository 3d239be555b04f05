//! What an agent does for its server, whatever becomes of the connection.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use nix::sys::signal::Signal;
use outpost::proto::coder::agent::v2::{
    AppHealth, Manifest, WorkspaceAgentScript, WorkspaceAgentScriptDependency, WorkspaceApp,
    WorkspaceSecret,
    lifecycle::State,
    log::Level,
    timing::{Stage, Status},
    workspace_agent_metadata::Description,
    workspace_agent_script_dependency::Requirement,
    workspace_app::Healthcheck,
};
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    fake::{Fake, Told},
    lab::{self, Running, outpost},
    sessions::is_gone,
};
use crate::support::wait::until;

fn id() -> Bytes {
    Bytes::copy_from_slice(Uuid::new_v4().as_bytes())
}

fn manifest() -> Manifest {
    Manifest {
        agent_id: id(),
        agent_name: "main".to_owned(),
        workspace_id: id(),
        ..Manifest::default()
    }
}

fn script(text: &str) -> WorkspaceAgentScript {
    WorkspaceAgentScript {
        id: id(),
        log_source_id: id(),
        script: text.to_owned(),
        run_on_start: true,
        ..WorkspaceAgentScript::default()
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// So many seconds, as servers send intervals of values.
fn as_nanoseconds(seconds: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: 0,
        nanos: seconds,
    })
}

struct Place {
    directory: TempDir,
    running: Running,
    settings: Vec<(String, String)>,
}

impl Place {
    fn start(fake: &Fake, settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("tmp")).unwrap();
        let token = ("CODER_AGENT_TOKEN", &*Uuid::new_v4().to_string());
        let settings = [token].into_iter().chain(settings.iter().copied());
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings: Vec<_> = settings.collect();
        Self {
            running: Self::run(fake, directory.path(), &settings),
            directory,
            settings,
        }
    }

    /// Starts it again, with the same settings in the same place.
    fn restart(&mut self, fake: &Fake) {
        self.running = Self::run(fake, self.directory.path(), &self.settings);
    }

    fn run(fake: &Fake, home: &Path, settings: &[(String, String)]) -> Running {
        let mut command = outpost();
        command
            .arg("agent")
            .env("CODER_AGENT_URL", &fake.url)
            .env("HOME", home)
            .env("TMPDIR", home.join("tmp"))
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .current_dir(home)
            .kill_on_drop(true);
        Running::start(command, home.to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Waits until the agent has logged this.
async fn wait_for_log(running: &Running, text: &str) {
    let what = format!("the agent logs {text:?}");
    until(what, async || running.log().contains(text)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_are_reported_with_their_lines_their_times_and_how_they_ended() {
    let mut good = script(
        "echo out; echo err >&2; printf 'last\\r'; echo $CODER_SCRIPT_DATA_DIR > where; printf '#!/bin/sh\\necho found' > $CODER_SCRIPT_BIN_DIR/tool; chmod +x $CODER_SCRIPT_BIN_DIR/tool; until [ -e go ]; do sleep 0.05; done; tool > tool",
    );
    good.log_path = "~/logs-$USER_OF_TEST/good.log".to_owned();
    let mut late = script("exec sleep 1000");
    late.timeout = seconds(1);
    let left = script("sleep 1000 & echo started");
    let failing = script("exit 9");
    let named = script("#!/bin/sh\necho from sh");
    let mut often = script("echo tick >> ticks");
    often.run_on_start = false;
    often.cron = "* * * * * *".to_owned();
    let mut manifest = manifest();
    let all = [&good, &late, &left, &failing, &named, &often];
    manifest.scripts = all.map(Clone::clone).into();
    let fake = Fake::start(manifest).await;
    let place = Place::start(&fake, &[("USER_OF_TEST", "x")]);
    fs::create_dir(place.path("logs-x")).unwrap();
    fs::write(place.path("go"), "").unwrap();

    let told = fake
        .until(|told| {
            told.timings
                .iter()
                .filter(|it| it.stage() == Stage::Start)
                .count()
                == 5
        })
        .await;
    let told_of = |script: &WorkspaceAgentScript| {
        let mut timings = told.timings.iter();
        let timing = timings
            .find(|timing| timing.script_id == script.id)
            .unwrap();
        assert!(timing.start.unwrap().seconds <= timing.end.unwrap().seconds);
        (timing.status(), timing.exit_code)
    };
    assert_eq!(told_of(&good), (Status::Ok, 0));
    assert_eq!(told_of(&late).0, Status::TimedOut);
    assert_eq!(told_of(&left), (Status::PipesLeftOpen, 0));
    assert_eq!(told_of(&failing), (Status::ExitFailure, 9));
    assert_eq!(told_of(&named), (Status::Ok, 0));
    let told = fake.until(|told| told.stages.len() == 2).await;
    assert_eq!(told.stages, [State::Starting, State::StartTimeout]);

    let told = fake.until(|told| told.lines.len() >= 6).await;
    let lines = |script: &WorkspaceAgentScript| -> Vec<(Level, String)> {
        let lines = told.lines.iter();
        let lines = lines.filter(|(source, _)| *source == script.log_source_id);
        let mut lines: Vec<_> = lines
            .map(|(_, log)| (log.level(), log.output.clone()))
            .collect();
        lines.sort();
        lines
    };
    let line = |level, text: &str| (level, text.to_owned());
    let expected = [
        line(Level::Info, "last"),
        line(Level::Info, "out"),
        line(Level::Error, "err"),
    ];
    assert_eq!(lines(&good), expected);
    assert_eq!(lines(&named), [line(Level::Info, "from sh")]);
    assert!(
        lines(&left)
            .iter()
            .any(|(level, text)| *level == Level::Error && text.contains("holds its output"))
    );
    let file = fs::read_to_string(place.path("logs-x/good.log")).unwrap();
    assert!(file.contains("out\n") && file.contains("err\n"), "{file}");
    let source = hex::encode(&good.log_source_id);
    let data = fs::read_to_string(place.path("where")).unwrap();
    assert!(data.contains("coder-script-data"), "{data} {source}");
    assert_eq!(fs::read_to_string(place.path("tool")).unwrap(), "found\n");

    // By their times, once the start is over, and until the end.
    fake.until(|told| {
        told.timings
            .iter()
            .filter(|it| it.stage() == Stage::Cron)
            .count()
            >= 2
    })
    .await;
    place.running.signal(Signal::SIGTERM);
    assert_eq!(place.running.end().await, 0);
    let told = fake.until(|told| told.stages.len() == 4).await;
    assert_eq!(told.stages[2..], [State::ShuttingDown, State::Off]);
}

fn ordered(
    name: &str,
    text: &str,
    after: &[(&WorkspaceAgentScript, Requirement)],
) -> WorkspaceAgentScript {
    let after = after
        .iter()
        .map(|(script, requirement)| WorkspaceAgentScriptDependency {
            prerequisite_resource_address: script.resource_address.clone(),
            requirement: (*requirement).into(),
        });
    WorkspaceAgentScript {
        display_name: name.to_owned(),
        resource_address: format!("coder_script.{name}"),
        dependencies: after.collect(),
        ..script(text)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_run_in_their_order_and_are_skipped_after_one_that_failed() {
    let clone = ordered(
        "clone",
        "until [ -e go ]; do sleep 0.05; done; echo clone >> ran; exit 3",
        &[],
    );
    let install = ordered(
        "install",
        "echo install >> ran",
        &[(&clone, Requirement::Success)],
    );
    let report = ordered(
        "report",
        "echo report >> ran",
        &[(&install, Requirement::Completion)],
    );
    let free = script("echo free >> ran; touch go");
    let mut often = ordered(
        "often",
        "echo tick >> ticks",
        &[(&clone, Requirement::Success)],
    );
    often.run_on_start = false;
    often.cron = "* * * * * *".to_owned();
    let mut manifest = manifest();
    let all = [&report, &install, &clone, &free, &often];
    manifest.scripts = all.map(Clone::clone).into();
    let fake = Fake::start(manifest).await;
    let place = Place::start(&fake, &[]);

    let told = fake.until(|told| told.stages.len() == 2).await;

    assert_eq!(told.stages, [State::Starting, State::StartError]);
    assert_eq!(
        fs::read_to_string(place.path("ran")).unwrap(),
        "free\nclone\nreport\n"
    );
    let told = fake
        .until(|told| told.timings.len() >= 4 && !told.lines.is_empty())
        .await;
    let status_of = |script: &WorkspaceAgentScript| {
        let mut timings = told.timings.iter();
        let timing = timings.find(|timing| timing.script_id == script.id);
        timing.map(|timing| (timing.status(), timing.start == timing.end))
    };
    assert_eq!(status_of(&install), Some((Status::Skipped, true)));
    assert_eq!(status_of(&report).unwrap().0, Status::Ok);
    let (source, line) = &told.lines[0];
    assert_eq!(*source, install.log_source_id);
    assert_eq!(line.output, "Skipping script: dependency \"clone\" failed.");
    assert_eq!(line.level(), Level::Info);
    // What runs by its times waits for nobody.
    fake.until(|told| told.timings.iter().any(|it| it.stage() == Stage::Cron))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_when_the_agent_ends_neither_runs_nor_is_skipped() {
    let clone = ordered(
        "clone",
        "touch began; until [ -e go ]; do sleep 0.05; done",
        &[],
    );
    let install = ordered("install", "touch ran", &[(&clone, Requirement::Completion)]);
    let mut manifest = manifest();
    manifest.scripts = vec![clone.clone(), install.clone()];
    let fake = Fake::start(manifest).await;
    let place = Place::start(&fake, &[]);
    fake.until(|told| told.stages == [State::Starting]).await;
    until_there(&place.path("began")).await;

    let ran = place.path("ran");
    place.running.signal(Signal::SIGTERM);
    let told = fake.until(|told| told.stages.contains(&State::Off)).await;
    assert_eq!(place.running.end().await, 0);

    assert_eq!(
        told.stages,
        [State::Starting, State::ShuttingDown, State::Off]
    );
    assert!(!ran.exists());
    assert!(told.timings.iter().all(|it| it.script_id != install.id));
    assert_eq!(told.lines, vec![]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_still_run_when_the_agent_ends_are_hung_up_and_it_waits_for_them() {
    for cron in ["", "* * * * * *"] {
        // A shell that waits for another one does not pass the signal on.
        let mut lasting = script(
            "trap : HUP; sh -c 'trap \"echo bye; touch ended; exit 0\" HUP; echo $$ > id; while :; do sleep 0.05; done'",
        );
        (lasting.run_on_start, lasting.cron) = (cron.is_empty(), cron.to_owned());
        let mut manifest = manifest();
        manifest.scripts = vec![lasting];
        let fake = Fake::start(manifest).await;
        let Place {
            directory, running, ..
        } = Place::start(&fake, &[]);
        let id = lab::appears(&directory.path().join("id")).await;

        running.signal(Signal::SIGTERM);
        assert_eq!(running.end().await, 0);

        assert!(directory.path().join("ended").exists());
        assert!(is_gone(id.trim()));
        let told = fake.until(|told| !told.timings.is_empty()).await;
        let stages: Vec<_> = told.timings.iter().map(|it| it.stage()).collect();
        let expected = if cron.is_empty() {
            Stage::Start
        } else {
            Stage::Cron
        };
        assert_eq!(stages, [expected]);
        // The shell may add a line about what it waited for.
        let mut lines = told.lines.iter().map(|(_, line)| &*line.output);
        assert!(lines.any(|line| line == "bye"), "{:?}", told.lines);
    }
}

/// Waits for a file that a script makes.
async fn until_there(path: &std::path::Path) {
    until(path.display(), async || path.exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_costs_no_report_and_no_script_runs_again() {
    let mut manifest = manifest();
    manifest.scripts = vec![script(
        "echo x >> ran; echo one; until [ -e go ]; do sleep 0.05; done; echo two",
    )];
    manifest.directory = "~/projects".to_owned();
    let secret = WorkspaceSecret {
        env_name: String::new(),
        file_path: "~/.secrets/key".to_owned(),
        value: Bytes::from_static(b"value"),
    };
    manifest.secrets = vec![secret];
    let fake = Fake::start(manifest).await;
    let place = Place::start(&fake, &[]);
    // Each connection asks for banners, if it lasts long enough.
    let has_banners = |told: &Told, times: usize| {
        let asked = told.calls.get("GetAnnouncementBanners");
        asked.is_some_and(|asked| *asked >= times)
    };
    fake.until(|told| told.lines.len() == 1 && has_banners(told, 1))
        .await;
    assert_eq!(fs::read(place.path(".secrets/key")).unwrap(), b"value");

    fs::create_dir(place.path("projects")).unwrap();
    for round in 2..4 {
        fake.cut();
        let told = fake
            .until(|told| told.startups.len() == round && has_banners(told, round))
            .await;
        assert!(
            told.startups[round - 1]
                .expanded_directory
                .ends_with("/projects")
        );
        assert!(told.startups[0].version.starts_with('v'));
    }
    fs::write(place.path("go"), "").unwrap();

    let told = fake
        .until(|told| {
            let is_last = told
                .lines
                .last()
                .is_some_and(|(_, log)| log.output == "two");
            is_last && told.stages.contains(&State::Ready) && !told.timings.is_empty()
        })
        .await;
    // What was not acknowledged when the connection broke comes again.
    let mut stages = told.stages;
    stages.dedup();
    assert_eq!(stages, [State::Starting, State::Ready]);
    let mut lines: Vec<_> = told.lines.iter().map(|(_, log)| &*log.output).collect();
    lines.dedup();
    assert_eq!(lines, ["one", "two"]);
    assert_eq!(fs::read_to_string(place.path("ran")).unwrap(), "x\n");

    place.running.signal(Signal::SIGTERM);
    assert_eq!(place.running.end().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_lines_gets_no_more_of_them_and_everything_else() {
    let mut manifest = manifest();
    manifest.scripts = vec![script(
        "echo one; until [ -e go ]; do sleep 0.05; done; seq 100; echo done > done",
    )];
    let fake = Fake::start(manifest).await;
    fake.is_full();
    let place = Place::start(&fake, &[]);
    fake.until(|told| told.lines.len() == 1).await;

    fs::write(place.path("go"), "").unwrap();
    let told = fake.until(|told| told.stages.contains(&State::Ready)).await;
    assert_eq!(told.calls["GetManifest"], 1, "the connection stays");
    // The next report comes after any line that would have been sent.
    let reports = told.stats.len();
    let told = fake.until(|told| told.stats.len() > reports + 1).await;
    assert_eq!(told.lines.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_measured_at_their_times_and_apps_are_asked() {
    let mut manifest = manifest();
    let value = |key: &str, script: &str, interval: i32| Description {
        key: key.to_owned(),
        script: script.to_owned(),
        interval: as_nanoseconds(interval),
        timeout: as_nanoseconds(2),
        ..Description::default()
    };
    manifest.metadata = vec![
        value("often", "echo o; echo e >&2", 1),
        value("once", "echo x >> once; cat once", 0),
        value("failing", "echo before; exit 3", 1),
        value("slow", "echo s >> slow; exec sleep 1000", 1),
        value("long", "head -c 20000 /dev/zero | tr '\\0' a", 1),
    ];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = WorkspaceApp {
        id: id(),
        healthcheck: Some(Healthcheck {
            url: format!("http://{address}/"),
            interval: seconds(1),
            threshold: 1,
        }),
        ..WorkspaceApp::default()
    };
    manifest.apps = vec![app];
    let fake = Fake::start(manifest).await;
    let place = Place::start(&fake, &[]);

    let has = |told: &Told, key: &str, count: usize| {
        told.values.iter().filter(|it| it.key == key).count() >= count
    };
    let told = fake
        .until(|told| {
            has(told, "often", 3)
                && has(told, "failing", 1)
                && has(told, "slow", 1)
                && has(told, "long", 1)
        })
        .await;
    let last = |key: &str| {
        let mut values = told.values.iter().rev();
        values
            .find(|it| it.key == key)
            .unwrap()
            .result
            .clone()
            .unwrap()
    };
    let often = last("often");
    assert!(
        often.error.is_empty() && often.value.contains("o\n") && often.value.contains("e\n"),
        "{often:?}"
    );
    let failing = last("failing");
    assert_eq!(failing.value, "before\n");
    assert!(failing.error.contains("exit status 3"), "{failing:?}");
    assert!(
        last("slow").error.contains("longer than"),
        "{:?}",
        last("slow")
    );
    assert_eq!(last("long").value.len(), 10 << 10);
    assert_eq!(fs::read_to_string(place.path("once")).unwrap(), "x\n");

    // It hangs, then it is away, then it answers.
    let told = fake.until(|told| told.healths.len() == 1).await;
    assert_eq!(told.healths, [AppHealth::Unhealthy]);
    drop(listener);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await });
    let told = fake.until(|told| told.healths.len() == 2).await;
    assert_eq!(told.healths[1], AppHealth::Healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_begins_anew_once_for_each_owner_and_not_again_when_it_is_restarted() {
    let fake = Fake::start(manifest()).await;
    let mut place = Place::start(&fake, &[]);
    let readied = async |times: usize| {
        let is_ready = |stage: &&State| **stage == State::Ready;
        fake.until(|told| told.stages.iter().filter(is_ready).count() == times)
            .await
    };
    let asked = async |times: usize| {
        fake.until(|told| told.calls.get("reinit") == Some(&times))
            .await
    };
    readied(1).await;
    let mut claimed = manifest();
    claimed.owner_username = "amy".to_owned();
    claimed.scripts = vec![script("echo $CODER_WORKSPACE_OWNER_NAME >> owner")];
    fake.set_manifest(claimed.clone());

    fake.claim(Uuid::from_u128(2));

    let told = readied(2).await;
    use State::{Off, Ready, ShuttingDown, Starting};
    assert_eq!(
        told.stages,
        [Starting, Ready, ShuttingDown, Off, Starting, Ready]
    );
    // It asks once more, hears of the same claim, and asks no more.
    asked(2).await;
    wait_for_log(&place.running, "has already reinitialized for its owner").await;

    place.running.signal(Signal::SIGKILL);
    place.restart(&fake);
    readied(3).await;
    asked(3).await;
    wait_for_log(&place.running, "has already reinitialized for its owner").await;
    assert_eq!(
        fs::read_to_string(place.path("owner")).unwrap(),
        "amy\namy\n"
    );

    // Another owner is another beginning.
    place.running.signal(Signal::SIGKILL);
    fake.claim(Uuid::nil());
    place.restart(&fake);
    readied(4).await;
    asked(4).await;
    fake.claim(Uuid::from_u128(3));
    let told = readied(5).await;
    assert!(told.stages.ends_with(&[ShuttingDown, Off, Starting, Ready]));
    asked(5).await;
    wait_for_log(&place.running, "has already reinitialized for its owner").await;

    // So it is if the server knows of the claim before the agent is there, whose first life the server may not hear of.
    place.running.signal(Signal::SIGKILL);
    fake.claim(Uuid::from_u128(4));
    place.restart(&fake);
    asked(7).await;
    wait_for_log(&place.running, "has already reinitialized for its owner").await;
    fake.until(|told| {
        let readied = told.stages.iter().filter(|it| **it == Ready).count();
        readied > 5 && told.stages.ends_with(&[Starting, Ready])
    })
    .await;
    fake.answer("reinit", 409, serde_json::Value::Null);
    place.running.signal(Signal::SIGTERM);
    assert_eq!(place.running.end().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_coder_s_agent_are_taken_and_those_without_effect_are_named_once() {
    let fake = Fake::start(manifest()).await;
    let settings = [
        ("CODER_AGENT_TAILNET_LISTEN_PORT", "41641"),
        ("CODER_AGENT_PROMETHEUS_ADDRESS", "127.0.0.1:2112"),
        ("CODER_AGENT_DEBUG_ADDRESS", "127.0.0.1:2113"),
        ("CODER_AGENT_PPROF_ADDRESS", "127.0.0.1:6060"),
        ("CODER_AGENT_DEVCONTAINERS_ENABLE", "true"),
        ("CODER_AGENT_SOCKET_SERVER_ENABLED", "false"),
        ("CODER_AGENT_SOCKET_PATH", "/tmp/x"),
        ("CODER_AGENT_BOUNDARY_LOG_PROXY_SOCKET_PATH", "/tmp/y"),
        ("CODER_AGENT_BLOCK_FILE_TRANSFER", "1"),
        ("CODER_AGENT_SSH_MAX_TIMEOUT", "72h0m0s"),
        ("CODER_AGENT_SUBSYSTEM", "envbuilder,exectrace"),
        ("CODER_AGENT_LOGGING_JSON", "json.log"),
    ];
    let place = Place::start(&fake, &settings);
    fake.until(|told| told.stages.contains(&State::Ready)).await;

    let log = place.running.log();
    let line = log.lines().find(|line| line.contains("have no effect"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("tailnet-listen-port") && line.contains("boundary-log-proxy-socket-path"),
        "{line}"
    );
    assert!(
        !line.contains("socket-server-enabled") && !log.contains("agent socket"),
        "{log}"
    );
    let json = fs::read_to_string(place.path("json.log")).unwrap();
    let first = json.lines().next().unwrap();
    assert!(
        serde_json::from_str::<serde_json::Value>(first).is_ok(),
        "{first}"
    );
    place.running.signal(Signal::SIGTERM);
    assert_eq!(place.running.end().await, 0);
}
