//! `coder_secret`, an early-access data source that only 2.16 and 2.17 have.

use outpost_plugin::{Diagnostic, Schema, Shape, computed, optional, required};
use outpost_value::Object;

use crate::{
    check,
    resource::{Call, DataSource},
    small::is_variable_name,
};

/// Error for no source of a secret, and for two.
const ONE_OF: &str = "exactly one of `env` or `file` must be set";

pub(super) fn secret() -> DataSource {
    DataSource { schema, read }
}

fn schema() -> Schema {
    let file = "Path of the file that contains the secret; it begins with `/` or `~/`.";
    Schema::new(
        "User secret that the workspace requires, identified by its environment variable or file.",
        vec![
            optional(
                "env",
                Shape::String,
                "Environment variable that contains the secret.",
            )
            .check(check::text(check_env)),
            optional("file", Shape::String, file).check(check::text(check_file)),
            required(
                "help_message",
                Shape::String,
                "Message for users who do not have this secret.",
            ),
            computed(
                "value",
                Shape::String,
                "Value of the secret; empty if it is missing.",
            )
            .sensitive(),
        ],
    )
    .version(1)
}

fn check_env(name: &str) -> Result<(), String> {
    match name.is_empty() || is_variable_name(name) {
        true => Ok(()),
        false => Err(format!(
            "`env` must be a POSIX-compliant identifier, a letter or underscore, then letters, digits or \
             underscores; got {name:?}"
        )),
    }
}

fn check_file(path: &str) -> Result<(), String> {
    match path.is_empty() || path.starts_with('/') || path.starts_with("~/") {
        true => Ok(()),
        false => Err(format!("`file` must start with `/` or `~/`; got {path:?}")),
    }
}

fn read(state: &mut Object, call: &Call<'_>) -> Result<(), Diagnostic> {
    let context = call.context;
    let given = |name| call.config.text(name).filter(|text| !text.is_empty());
    let (id, variable, wanted) = match (given("env"), given("file")) {
        (Some(env), None) => (
            format!("env:{env}"),
            format!("CODER_SECRET_ENV_{env}"),
            format!("environment variable {env:?}"),
        ),
        (None, Some(file)) => (
            format!("file:{file}"),
            format!("CODER_SECRET_FILE_{}", hex::encode(file)),
            format!("file {file:?}"),
        ),
        (None, None) | (Some(_), Some(_)) => return Err(Diagnostic::error(ONE_OF)),
    };
    let value = context.text(&variable);
    // A missing secret must not prevent anybody from stopping or deleting a workspace.
    let needed = context.is_build() && context.text("CODER_WORKSPACE_TRANSITION") == "start";
    if value.is_empty() && needed {
        return Err(missing(&wanted, given("help_message")));
    }
    state.set("id", id);
    state.set("value", value.to_owned());
    Ok(())
}

fn missing(wanted: &str, help: Option<&str>) -> Diagnostic {
    let help = help.map_or_else(String::new, |help| format!("Help message: {help}\n\n"));
    Diagnostic::error(format!("Missing required secret: {wanted}")).detail(format!(
        "Required: {wanted}\n\n{help}To resolve: store a secret that fills the {wanted}.\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{self, context};

    const START: [(&str, &str); 2] = [
        ("CODER_WORKSPACE_BUILD_ID", "1"),
        ("CODER_WORKSPACE_TRANSITION", "start"),
    ];

    fn read_with(
        config: &[(&'static str, &str)],
        environment: &[(&str, &str)],
    ) -> Result<Object, String> {
        let config = config.iter().copied().collect();
        tests::read(&secret(), config, &context(environment))
    }

    #[test]
    fn a_secret_is_found_by_variable_or_by_file() {
        let env = read_with(&[("env", "TOKEN")], &[("CODER_SECRET_ENV_TOKEN", "s3cret")]).unwrap();
        assert_eq!(
            (env.text("id"), env.text("value")),
            (Some("env:TOKEN"), Some("s3cret"))
        );
        let file = read_with(&[("file", "~/a")], &[("CODER_SECRET_FILE_7e2f61", "x")]).unwrap();
        assert_eq!(
            (file.text("id"), file.text("value")),
            (Some("file:~/a"), Some("x"))
        );
    }

    #[test]
    fn exactly_one_of_both_is_named() {
        for config in [&[][..], &[("env", "A"), ("file", "/a")]] {
            assert_eq!(read_with(config, &[]).unwrap_err(), ONE_OF);
        }
    }

    #[test]
    fn a_missing_secret_fails_the_start_of_a_workspace_only() {
        let config = [("env", "TOKEN"), ("help_message", "ask Ann")];

        let error = read_with(&config, &START).unwrap_err();
        assert_eq!(
            error,
            r#"Missing required secret: environment variable "TOKEN""#
        );
        assert!(missing("x", Some("ask Ann")).detail.contains("ask Ann"));
        for environment in [&[][..], &START[..1], &START[1..]] {
            assert_eq!(
                read_with(&config, environment).unwrap().text("value"),
                Some("")
            );
        }
    }
}
