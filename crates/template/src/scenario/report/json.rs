//! Results as one JSON value.

use serde_json::{Value, json};

use super::{
    super::{Played, PlayedRun},
    Summary, differences,
};

/// All results; the shape is versioned.
pub fn json(played: &[Played]) -> Value {
    json!({
        "version": 1,
        "scenarios": played.iter().map(scenario).collect::<Vec<_>>(),
        "differences": differences(played),
        "summary": Summary::of(played),
    })
}

fn scenario(played: &Played) -> Value {
    let problems = played.problems.iter().map(|problem| {
        let place = &problem.place;
        json!({"message": problem.message, "file": place.file, "line": place.line, "column": place.column})
    });
    json!({
        "directory": played.directory,
        "file": played.file,
        "variant": played.variant,
        "runs": played.runs.iter().map(run).collect::<Vec<_>>(),
        "problems": problems.collect::<Vec<_>>(),
        "left": played.left,
        "seconds": played.seconds,
        "unchanged": played.is_cached,
    })
}

fn run(run: &PlayedRun) -> Value {
    json!({
        "name": run.name,
        "outcome": run.outcome,
        "seconds": run.seconds,
        "failures": run.failures,
    })
}
