//! The agents of a build, as conditions see them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use outpost_base::job::{Agent, AgentAuth, AgentMetadata, App, OpenIn, Script, SharingLevel};
use serde_json::{Map, Value, json};

use super::Facts;

pub(super) fn agents(facts: &Facts) -> Value {
    let mut agents = Map::new();
    for resource in &facts.resources {
        for agent in &resource.agents {
            // An agent of several resources is shown in the first one.
            agents
                .entry(agent.name.clone())
                .or_insert_with(|| value(agent, &resource.address, facts));
        }
    }
    Value::Object(agents)
}

fn value(agent: &Agent, resource: &str, facts: &Facts) -> Value {
    let containers = &agent.devcontainers;
    let apps = agent
        .apps
        .iter()
        .chain(containers.iter().flat_map(|it| &it.apps));
    let scripts = agent
        .scripts
        .iter()
        .chain(containers.iter().flat_map(|it| &it.scripts));
    json!({
        "os": agent.operating_system,
        "arch": agent.architecture,
        "dir": agent.directory,
        "token_reaches": token_reaches(agent, facts),
        "env": env(agent),
        "apps": apps.map(|it| (it.slug.clone(), app(it))).collect::<Map<_, _>>(),
        "scripts": scripts.map(|it| (it.display_name.clone(), script(it))).collect::<Map<_, _>>(),
        "metadata": agent.metadata.iter().map(|it| (it.key.clone(), metadata(it))).collect::<Map<_, _>>(),
        "resource": resource,
        "order": agent.order,
        "connection_timeout": agent.connection_timeout_seconds,
        "troubleshooting_url": agent.troubleshooting_url,
        "motd_file": agent.motd_file,
        "display_apps": agent.display_apps,
    })
}

/// The agent's environment and what `coder_env` adds to it.
fn env(agent: &Agent) -> Map<String, Value> {
    let mut env = agent.env.clone();
    for extra in &agent.extra_envs {
        let value = match (extra.merge_strategy.as_str(), env.get(&extra.name)) {
            ("append", Some(old)) => format!("{old}:{}", extra.value),
            ("prepend", Some(old)) => format!("{}:{old}", extra.value),
            _ => extra.value.clone(),
        };
        env.insert(extra.name.clone(), value);
    }
    env.into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect()
}

fn app(app: &App) -> Value {
    let healthcheck = app.healthcheck.as_ref().map(
        |check| json!({"url": check.url, "interval": check.interval, "threshold": check.threshold}),
    );
    json!({
        "url": app.url,
        "share": share(app.sharing_level),
        "hidden": app.hidden,
        "healthcheck": healthcheck,
        "open_in": open_in(app.open_in),
        "order": app.order,
        "group": app.group,
        "display_name": app.display_name,
        "command": app.command,
        "icon": app.icon,
        "tooltip": app.tooltip,
        "subdomain": app.subdomain,
        "external": app.external,
    })
}

fn share(level: SharingLevel) -> &'static str {
    match level {
        SharingLevel::Owner => "owner",
        SharingLevel::Authenticated => "authenticated",
        SharingLevel::Public => "public",
    }
}

fn open_in(open_in: OpenIn) -> &'static str {
    match open_in {
        OpenIn::Window => "window",
        OpenIn::SlimWindow => "slim-window",
        OpenIn::Tab => "tab",
    }
}

fn script(script: &Script) -> Value {
    json!({
        "script": script.script,
        "cron": script.cron,
        "run_on_start": script.run_on_start,
        "run_on_stop": script.run_on_stop,
        "start_blocks_login": script.start_blocks_login,
        "timeout": script.timeout_seconds,
        "log_path": script.log_path,
        "icon": script.icon,
    })
}

fn metadata(metadata: &AgentMetadata) -> Value {
    json!({
        "display_name": metadata.display_name,
        "script": metadata.script,
        "interval": metadata.interval,
        "timeout": metadata.timeout,
        "order": metadata.order,
    })
}

/// Addresses of the resources that have the agent's token in one of their attributes, sorted.
fn token_reaches(agent: &Agent, facts: &Facts) -> Vec<String> {
    let AgentAuth::Token(token) = &agent.auth else {
        return Vec::new();
    };
    let resources = facts.state["resources"].as_array().into_iter().flatten();
    let managed = resources.filter(|it| {
        let kind = it["type"].as_str().unwrap_or_default();
        it["mode"] == "managed" && !kind.starts_with("coder_")
    });
    let mut found = Vec::new();
    for resource in managed.filter(|_| !token.is_empty()) {
        for instance in resource["instances"].as_array().into_iter().flatten() {
            if mentions(&instance["attributes"], token) {
                found.push(address(resource, &instance["index_key"]));
            }
        }
    }
    found.sort();
    found
}

/// Tells whether a text somewhere in `value` has the token, also in base64, as clouds take user data.
fn mentions(value: &Value, token: &str) -> bool {
    match value {
        Value::String(text) => {
            let decoded = || STANDARD.decode(text.trim()).unwrap_or_default();
            text.contains(token) || String::from_utf8_lossy(&decoded()).contains(token)
        }
        Value::Array(items) => items.iter().any(|item| mentions(item, token)),
        Value::Object(object) => object.values().any(|item| mentions(item, token)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The address of an instance in a state.
fn address(resource: &Value, key: &Value) -> String {
    let text = |name: &str| resource[name].as_str().unwrap_or_default();
    let module = match text("module") {
        "" => String::new(),
        module => format!("{module}."),
    };
    let key = match key {
        Value::Null => String::new(),
        key => format!("[{key}]"),
    };
    format!("{module}{}.{}{key}", text("type"), text("name"))
}
