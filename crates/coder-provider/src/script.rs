//! The resource `coder_script`, a script of an agent.

use outpost_plugin::{Diagnostic, Diagnostics, Field, Outcome, Schema, Shape, optional, required};
use outpost_value::{Object, Path, Value};

use crate::{
    check,
    cron::{self, Form},
    resource::{Call, Resource, new_id},
};

pub(super) fn script() -> Resource {
    Resource {
        create,
        ..Resource::plain(schema)
    }
}

fn schema() -> Schema {
    Schema::new(
        "Script that an agent runs, in parallel with its other scripts unless a `coder_script_order` defines an order.",
        fields(),
    )
    .version(1)
}

fn fields() -> Vec<Field> {
    let switch = |name, description| optional(name, Shape::Bool, description).default(false);
    vec![
        required("agent_id", Shape::String, "The agent's `id`."),
        optional(
            "cron",
            Shape::String,
            "Schedule in cron format: second, minute, hour, day, month and weekday.",
        )
        .check(check_cron),
        required("display_name", Shape::String, "Label of the script's log."),
        optional("icon", Shape::String, "The URL of an icon."),
        optional(
            "log_path",
            Shape::String,
            "Path of the log file, relative to the directory for temporary files.",
        ),
        switch(
            "run_on_start",
            "Whether to run the script when the agent starts.",
        ),
        switch(
            "run_on_stop",
            "Whether to run the script when the agent stops.",
        ),
        required("script", Shape::String, "Content of the script."),
        switch(
            "start_blocks_login",
            "Whether users must wait for the script before they log in.",
        ),
        optional(
            "timeout",
            Shape::Int,
            "Time limit for the script in seconds; none by default.",
        )
        .default(0)
        .check(check::at_least(1)),
    ]
}

fn check_cron(value: &Value, _: &Path) -> Vec<Diagnostic> {
    let Some(expression) = value.as_str() else {
        return Vec::new();
    };
    let without_seconds =
        expression.split_whitespace().count() == 5 && cron::check(expression, Form::Unix).is_ok();
    let warning = without_seconds.then(|| {
        Diagnostic::warning(format!(
            "The cron expression '{expression}' has 5 fields, as in Unix. Coder reads 6, with seconds first: \
             '0 {expression}' runs at the start of each minute that it names"
        ))
    });
    let error = cron::check(expression, Form::Script).err().map(|error| {
        Diagnostic::error(format!(
            "{expression} is not a valid cron expression: {error}"
        ))
    });
    warning.into_iter().chain(error).collect()
}

/// Sets the id before any check, as in the original: a script that is not valid stays in the state, and the next
/// build replaces it.
fn create(state: &mut Object, _: &Call<'_>) -> Outcome {
    state.set("id", new_id());
    let runs = |name| state.flag(name) == Some(true);
    if !runs("run_on_start") && !runs("run_on_stop") && !state.has("cron") {
        return Err(Diagnostic::error(
            r#"at least one of "run_on_start", "run_on_stop", or "cron" must be set"#,
        )
        .into());
    }
    if runs("start_blocks_login") && !runs("run_on_start") {
        return Err(Diagnostic::error(
            r#""start_blocks_login" can only be set if "run_on_start" is "true""#,
        )
        .into());
    }
    Ok(Diagnostics::none())
}

#[cfg(test)]
mod tests {
    use outpost_plugin::Severity;

    use super::*;
    use crate::context::tests::{context, created};

    fn summary<const LENGTH: usize>(attributes: [(&str, bool); LENGTH]) -> Option<String> {
        created(&script(), Object::from(attributes), &context(&[])).err()
    }

    #[test]
    fn a_script_runs_at_some_time() {
        assert_eq!(summary([("run_on_stop", true)]), None);
        assert_eq!(
            summary([("run_on_start", false)]).as_deref(),
            Some(r#"at least one of "run_on_start", "run_on_stop", or "cron" must be set"#)
        );
    }

    #[test]
    fn only_a_script_that_runs_at_the_start_can_block_logins() {
        assert!(summary([("start_blocks_login", true), ("run_on_stop", true)]).is_some());
        assert!(summary([("start_blocks_login", true), ("run_on_start", true)]).is_none());
    }

    #[test]
    fn five_fields_get_a_warning_whether_they_fit_six_or_not() {
        let severities = |expression: &str| -> Vec<_> {
            let found = check_cron(&expression.into(), &Path::root());
            found
                .into_iter()
                .map(|diagnostic| diagnostic.severity)
                .collect()
        };

        assert_eq!(severities("0 22 * * *"), [Severity::Warning]);
        assert_eq!(
            severities("0 22 * * 0"),
            [Severity::Warning, Severity::Error]
        );
        assert_eq!(severities("0 0 22 * * *"), []);
    }
}
