//! The resources `coder_agent` and `coder_agent_instance`.

use std::collections::BTreeSet;

use outpost_plugin::{
    Diagnostic, Diagnostics, Field, Outcome, Schema, Shape, computed, list, optional, required, set,
};
use outpost_value::{Object, Value};

use crate::{
    check,
    context::Context,
    resource::{Call, Resource, new_id},
};

/// Methods by which an agent can authenticate.
const AUTHS: &[&str] = &[
    "token",
    "google-instance-identity",
    "aws-instance-identity",
    "azure-instance-identity",
];

pub(super) fn agent() -> Resource {
    Resource {
        check_plan,
        create,
        refresh,
        ..Resource::plain(agent_schema)
    }
}

fn agent_schema() -> Schema {
    Schema::new(
        "Agent that connects a machine to the server and gives users access to it.",
        fields(),
    )
    .version(1)
}

fn fields() -> Vec<Field> {
    let mut fields = vec![
        optional("api_key_scope", Shape::String, "Scope of the agent's token: `all`, or `no_user_data` to deny access to the owner's credentials.")
            .default("all")
            .check(check::one_of(&["all", "no_user_data"])),
        required("arch", Shape::String, "Processor architecture of the machine: `amd64`, `armv7` or `arm64`.")
            .check(check::one_of(&["amd64", "armv7", "arm64"])),
        optional("auth", Shape::String, "Authentication of the agent: a `token`, or the identity of the machine at a cloud provider.")
            .default("token")
            .check(check::one_of(AUTHS)),
        optional("connection_timeout", Shape::Int, "Time in seconds after which an agent that has not connected is considered timed out; 0 disables the timeout.")
            .default(120)
            .check(check::at_least(0)),
        optional("dir", Shape::String, "Working directory of new shells; the home directory by default."),
        optional("env", Shape::Map, "Environment variables of the agent's processes."),
        computed("init_script", Shape::String, "Script that downloads and starts the agent; run it when the machine boots."),
        optional("motd_file", Shape::String, "File with the message that is shown after an SSH login."),
        optional("order", Shape::Int, "Position of the agent in lists: lower numbers first, equal ones by name."),
        required("os", Shape::String, "Operating system of the machine: `linux`, `darwin` or `windows`.")
            .check(check::one_of(&["linux", "darwin", "windows"])),
        optional("shutdown_script", Shape::String, "Script that runs before the agent stops."),
        optional("startup_script", Shape::String, "Script that runs after the agent has started."),
        optional("startup_script_behavior", Shape::String, "Whether users wait for the startup script before they can log in (`blocking`) or not (`non-blocking`).")
            .default("non-blocking")
            .check(check::one_of(&["blocking", "non-blocking"])),
        computed("token", Shape::String, "Token of the agent, which it expects in `CODER_AGENT_TOKEN`.").sensitive(),
        optional("troubleshooting_url", Shape::String, "URL of instructions for the case that the agent does not connect."),
    ];
    fields.extend([display_apps(), metadata(), resources_monitoring()]);
    fields
}

/// Built-in apps, with their default visibility.
const DISPLAY_APPS: [(&str, bool); 5] = [
    ("port_forwarding_helper", true),
    ("ssh_helper", true),
    ("vscode", true),
    ("vscode_insiders", false),
    ("web_terminal", true),
];

fn display_apps() -> Field {
    let app =
        |(name, shown)| optional(name, Shape::Bool, "Whether to show this button.").default(shown);
    let apps = DISPLAY_APPS.into_iter().map(app).collect();
    set(
        "display_apps",
        "Built-in apps to show with the agent.",
        apps,
    )
    .at_most(1)
    .optional_computed()
}

fn metadata() -> Field {
    list(
        "metadata",
        "Live value from the machine that is shown with the agent.",
        vec![
            optional(
                "display_name",
                Shape::String,
                "Label shown to users in place of the key.",
            ),
            required(
                "interval",
                Shape::Int,
                "Interval between two runs of the script, in seconds.",
            ),
            required(
                "key",
                Shape::String,
                "Key of the value, unique for the agent.",
            ),
            optional(
                "order",
                Shape::Int,
                "Position of the value in lists: lower numbers first, equal ones by key.",
            ),
            required("script", Shape::String, "Script that prints the value."),
            optional(
                "timeout",
                Shape::Int,
                "Time limit for the script, in seconds.",
            ),
        ],
    )
}

fn resources_monitoring() -> Field {
    let enabled = || required("enabled", Shape::Bool, "Whether it is monitored.");
    let threshold = || {
        required(
            "threshold",
            Shape::Int,
            "Usage in percent at which users are notified.",
        )
        .check(check::between(0, 100))
    };
    let path = required(
        "path",
        Shape::String,
        "Absolute path of the volume's mount point.",
    )
    .check(check::text(check_volume_path));
    set(
        "resources_monitoring",
        "Resources of the machine that the agent monitors.",
        vec![
            set(
                "memory",
                "Monitoring of the memory.",
                vec![enabled(), threshold()],
            )
            .at_most(1),
            set(
                "volume",
                "Monitoring of a volume.",
                vec![enabled(), path, threshold()],
            ),
        ],
    )
    .at_most(1)
}

