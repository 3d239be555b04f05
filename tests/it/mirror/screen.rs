//! What people see at a terminal: a table that fits, and a sync whose retries do not push everything else away.

use std::fs;

use outpost::{
    mirror::{
        Generation, Store,
        generation::{Module, StaticFile},
    },
    registry::Platform,
    stop::Stop,
};
use tempfile::TempDir;

use super::origin::{Fault, Origin, Publisher};
use crate::support::terminal::Terminal;

const HOST: &str = "registry.example";
const DEMO: &str = "registry.example/acme/demo";

fn outpost(home: &TempDir, arguments: &[&str]) -> pty_process::Command {
    pty_process::Command::new(env!("CARGO_BIN_EXE_outpost"))
        .env_clear()
        .env("HOME", home.path())
        .env("TERM", "xterm")
        .env("PATH", std::env::var_os("PATH").unwrap())
        .current_dir(home.path())
        .args(arguments)
}

#[tokio::test]
async fn retries_of_a_sync_are_one_line_that_changes_and_are_counted_at_the_end() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let here = Platform::current().to_string();
    origin.publish(&publisher, DEMO, "1.0.0", &[&here], 10);
    let file = format!("terraform-provider-demo_1.0.0_{here}.zip");
    origin.fail(&file, Fault::Status(503, 2));
    let home = TempDir::new().unwrap();
    let config = format!("{}[[providers]]\nsource = \"{DEMO}\"\n", origin.host(HOST));
    fs::write(home.path().join("mirror.toml"), config).unwrap();

    let arguments = ["mirror", "sync", "--mirror", "mirror"];
    let (shown, status) = Terminal::open(outpost(&home, &arguments)).end().await;

    assert!(status.success(), "{shown}");
    assert!(
        shown.contains("retry 1 in ") && shown.contains("retry 2 in "),
        "{shown:?}"
    );
    assert!(
        shown.contains(&format!("{file} was retried 2 times")),
        "{shown:?}"
    );
    // Elsewhere than at a terminal each is a line of its own.
    assert!(!shown.contains("retrying in"), "{shown:?}");
}

#[tokio::test]
async fn a_table_fits_the_terminal_and_breaks_addresses_where_a_part_ends() {
    let home = TempDir::new().unwrap();
    let store = Store::open(&home.path().join("mirror")).unwrap();
    let part = "p".repeat(40);
    let module = Module {
        addr: format!("registry.example/{part}/{part}/coder"),
        version: "1.2.0".parse().unwrap(),
        archive: store.put(b"module").unwrap(),
        size: 6,
        origin: String::new(),
        dir: String::new(),
    };
    let file = StaticFile {
        url: format!("https://files.example/{}", "f".repeat(150)),
        content: store.put(b"file").unwrap(),
        size: 4,
    };
    let generation = Generation {
        modules: vec![module],
        files: vec![file],
        ..Generation::default()
    };
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
    drop(lock);

    let arguments = ["mirror", "inspect", "--mirror", "mirror"];
    let (shown, status) = Terminal::open(outpost(&home, &arguments)).end().await;

    assert!(status.success(), "{shown}");
    // The terminal has 100 columns.
    for line in shown.lines() {
        assert!(line.trim_end().chars().count() <= 100, "{shown}");
    }
    let cell = |line: &str| line.split('┆').nth(1).map(|cell| cell.trim().to_owned());
    let cells: Vec<_> = shown.lines().filter_map(cell).collect();
    assert!(
        cells.contains(&format!("registry.example/{part}/")),
        "{shown}"
    );
    assert!(cells.contains(&format!("{part}/coder")), "{shown}");
    assert!(
        shown.contains("│ module ┆") && shown.contains("┆ 1.2.0   ┆"),
        "{shown}"
    );
}
