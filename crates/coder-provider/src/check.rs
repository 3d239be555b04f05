//! Checks of single values, in the words of the original where they help.

use outpost_plugin::Diagnostic;
use outpost_value::{Path, Step, Value};

use crate::go;

/// Returns a check that a string is one of `allowed`.
pub(super) fn one_of(
    allowed: &'static [&'static str],
) -> impl Fn(&Value, &Path) -> Vec<Diagnostic> {
    named(move |key, text| match allowed.contains(&text) {
        true => Ok(()),
        false => {
            let quoted: Vec<String> = allowed.iter().map(|one| format!("{one:?}")).collect();
            let quoted = quoted.join(" ");
            Err(format!(
                "expected {key} to be one of [{quoted}], got {text}"
            ))
        }
    })
}

/// Returns a check that a number is `least` or more.
pub(super) fn at_least(least: i64) -> impl Fn(&Value, &Path) -> Vec<Diagnostic> {
    number(move |key, number| match number >= least {
        true => Ok(()),
        false => Err(format!(
            "expected {key} to be at least ({least}), got {number}"
        )),
    })
}

/// Returns a check that a number is in a range, including both ends.
pub(super) fn between(least: i64, most: i64) -> impl Fn(&Value, &Path) -> Vec<Diagnostic> {
    number(move |key, number| match (least..=most).contains(&number) {
        true => Ok(()),
        false => Err(format!(
            "expected {key} to be in the range ({least} - {most}), got {number}"
        )),
    })
}

/// Returns a check that a string has at most `most` bytes.
pub(super) fn length(most: usize) -> impl Fn(&Value, &Path) -> Vec<Diagnostic> {
    named(move |key, text| match text.len() <= most {
        true => Ok(()),
        false => Err(format!(
            "expected length of {key} to be in the range (0 - {most}), got {text}"
        )),
    })
}

/// Checks that a string is not empty.
pub(super) fn not_empty(value: &Value, path: &Path) -> Vec<Diagnostic> {
    named(|key, text| match text {
        "" => Err(format!("expected {key:?} to not be an empty string, got ")),
        _ => Ok(()),
    })(value, path)
}

/// Checks that a list has items, none of them empty.
pub(super) fn filled_items(value: &Value, path: &Path) -> Vec<Diagnostic> {
    if value.elements().is_empty() {
        let key = key(path);
        let detail =
            format!("Attribute {key} requires 1 item minimum, but config has only 0 declared.");
        return vec![Diagnostic::error("Not enough list items").detail(detail)];
    }
    let items = value.elements().iter().enumerate();
    items
        .flat_map(|(index, item)| not_empty(item, &path.index(index)))
        .collect()
}

/// Checks that a string is a URL for Go, which accepts nearly everything.
pub(super) fn url(value: &Value, path: &Path) -> Vec<Diagnostic> {
    text(|text| go::parse_url(text).map(|_| ()))(value, path)
}

/// Checks that a string is a UUID in its usual form.
pub(super) fn uuid(value: &Value, path: &Path) -> Vec<Diagnostic> {
    named(
        |key, text| match text.len() == 36 && uuid::Uuid::try_parse(text).is_ok() {
            true => Ok(()),
            false => Err(format!("expected {key:?} to be a valid UUID, got {text}")),
        },
    )(value, path)
}

/// Returns a check of strings from `check`.
pub(super) fn text(
    check: impl Fn(&str) -> Result<(), String>,
) -> impl Fn(&Value, &Path) -> Vec<Diagnostic> {
    named(move |_, text| check(text))
}

/// Returns a check of strings from `check`, which also gets the argument's name.
pub(super) fn named(
    check: impl Fn(&str, &str) -> Result<(), String>,
) -> impl Fn(&Value, &Path) -> Vec<Diagnostic> {
    move |value, path| {
        let result = value.as_str().map(|text| check(&key(path), text));
        error(result)
    }
}

/// Returns a check of whole numbers from `check`, which also gets the argument's name.
pub(super) fn number(
    check: impl Fn(&str, i64) -> Result<(), String>,
) -> impl Fn(&Value, &Path) -> Vec<Diagnostic> {
    move |value, path| {
        let result = value.as_i64().map(|number| check(&key(path), number));
        error(result)
    }
}

fn error(result: Option<Result<(), String>>) -> Vec<Diagnostic> {
    let problem = result.and_then(Result::err);
    problem.map(Diagnostic::error).into_iter().collect()
}

/// Returns a path in the notation of the original's errors: `metadata.0.key`, also for a set, which has only one
/// element.
fn key(path: &Path) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut after_name = false;
    for step in &path.0 {
        let is_name = matches!(step, Step::Attribute(_));
        if is_name && after_name {
            words.push("0".to_owned());
        }
        words.push(match step {
            Step::Attribute(name) | Step::Key(name) => name.clone(),
            Step::Index(index) => index.to_string(),
        });
        after_name = is_name;
    }
    words.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summaries(found: Vec<Diagnostic>) -> Vec<String> {
        found
            .into_iter()
            .map(|diagnostic| diagnostic.summary)
            .collect()
    }

    #[test]
    fn a_value_that_is_not_known_is_fine() {
        for unset in [Value::Null, Value::Unknown] {
            assert!(one_of(&["a"])(&unset, &"x".into()).is_empty());
            assert!(at_least(1)(&unset, &"x".into()).is_empty());
        }
    }

    #[test]
    fn an_error_names_the_whole_path() {
        let in_set = Path::from("memory").attribute("threshold");
        let found = between(0, 100)(&101.into(), &in_set);
        assert_eq!(
            summaries(found),
            ["expected memory.0.threshold to be in the range (0 - 100), got 101"]
        );
        let in_list = Path::from("rule").index(1).attribute("phase");
        let found = one_of(&["start", "stop"])(&"x".into(), &in_list);
        assert_eq!(
            summaries(found),
            [r#"expected rule.1.phase to be one of ["start" "stop"], got x"#]
        );
    }

    #[test]
    fn a_list_needs_items_and_each_needs_text() {
        let path = Path::from("run");

        assert_eq!(filled_items(&Value::texts(["a", "b"]), &path), []);
        assert_eq!(
            summaries(filled_items(&Value::texts(["a", ""]), &path)),
            [r#"expected "run.1" to not be an empty string, got "#]
        );
        let none = filled_items(&Value::texts([""; 0]), &path);
        assert_eq!(summaries(none), ["Not enough list items"]);
    }

    #[test]
    fn a_uuid_has_all_its_hyphens() {
        let id = "5d1d5a6a-5fbc-4d11-a1a1-000000000001";

        assert!(uuid(&id.into(), &"id".into()).is_empty());
        assert_eq!(uuid(&id.replace('-', "").into(), &"id".into()).len(), 1);
    }
}
