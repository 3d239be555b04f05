//! The attributes of a `coder_agent`.

use std::{borrow::Cow, collections::BTreeMap};

use outpost_base::{
    job::{
        Agent, AgentAuth, AgentMetadata, DisplayApps, MemoryMonitor, ResourcesMonitoring, Script,
        VolumeMonitor,
    },
    rules,
};

use super::{ConvertError, Index, decode};
use crate::{
    go_text::quoted,
    plan::ResourceValues,
    resources::{decode::Attributes, index::Granularity, keys::joined_keys},
};

/// Returns every `coder_agent` with the name of its agent, sorted by address.
///
/// The name is that of the block. Where the reference fails because several instances would have it, their keys are
/// appended: `dev-0`, `dev-1`.
pub(super) fn names<'a>(index: &Index<'a>) -> Vec<(&'a ResourceValues, Cow<'a, str>)> {
    let resources = || index.of_type("coder_agent");
    let mut uses = BTreeMap::new();
    resources().for_each(|it| *uses.entry(it.name.to_lowercase()).or_insert(0) += 1);
    let name = |resource: &'a ResourceValues| {
        let is_shared = index.granularity == Granularity::Instance
            && uses.get(&resource.name.to_lowercase()) > Some(&1);
        let keys = joined_keys(&resource.address).filter(|_| is_shared);
        let name = match keys {
            Some(keys) => Cow::Owned(format!("{}-{keys}", resource.name)),
            None => Cow::Borrowed(resource.name.as_str()),
        };
        (resource, name)
    };
    resources().map(name).collect()
}

pub(super) fn check_name(name: &str) -> Result<(), ConvertError> {
    if name.is_empty() {
        return Err(ConvertError::AgentNameEmpty);
    }
    if rules::is_agent_name(name) {
        return Ok(());
    }
    let name = quoted(name);
    Err(if name.contains('_') {
        ConvertError::AgentNameUnderscore(name, rules::AGENT_NAME)
    } else {
        ConvertError::AgentName(name, rules::AGENT_NAME)
    })
}

pub(super) fn read_agent(resource: &ResourceValues, name: &str) -> Result<Agent, ConvertError> {
    let agent = decode("decode agent attributes", &resource.values, |values| {
        // These attributes are no longer used, but a wrong type is still an error.
        let _ = ["startup_script_timeout", "shutdown_script_timeout"].map(|key| values.i32(key));
        Agent {
            id: values.string("id"),
            name: name.to_owned(),
            env: values.strings("env"),
            operating_system: values.string("os"),
            architecture: values.string("arch"),
            directory: values.string("dir"),
            auth: read_auth(values),
            connection_timeout_seconds: values.i32("connection_timeout"),
            troubleshooting_url: values.string("troubleshooting_url"),
            motd_file: values.string("motd_file"),
            metadata: values
                .objects("metadata")
                .iter()
                .map(read_metadata)
                .collect(),
            display_apps: read_display_apps(values),
            scripts: legacy_scripts(values),
            order: values.i64("order"),
            resources_monitoring: read_monitoring(values),
            api_key_scope: values.string("api_key_scope"),
            ..Agent::default()
        }
    })?;
    Ok(agent)
}

/// Returns a token, or an instance identity whose id is set later.
fn read_auth(values: &Attributes<'_>) -> AgentAuth {
    let token = values.string("token");
    match values.string("auth").as_str() {
        "token" => AgentAuth::Token(token),
        _ => AgentAuth::InstanceId(String::new()),
    }
}

fn read_metadata(item: &Attributes<'_>) -> AgentMetadata {
    AgentMetadata {
        key: item.string("key"),
        display_name: item.string("display_name"),
        script: item.string("script"),
        interval: item.i64("interval"),
        timeout: item.i64("timeout"),
        order: item.i64("order"),
    }
}

/// Reads the built-in apps; only the first block counts.
fn read_display_apps(values: &Attributes<'_>) -> DisplayApps {
    let blocks = values.objects("display_apps");
    let read = |block: &Attributes<'_>| DisplayApps {
        vscode: block.bool("vscode"),
        vscode_insiders: block.bool("vscode_insiders"),
        web_terminal: block.bool("web_terminal"),
        ssh_helper: block.bool("ssh_helper"),
        port_forwarding_helper: block.bool("port_forwarding_helper"),
    };
    let blocks: Vec<_> = blocks.iter().map(read).collect();
    blocks.into_iter().next().unwrap_or_default()
}

/// Reads the thresholds: those of the last memory block, and of all volumes.
fn read_monitoring(values: &Attributes<'_>) -> ResourcesMonitoring {
    let mut monitoring = ResourcesMonitoring::default();
    for block in values.objects("resources_monitoring") {
        for memory in block.objects("memory") {
            monitoring.memory = Some(MemoryMonitor {
                enabled: memory.bool("enabled"),
                threshold: memory.i32("threshold"),
            });
        }
        let volumes = block.objects("volume");
        monitoring
            .volumes
            .extend(volumes.iter().map(|volume| VolumeMonitor {
                path: volume.string("path"),
                enabled: volume.bool("enabled"),
                threshold: volume.i32("threshold"),
            }));
    }
    monitoring
}

/// Returns the scripts in attributes of the agent itself, from before `coder_script` existed.
fn legacy_scripts(values: &Attributes<'_>) -> Vec<Script> {
    let startup = Script {
        display_name: "Startup Script".to_owned(),
        icon: "/emojis/25b6-fe0f.png".to_owned(),
        script: values.string("startup_script"),
        start_blocks_login: is_blocking(values),
        run_on_start: true,
        log_path: "coder-startup-script.log".to_owned(),
        ..Script::default()
    };
    let shutdown = Script {
        display_name: "Shutdown Script".to_owned(),
        icon: "/emojis/25c0.png".to_owned(),
        script: values.string("shutdown_script"),
        run_on_stop: true,
        log_path: "coder-shutdown-script.log".to_owned(),
        ..Script::default()
    };
    let mut scripts = vec![startup, shutdown];
    scripts.retain(|script| !script.script.is_empty());
    scripts
}

/// Returns whether logins wait for the startup script. Old providers use another attribute, which counts even if it
/// is null.
fn is_blocking(values: &Attributes<'_>) -> bool {
    let behavior = values.string("startup_script_behavior");
    let login_before_ready = values.bool("login_before_ready");
    if behavior.is_empty() {
        values.has("login_before_ready") && !login_before_ready
    } else {
        behavior == "blocking"
    }
}
