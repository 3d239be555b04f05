//! A conversion in the form of the reference's golden files, for comparison.
//!
//! # Source
//! coder `provisioner/terraform/convertstate_test.go`: messages as `encoding/json` writes generated Go types.

use outpost_base::job::{
    Agent, AgentAuth, AiTask, App, Devcontainer, Env, ExternalAuthRequirement, Parameter, Preset,
    Resource, ResourcesMonitoring, Script, ScriptRequirement,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::resources::{ConvertError, Converted};

/// Returns the conversion, sorted and with comparable ids of apps; the text of an error.
pub fn render(converted: &Result<Converted, ConvertError>) -> Value {
    let converted = match converted {
        Ok(converted) => converted,
        Err(error) => return Value::String(error.to_string()),
    };
    let mut resources = converted.resources.clone();
    resources.sort_by(|a, b| (&a.name, &a.kind).cmp(&(&b.name, &b.kind)));
    json!({
        "Resources": list(&mut resources, resource),
        "Parameters": list(&mut converted.parameters.clone(), |item| parameter(item)),
        "Presets": list(&mut converted.presets.clone(), |item| preset(item)),
        "ExternalAuthProviders": list(&mut converted.external_auth.clone(), |item| external_auth(item)),
        "AITasks": list(&mut converted.ai_tasks.clone(), |item| ai_task(item)),
        "HasAITasks": !converted.ai_tasks.is_empty(),
        "HasExternalAgents": converted.has_external_agents,
    })
}

/// A message that is being built: fields with their default value are omitted.
#[derive(Default)]
struct Message(Map<String, Value>);

impl Message {
    fn text(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }

    fn flag(mut self, name: &str, value: bool) -> Self {
        if value {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }

    fn number(mut self, name: &str, value: impl Into<i64>) -> Self {
        let value = value.into();
        if value != 0 {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }

    fn items(mut self, name: &str, items: Vec<Value>) -> Self {
        if !items.is_empty() {
            self.0.insert(name.to_owned(), items.into());
        }
        self
    }

    /// Adds a field whatever its value.
    fn always(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Adds a field if it is present, whatever its value.
    fn optional(self, name: &str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.always(name, value),
            None => self,
        }
    }

    fn build(self) -> Value {
        Value::Object(self.0)
    }
}

fn list<T>(items: &mut [T], render: impl Fn(&mut T) -> Value) -> Vec<Value> {
    items.iter_mut().map(render).collect()
}

fn resource(resource: &mut Resource) -> Value {
    resource.agents.sort_by(|a, b| a.name.cmp(&b.name));
    let metadata = resource.metadata.iter().map(|item| {
        Message::default()
            .text("key", &item.key)
            .text("value", &item.value)
            .flag("sensitive", item.sensitive)
            .flag("is_null", item.is_null)
            .build()
    });
    Message::default()
        .text("name", &resource.name)
        .text("type", &resource.kind)
        .items("metadata", metadata.collect())
        .flag("hide", resource.hide)
        .text("icon", &resource.icon)
        .text("instance_type", &resource.instance_type)
        .number("daily_cost", resource.daily_cost)
        .text("module_path", &resource.module_path)
        .items("agents", list(&mut resource.agents, agent))
        .build()
}

fn agent(agent: &mut Agent) -> Value {
    agent.apps.sort_by(|a, b| a.slug.cmp(&b.slug));
    agent.extra_envs.sort_by(|a, b| a.name.cmp(&b.name));
    agent
        .scripts
        .sort_by(|a, b| a.display_name.cmp(&b.display_name));
    agent.devcontainers.sort_by(|a, b| a.name.cmp(&b.name));
    let metadata = agent.metadata.iter().map(|item| {
        Message::default()
            .text("key", &item.key)
            .text("display_name", &item.display_name)
            .text("script", &item.script)
            .number("interval", item.interval)
            .number("timeout", item.timeout)
            .number("order", item.order)
            .build()
    });
    let display_apps = Message::default()
        .flag("vscode", agent.display_apps.vscode)
        .flag("vscode_insiders", agent.display_apps.vscode_insiders)
        .flag("web_terminal", agent.display_apps.web_terminal)
        .flag("ssh_helper", agent.display_apps.ssh_helper)
        .flag(
            "port_forwarding_helper",
            agent.display_apps.port_forwarding_helper,
        );
    Message::default()
        .text("id", &agent.id)
        .text("name", &agent.name)
        .optional("env", (!agent.env.is_empty()).then(|| json!(agent.env)))
        .text("operating_system", &agent.operating_system)
        .text("architecture", &agent.architecture)
        .text("directory", &agent.directory)
        .items("apps", list(&mut agent.apps, app))
        .always(
            "Auth",
            match &agent.auth {
                AgentAuth::Token(token) => json!({ "Token": token }),
                AgentAuth::InstanceId(id) => json!({ "InstanceId": id }),
            },
        )
        .number(
            "connection_timeout_seconds",
            agent.connection_timeout_seconds,
        )
        .text("troubleshooting_url", &agent.troubleshooting_url)
        .text("motd_file", &agent.motd_file)
        .items("metadata", metadata.collect())
        .always("display_apps", display_apps.build())
        .items("scripts", agent.scripts.iter().map(script).collect())
        .items("extra_envs", agent.extra_envs.iter().map(env).collect())
        .number("order", agent.order)
        .always(
            "resources_monitoring",
            monitoring(&agent.resources_monitoring),
        )
        .items(
            "devcontainers",
            list(&mut agent.devcontainers, devcontainer),
        )
        .text("api_key_scope", &agent.api_key_scope)
        .build()
}

fn monitoring(monitoring: &ResourcesMonitoring) -> Value {
    let memory = monitoring.memory.as_ref().map(|memory| {
        Message::default()
            .flag("enabled", memory.enabled)
            .number("threshold", memory.threshold)
            .build()
    });
    let volumes = monitoring.volumes.iter().map(|volume| {
        Message::default()
            .text("path", &volume.path)
            .flag("enabled", volume.enabled)
            .number("threshold", volume.threshold)
            .build()
    });
    Message::default()
        .optional("memory", memory)
        .items("volumes", volumes.collect())
        .build()
}

fn app(app: &mut App) -> Value {
    let digest = Sha256::digest(format!("{}{}", app.slug, app.display_name));
    let id = Uuid::from_slice(&digest[..16]).expect("16 bytes are a UUID");
    let healthcheck = app.healthcheck.as_ref().map(|check| {
        Message::default()
            .text("url", &check.url)
            .number("interval", check.interval)
            .number("threshold", check.threshold)
            .build()
    });
    Message::default()
        .text("slug", &app.slug)
        .text("display_name", &app.display_name)
        .text("command", &app.command)
        .text("url", &app.url)
        .text("icon", &app.icon)
        .flag("subdomain", app.subdomain)
        .optional("healthcheck", healthcheck)
        .number("sharing_level", app.sharing_level as i32)
        .flag("external", app.external)
        .number("order", app.order)
        .flag("hidden", app.hidden)
        .number("open_in", app.open_in as i32)
        .text("group", &app.group)
        .text("id", &id.to_string())
        .text("tooltip", &app.tooltip)
        .build()
}

fn script(script: &Script) -> Value {
    let dependencies = script.dependencies.iter().map(|it| {
        Message::default()
            .text("prerequisite_resource_address", &it.prerequisite)
            .number("requirement", wire_number(it.requirement))
            .build()
    });
    Message::default()
        .text("display_name", &script.display_name)
        .text("icon", &script.icon)
        .text("script", &script.script)
        .text("cron", &script.cron)
        .flag("start_blocks_login", script.start_blocks_login)
        .flag("run_on_start", script.run_on_start)
        .flag("run_on_stop", script.run_on_stop)
        .number("timeout_seconds", script.timeout_seconds)
        .text("log_path", &script.log_path)
        .text("resource_address", &script.resource_address)
        .items("dependencies", dependencies.collect())
        .build()
}

fn wire_number(requirement: ScriptRequirement) -> i32 {
    match requirement {
        ScriptRequirement::Unspecified => 0,
        ScriptRequirement::Success => 1,
        ScriptRequirement::Completion => 2,
    }
}

fn env(env: &Env) -> Value {
    Message::default()
        .text("name", &env.name)
        .text("value", &env.value)
        .text("merge_strategy", &env.merge_strategy)
        .build()
}

fn devcontainer(container: &mut Devcontainer) -> Value {
    container.apps.sort_by(|a, b| a.slug.cmp(&b.slug));
    Message::default()
        .text("workspace_folder", &container.workspace_folder)
        .text("config_path", &container.config_path)
        .text("name", &container.name)
        .text("id", &container.id)
        .text("subagent_id", &container.subagent_id)
        .items("apps", list(&mut container.apps, app))
        .items("scripts", container.scripts.iter().map(script).collect())
        .items("envs", container.envs.iter().map(env).collect())
        .build()
}

fn parameter(parameter: &Parameter) -> Value {
    let options = parameter.options.iter().map(|option| {
        Message::default()
            .text("name", &option.name)
            .text("description", &option.description)
            .text("value", &option.value)
            .text("icon", &option.icon)
            .build()
    });
    Message::default()
        .text("name", &parameter.name)
        .text("description", &parameter.description)
        .text("type", &parameter.kind)
        .flag("mutable", parameter.mutable)
        .text("default_value", &parameter.default_value)
        .text("icon", &parameter.icon)
        .items("options", options.collect())
        .text("validation_regex", &parameter.validation_regex)
        .text("validation_error", &parameter.validation_error)
        .optional("validation_min", parameter.validation_min.map(Value::from))
        .optional("validation_max", parameter.validation_max.map(Value::from))
        .text("validation_monotonic", &parameter.validation_monotonic)
        .flag("required", parameter.required)
        .text("display_name", &parameter.display_name)
        .number("order", parameter.order)
        .flag("ephemeral", parameter.ephemeral)
        .number("form_type", parameter.form_type as i32)
        .build()
}

fn preset(preset: &Preset) -> Value {
    let parameters = preset.parameters.iter().map(|value| {
        Message::default()
            .text("name", &value.name)
            .text("value", &value.value)
            .build()
    });
    let policy = preset
        .prebuild
        .expiration_ttl
        .map(|ttl| Message::default().number("ttl", ttl).build());
    let scheduling = preset.prebuild.scheduling.as_ref().map(|scheduling| {
        let schedules = scheduling.schedules.iter().map(|schedule| {
            Message::default()
                .text("cron", &schedule.cron)
                .number("instances", schedule.instances)
                .build()
        });
        Message::default()
            .text("timezone", &scheduling.timezone)
            .items("schedule", schedules.collect())
            .build()
    });
    let prebuild = Message::default()
        .number("instances", preset.prebuild.instances)
        .optional("expiration_policy", policy)
        .optional("scheduling", scheduling);
    Message::default()
        .text("name", &preset.name)
        .items("parameters", parameters.collect())
        .always("prebuild", prebuild.build())
        .flag("default", preset.default)
        .text("description", &preset.description)
        .text("icon", &preset.icon)
        .build()
}

fn external_auth(auth: &ExternalAuthRequirement) -> Value {
    Message::default()
        .text("id", &auth.id)
        .flag("optional", auth.optional)
        .build()
}

fn ai_task(task: &AiTask) -> Value {
    Message::default()
        .text("id", &task.id)
        .always(
            "sidebar_app",
            Message::default().text("id", &task.app_id).build(),
        )
        .text("app_id", &task.app_id)
        .build()
}