fn check_volume_path(path: &str) -> Result<(), String> {
    match path {
        "" => Err("volume path must not be empty".to_owned()),
        _ if !path.starts_with('/') => Err("volume path must be an absolute path".to_owned()),
        _ => Ok(()),
    }
}

fn check_plan(planned: &Object) -> Result<(), Diagnostic> {
    let keys = planned
        .blocks("metadata")
        .filter_map(|block| block.text("key"));
    if let Some(key) = first_duplicate(keys) {
        return Err(Diagnostic::error(format!(
            "duplicate agent metadata key {key:?}"
        )));
    }
    for monitoring in planned.blocks("resources_monitoring") {
        if !monitoring.has("memory") && !monitoring.has("volume") {
            let summary = "resources_monitoring must define at least one monitor";
            return Err(Diagnostic::error(summary));
        }
        let paths = monitoring
            .blocks("volume")
            .filter_map(|block| block.text("path"));
        if let Some(path) = first_duplicate(paths) {
            return Err(Diagnostic::error(format!("duplicate volume path {path:?}")));
        }
    }
    Ok(())
}

/// Returns the first of `names` that occurred before.
pub(super) fn first_duplicate<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.find(|name| !seen.insert(*name))
}

fn create(state: &mut Object, call: &Call<'_>) -> Outcome {
    state.set("id", new_id());
    refresh(state, call.context);
    Ok(Diagnostics::none())
}

/// Generates new tokens. This happens at every refresh as well: the server uses the token of the last build.
fn refresh(state: &mut Object, context: &Context) {
    let token = context.running_agent_token().unwrap_or_else(new_id);
    state.set("token", token);
    if !state.has("display_apps") {
        state.set(
            "display_apps",
            Value::set([Object::from(DISPLAY_APPS).into()]),
        );
    }
    let text = |name| state.text(name).unwrap_or_default();
    let script = context.agent_script(text("os"), text("arch"), text("auth"));
    state.set("init_script", script);
}

pub(super) fn agent_instance() -> Resource {
    Resource::plain(|| {
        Schema::new(
            "Cloud instance of an agent, for machines where Coder cannot determine it.",
            vec![
                required("agent_id", Shape::String, "The agent's `id`."),
                required(
                    "instance_id",
                    Shape::String,
                    "ID of the instance at its cloud provider.",
                ),
            ],
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{context, created};

    fn blocks(name: &str, blocks: impl IntoIterator<Item = Object>) -> Object {
        let mut object = Object::new();
        object.set_blocks(name, blocks);
        object
    }

    fn summary(planned: &Object) -> Option<String> {
        check_plan(planned)
            .err()
            .map(|diagnostic| diagnostic.summary)
    }

    #[test]
    fn keys_of_metadata_are_unique_as_far_as_they_are_known() {
        let metadata =
            |keys: [Value; 2]| blocks("metadata", keys.map(|key| Object::from([("key", key)])));

        let twice = metadata(["a".into(), "a".into()]);
        assert_eq!(
            summary(&twice).as_deref(),
            Some("duplicate agent metadata key \"a\"")
        );
        assert_eq!(summary(&metadata(["a".into(), "b".into()])), None);
        assert_eq!(summary(&metadata([Value::Unknown, Value::Unknown])), None);
    }

    #[test]
    fn monitoring_watches_something_and_no_volume_twice() {
        let monitoring = |inner| summary(&blocks("resources_monitoring", [inner]));
        let volumes =
            |paths: [&str; 2]| blocks("volume", paths.map(|path| Object::from([("path", path)])));

        let nothing = monitoring(Object::new());
        assert_eq!(
            nothing.as_deref(),
            Some("resources_monitoring must define at least one monitor")
        );
        let twice = monitoring(volumes(["/a", "/a"]));
        assert_eq!(twice.as_deref(), Some("duplicate volume path \"/a\""));
        assert_eq!(monitoring(volumes(["/a", "/b"])), None);
    }

    #[test]
    fn a_volume_is_mounted_somewhere_absolute() {
        assert_eq!(check_volume_path("/home"), Ok(()));
        assert!(check_volume_path("").unwrap_err().contains("empty"));
        assert!(check_volume_path("home").unwrap_err().contains("absolute"));
    }

    #[test]
    fn a_token_is_new_at_every_refresh_unless_the_agent_runs_already() {
        let mut agent = created(&agent(), Object::new(), &context(&[])).unwrap();
        let first = agent.text("token").map(str::to_owned);

        refresh(&mut agent, &context(&[]));
        assert_ne!(agent.text("token").map(str::to_owned), first);

        let variable = "CODER_RUNNING_WORKSPACE_AGENT_TOKEN_\
                        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        refresh(&mut agent, &context(&[(variable, "running")]));
        assert_eq!(agent.text("token"), Some("running"));
    }

    #[test]
    fn without_a_choice_the_usual_apps_are_displayed() {
        let agent = created(&agent(), Object::new(), &context(&[])).unwrap();

        let apps = agent.blocks("display_apps").next().unwrap();

        assert_eq!(
            (apps.flag("vscode"), apps.flag("vscode_insiders")),
            (Some(true), Some(false))
        );
    }
}
