//! Verdicts on runs: what a build gave or why it failed, against what was expected.

use std::path::Path;

use outpost_base::job::Transition;

use super::{Facts, Failure, Outcome, Run, condition, golden, workspace::BuildError};

/// Looks at what a build gave.
pub(super) fn of_build(
    scenario: &Path,
    run: &Run,
    facts: &Facts,
    update: bool,
) -> (Outcome, Vec<Failure>) {
    if let Some(expected) = &run.expect_error {
        let text =
            format!("the run succeeded, but a failure that matches `{expected}` was expected");
        return (Outcome::Failed, vec![Failure::new(run.place.clone(), text)]);
    }
    let context = facts.context();
    let mut failures: Vec<_> = run
        .asserts
        .iter()
        .filter_map(|it| condition::check(it, &context))
        .collect();
    failures.extend(golden::compare(scenario, run, facts, update));
    match failures.is_empty() {
        true => (Outcome::Passed, failures),
        false => (Outcome::Failed, failures),
    }
}

/// A build that failed is right if that was expected.
pub(super) fn of_failure(run: &Run, error: BuildError) -> (Outcome, Vec<Failure>) {
    let (text, details) = match error {
        BuildError::Failed(text, details) => (text, details),
        BuildError::Unable(text) => {
            return (Outcome::Unable, vec![Failure::new(run.place.clone(), text)]);
        }
        BuildError::Scenario(problem) => {
            return (
                Outcome::Invalid,
                vec![Failure::new(problem.place, problem.message)],
            );
        }
    };
    let whole = format!("{text}\n{}", details.join("\n"));
    let message = match &run.expect_error {
        Some(expected) if expected.is_match(&whole) => return (Outcome::Passed, Vec::new()),
        Some(expected) => format!("the run failed, but not with what matches `{expected}`: {text}"),
        None => format!("the {} failed: {text}", transition(run.transition)),
    };
    let failure = Failure {
        details,
        is_of_build: run.expect_error.is_none(),
        ..Failure::new(run.place.clone(), message)
    };
    (Outcome::Failed, vec![failure])
}

/// The transition as scenarios name it.
fn transition(transition: Transition) -> &'static str {
    match transition {
        Transition::Start => "start",
        Transition::Stop => "stop",
        Transition::Destroy => "delete",
    }
}
