//! Suggestions for a template whose plan fails only for a stopped workspace.

use outpost_base::job::LogLevel;
use outpost_files::beneath::{DEADLINE, Dir, within};
use outpost_language::{self as language, EphemeralReference};
use outpost_provision::{LogSink, StepFailure};

/// Summary of Terraform's error about an instance that does not exist.
const INVALID_INDEX: &str = "Invalid index";

/// Adds to a failed plan of a stopped workspace the reference in the template in `dir` that needs an ephemeral
/// resource.
pub(super) async fn explained(failure: StepFailure, dir: Dir, log: &dyn LogSink) -> StepFailure {
    let Some(diagnostic) = failure.diagnostic.clone() else {
        return failure;
    };
    if !diagnostic.starts_with(INVALID_INDEX) {
        return failure;
    }
    // The plan has failed in any case; a template that cannot be read here has had an error of its own.
    let found = within(DEADLINE, move || language::ephemeral_references(&dir)).await;
    let Ok(Ok(references)) = found else {
        return failure;
    };
    for reference in &references {
        log.log(LogLevel::Error, reference.to_string());
    }
    match nearest(&references, &diagnostic) {
        Some(reference) => StepFailure {
            diagnostic: Some(format!("{diagnostic}: {reference}")),
            ..failure
        },
        None => failure,
    }
}

/// Returns the last reference that begins before the position of an error such as `Invalid index (on main.tf line
/// 14)`, else the first one.
fn nearest<'a>(
    references: &'a [EphemeralReference],
    diagnostic: &str,
) -> Option<&'a EphemeralReference> {
    let place = diagnostic.rsplit_once("(on ").map(|(_, place)| place);
    let place = place.and_then(|place| place.trim_end_matches(')').rsplit_once(" line "));
    let (file, line) = place.unwrap_or_default();
    let line: usize = line.parse().unwrap_or_default();
    let before = references
        .iter()
        .filter(|reference| file.ends_with(&reference.file) && reference.line <= line);
    before
        .max_by_key(|reference| reference.line)
        .or(references.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_around_the_error_is_named() {
        let reference = |file: &str, line| EphemeralReference {
            owner: String::new(),
            file: file.to_owned(),
            line,
            target: String::new(),
            count: String::new(),
        };
        let references = [
            reference("a.tf", 1),
            reference("main.tf", 3),
            reference("main.tf", 9),
            reference("main.tf", 20),
        ];

        let line = |diagnostic| nearest(&references, diagnostic).unwrap().line;
        assert_eq!(line("Invalid index (on main.tf line 14)"), 9);
        assert_eq!(line("Invalid index (on modules/b/main.tf line 4)"), 3);
        assert_eq!(line("Invalid index"), 1);
        assert_eq!(nearest(&[], "Invalid index"), None);
    }
}
