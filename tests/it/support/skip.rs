//! Tests, or parts of them, that a machine cannot run.

use std::{
    fmt::Display,
    io::{Write as _, stderr},
};

/// Names what must not be skipped, separated by commas.
const REQUIRED: &str = "OUTPOST_TESTS_REQUIRE";

/// Lists what is skipped because this machine lacks `what`, and why. The test harness captures what a test prints that
/// passes, so this goes to the standard error directly.
///
/// # Panics
/// If `OUTPOST_TESTS_REQUIRE` names `what`, as `.ci/run` does for what it has found on its machine.
#[track_caller]
pub fn skipped(what: &str, why: impl Display) {
    let required = std::env::var(REQUIRED).unwrap_or_default();
    assert!(
        required.split(',').all(|it| it != what),
        "{REQUIRED} names {what}, which does not work: {why}"
    );
    // Reasons may be what a tool printed; the list has a line for each.
    let why = why.to_string().trim().replace('\n', " | ");
    let line = format!("skipped: {what}: {why}\n");
    stderr().write_all(line.as_bytes()).unwrap();
}
