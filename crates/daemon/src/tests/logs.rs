//! Output of an engine as it reaches the server and the disk.

use std::{fs, os::unix::fs::MetadataExt as _};

use outpost_base::job::{ExternalAuth, VariableValue};
use outpost_provision::LogKind;

use super::*;

fn says(output: &str) -> LogEntry {
    LogEntry {
        level: LogLevel::Info,
        output: output.to_owned(),
        kind: LogKind::Plain,
    }
}

fn piece(output: &str, is_last: bool) -> LogEntry {
    LogEntry {
        kind: LogKind::Piece { stream: 0, is_last },
        ..says(output)
    }
}

fn outputs(server: &Server) -> Vec<String> {
    let lines = server.lines.lock().unwrap();
    lines.iter().map(|(_, output)| output.clone()).collect()
}

fn on_disk(dir: &tempfile::TempDir) -> String {
    let path = dir.path().join("logs").join(format!("{ID}.log"));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    fs::read_to_string(path).unwrap()
}

/// Returns a build with a variable and a token that nobody may see.
fn secret_build() -> Job {
    let mut job = build(Transition::Start);
    let Work::WorkspaceBuild(build) = &mut job.work else {
        unreachable!()
    };
    build.variables.push(VariableValue {
        name: "password".to_owned(),
        value: Secret::new("engine says"),
        sensitive: true,
    });
    build.external_auth.push(ExternalAuth {
        id: "github".to_owned(),
        access_token: Secret::new("gho_0123456789"),
    });
    job
}

#[tokio::test(start_paused = true)]
async fn known_secrets_reach_neither_the_server_nor_the_disk_nor_the_error() {
    let server = Server::with(secret_build());
    let engine = Engine {
        says: vec![
            says("a key of the daemon!"),
            piece("token: gho_0123", false),
            piece("456789.", true),
        ],
        failing: Some("plan start"),
        ..Engine::default()
    };

    let (_, _, dir) = run_one(&server, &engine, &Stop::new()).await;

    let (outputs, disk) = (outputs(&server), on_disk(&dir));
    assert!(outputs.contains(&"[redacted]!".to_owned()), "{outputs:?}");
    assert!(!outputs.concat().contains("gho_") && !outputs.concat().contains("456789"));
    assert!(disk.contains("token: [redacted]."), "{disk}");
    assert!(!disk.contains("gho_") && !disk.contains("456789"), "{disk}");
    assert_eq!(server.failure().error, "[redacted] no");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_too_long_for_the_server_is_whole_on_the_disk() {
    let server = Server::with(build(Transition::Start));
    let line = |number: usize| says(&format!("{number} {}", "x".repeat(1000)));
    let engine = Engine {
        says: (0..5000).map(line).collect(),
        ..Engine::default()
    };

    let (summary, _, dir) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), COMPLETED);
    let outputs = outputs(&server);
    let size: usize = outputs.iter().map(|output| output.len() + 111).sum();
    assert!((800_000..=1 << 20).contains(&size), "{size}");
    let has = |start: &str| outputs.iter().any(|output| output.starts_with(start));
    assert!(has("0 x") && has("4999 x") && !has("2500 x"));
    let disk = on_disk(&dir);
    assert_eq!(
        disk.lines().filter(|line| line.ends_with("xxx")).count(),
        5000
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_noticed_within_a_second_while_nothing_more_can_be_sent() {
    let server = Server::with(build(Transition::Start));
    let engine = Engine {
        says: vec![says(&"x".repeat(60_000)); 40],
        apply_takes: Duration::from_secs(3600),
        logs_always: true,
        ..Engine::default()
    };
    later(&server, |server| {
        server.cancelled.store(true, Ordering::SeqCst)
    });

    let (_, took, _) = run_one(&server, &engine, &Stop::new()).await;

    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(!outputs(&server).contains(&"still creating".to_owned()) || took.as_secs() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_noticed_within_a_second_while_the_server_is_stuck_on_lines() {
    let server = Server::with(build(Transition::Start));
    server.chokes_on_lines.store(true, Ordering::SeqCst);
    let engine = Engine {
        apply_takes: Duration::from_secs(3600),
        logs_always: true,
        ..Engine::default()
    };
    let (cancelling, stopped) = (Arc::clone(&server), engine.clone());
    let noticed = tokio::spawn(async move {
        sleep(Duration::from_millis(100_500)).await;
        assert_eq!(stopped.running.load(Ordering::SeqCst), 1, "it applies");
        cancelling.cancelled.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        while stopped.running.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    });

    let (summary, took, dir) = run_one(&server, &engine, &Stop::new()).await;

    let noticed = noticed.await.unwrap();
    assert!(noticed <= Duration::from_millis(1100), "{noticed:?}");
    assert!(server.calls_named("update") > 90);
    // The lines are waited for no longer than an outage may last, and the job ends all the same.
    assert!(took < Duration::from_secs(101 + 270 + 60), "{took:?}");
    assert_eq!(counts(&summary), FAILED);
    assert_eq!(state_of(&server.failure()), Some(WHOLE));
    assert!(on_disk(&dir).contains("still creating"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_an_update_is_away() {
    let server = Server::with(build(Transition::Start));
    later(&server, |server| {
        server.is_silent.store(true, Ordering::SeqCst)
    });
    let engine = Engine {
        apply_takes: Duration::from_secs(7200),
        ..Engine::default()
    };
    let revived = Arc::clone(&server);
    tokio::spawn(async move {
        sleep(Duration::from_secs(600)).await;
        revived.is_silent.store(false, Ordering::SeqCst);
    });

    let (summary, ..) = run_one(&server, &engine, &Stop::new()).await;

    assert_eq!(counts(&summary), FAILED);
    let error = server.failure().error;
    assert!(
        error.contains("the server was unreachable for too long"),
        "{error}"
    );
}
