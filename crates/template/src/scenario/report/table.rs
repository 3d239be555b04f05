//! Results for people: one line a run, and below it why it did not pass.

use super::{
    super::{Failure, Outcome, Played, PlayedRun},
    Summary, differences, title,
};

/// All results and a line that counts them.
pub fn table(played: &[Played]) -> String {
    let mut lines = Vec::new();
    for scenario in played {
        lines.push(match scenario.is_cached {
            true => format!("{} (unchanged since it passed)", title(scenario)),
            false => title(scenario),
        });
        let problems = scenario.problems.iter();
        lines.extend(problems.map(|problem| format!("  WRONG    {problem}")));
        scenario
            .runs
            .iter()
            .for_each(|run| add_run(run, &mut lines));
        if let Some(left) = &scenario.left {
            lines.push("  LEFT     not everything could be destroyed".to_owned());
            lines.extend(left.lines().map(|line| format!("    {line}")));
        }
    }
    lines.extend(differences::table(played));
    lines.push(counts(Summary::of(played)));
    lines.join("\n")
}

fn add_run(run: &PlayedRun, lines: &mut Vec<String>) {
    let outcome = match run.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Invalid => "WRONG",
        Outcome::Unable => "UNABLE",
        Outcome::Skipped => "skipped",
    };
    lines.push(format!("  {outcome:8} {} ({:.1} s)", run.name, run.seconds));
    for failure in &run.failures {
        lines.extend(text(failure).lines().map(|line| format!("    {line}")));
    }
}

/// A failure in a few lines, the place first.
pub(super) fn text(failure: &Failure) -> String {
    let mut lines = vec![format!("{}: {}", failure.place, failure.message)];
    if let Some(condition) = &failure.condition {
        let mut source = condition.lines().map(str::trim);
        lines.push(format!(
            "  condition: {}",
            source.next().unwrap_or_default()
        ));
        lines.extend(source.map(|line| format!("             {line}")));
    }
    lines.extend(
        failure
            .values
            .iter()
            .map(|(name, value)| format!("  {name} = {value}")),
    );
    lines.extend(failure.details.iter().map(|line| format!("  {line}")));
    lines.join("\n")
}

fn counts(summary: Summary) -> String {
    let parts = [
        (summary.passed, "passed"),
        (summary.failed, "failed"),
        (summary.invalid, "wrong"),
        (summary.unable, "could not run"),
        (summary.skipped, "skipped"),
    ];
    let parts = parts
        .into_iter()
        .filter(|(count, what)| *count > 0 || *what == "passed");
    parts
        .map(|(count, what)| format!("{count} {what}"))
        .collect::<Vec<_>>()
        .join(", ")
}
