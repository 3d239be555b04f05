//! Resources and data sources with almost no behaviour of their own.

use outpost_base::registry::Platform;
use outpost_plugin::{Diagnostic, Diagnostics, Schema, Shape, computed, list, optional, required};
use outpost_value::Object;

use crate::{
    check,
    resource::{Call, DataSource, Resource, new_id},
};

const AGENT_ID: &str = "The agent's `id`.";

pub(super) fn devcontainer() -> Resource {
    Resource {
        create: |state, _| {
            state.set("id", new_id());
            state.set("subagent_id", new_id());
            Ok(Diagnostics::none())
        },
        ..Resource::plain(devcontainer_schema)
    }
}

fn devcontainer_schema() -> Schema {
    let folder = required(
        "workspace_folder",
        Shape::String,
        "Directory of the dev container's project.",
    );
    Schema::new(
        "Dev container that the agent starts. Requires Coder 2.21.",
        vec![
            required("agent_id", Shape::String, AGENT_ID),
            optional("config_path", Shape::String, "Path of `devcontainer.json`."),
            computed(
                "subagent_id",
                Shape::String,
                "ID of the agent inside the dev container.",
            ),
            folder.check(check::not_empty),
        ],
    )
    .version(1)
}

pub(super) fn env() -> Resource {
    Resource::plain(env_schema)
}

fn env_schema() -> Schema {
    let merge_strategy = optional(
        "merge_strategy",
        Shape::String,
        "What happens if several have one name, by address: the last one wins with `replace`, values are joined by a \
         colon with `append` and `prepend`, the build fails with `error`.",
    );
    Schema::new(
        "Environment variable of an agent. A variable in the agent's own block takes precedence.",
        vec![
            required("agent_id", Shape::String, AGENT_ID),
            merge_strategy
                .default("replace")
                .check(check::one_of(&["replace", "append", "prepend", "error"])),
            required("name", Shape::String, "Name of the variable.")
                .check(check::named(check_variable_name)),
            optional("value", Shape::String, "Value of the variable."),
        ],
    )
    .version(1)
}

fn check_variable_name(argument: &str, name: &str) -> Result<(), String> {
    match is_variable_name(name) {
        true => Ok(()),
        false => Err(format!(
            "invalid value for {argument} (must be a valid environment variable name)"
        )),
    }
}

/// Returns whether `name` is a valid name of a variable in POSIX.
pub(super) fn is_variable_name(name: &str) -> bool {
    let allowed = |b: u8| b == b'_' || b.is_ascii_alphanumeric();
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(allowed)
}

pub(super) fn external_agent() -> Resource {
    Resource::plain(|| {
        Schema::new(
            "Agent that is started outside of Terraform. Requires a Premium license.",
            vec![required("agent_id", Shape::String, AGENT_ID)],
        )
        .version(1)
    })
}

pub(super) fn external_auth() -> DataSource {
    DataSource {
        schema: || {
            Schema::new(
                "External service that users must authenticate with before they create a workspace.",
                vec![
                    computed(
                        "access_token",
                        Shape::String,
                        "Token of the user for the service.",
                    )
                    .sensitive(),
                    required("id", Shape::String, "ID of the service in the server's configuration."),
                    optional("optional", Shape::Bool, "Whether users may skip the authentication."),
                ],
            )
            .version(1)
        },
        read: |state, call| {
            let id = call.config.text("id").filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| Diagnostic::error("id is required"))?;
            let variable = format!("CODER_EXTERNAL_AUTH_ACCESS_TOKEN_{id}");
            state.set("id", id);
            state.set("access_token", call.context.text(&variable));
            Ok(())
        },
    }
}

pub(super) fn provisioner() -> DataSource {
    DataSource {
        schema: || {
            Schema::new(
                "Machine on which the provisioner runs.",
                vec![
                    computed(
                        "arch",
                        Shape::String,
                        "Processor architecture as Go names it; `armv7` for 32-bit ARM.",
                    ),
                    computed("os", Shape::String, "Operating system as Go names it."),
                ],
            )
            .version(1)
        },
        read: |state, _| {
            let platform = Platform::current();
            state.set("id", new_id());
            state.set("os", platform.os);
            state.set(
                "arch",
                match platform.arch.as_str() {
                    "arm" => "armv7",
                    other => other,
                },
            );
            Ok(())
        },
    }
}

pub(super) fn workspace_tags() -> DataSource {
    DataSource {
        schema: || {
            Schema::new(
                "Tags that select the provisioner daemon of a workspace.",
                vec![optional("tags", Shape::Map, "Values of the tags by name.")],
            )
            .version(1)
        },
        read: only_an_id,
    }
}

/// Returns the data source `coder_script_order`. Its selectors are checked when a plan is converted
/// (`terraform/resources/script_order.rs`), because only there all scripts are known.
pub(super) fn script_order() -> DataSource {
    DataSource {
        schema: script_order_schema,
        read: only_an_id,
    }
}

fn script_order_schema() -> Schema {
    let scripts = |name, what| required(name, Shape::List, what).check(check::filled_items);
    let phase = "`start` or `stop`; found out from the scripts if it is not set.";
    let requires =
        "End of the earlier scripts that the later ones require: `success`, or any (`completion`).";
    let rule = list(
        "rule",
        "Order of scripts. The rules of all such blocks form one graph for each agent.",
        vec![
            scripts("after", "Addresses of the scripts that run first."),
            optional("phase", Shape::String, phase).check(check::one_of(&["start", "stop"])),
            optional("requires", Shape::String, requires)
                .default("success")
                .check(check::one_of(&["success", "completion"])),
            scripts("run", "Addresses of the scripts that run afterwards."),
        ],
    );
    Schema::new(
        "The order in which scripts of an agent run; Coder 2.39 and later, older ones ignore it. Scripts are named as \
         `coder_script.name`, with an index if they have one, or `module.name` for all of a module.",
        vec![rule.at_least(1)],
    )
}

fn only_an_id(state: &mut Object, _: &Call<'_>) -> Result<(), Diagnostic> {
    state.set("id", new_id());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{context, created, read};

    #[test]
    fn a_variable_has_a_name_that_shells_take() {
        for (name, ok) in [
            ("PATH", true),
            ("_", true),
            ("a1", true),
            ("1a", false),
            ("", false),
            ("A-B", false),
            ("Ä", false),
        ] {
            assert_eq!(is_variable_name(name), ok, "{name}");
        }
    }

    #[test]
    fn a_token_is_found_by_the_services_id() {
        let context = context(&[("CODER_EXTERNAL_AUTH_ACCESS_TOKEN_git-hub", "token")]);
        let auth = |id: &str| read(&external_auth(), Object::from([("id", id)]), &context);

        assert_eq!(auth("git-hub").unwrap().text("access_token"), Some("token"));
        assert_eq!(auth("gitlab").unwrap().text("access_token"), Some(""));
        assert_eq!(auth("").unwrap_err(), "id is required");
    }

    #[test]
    fn a_dev_container_has_an_agent_of_its_own() {
        let container = created(&devcontainer(), Object::new(), &context(&[])).unwrap();

        assert!(container.has("id") && container.has("subagent_id"));
        assert_ne!(container.text("id"), container.text("subagent_id"));
    }
}
