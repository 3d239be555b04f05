//! The built-in `coder` provider: a replacement of `coder/coder` without a download.
//!
//! Schemas, defaults, checks and texts are those of version 2.20.0. All facts about a build come from the environment
//! of the process that Terraform starts; nothing is stored but the state.

mod agent;
mod ai_task;
mod app;
mod check;
mod context;
mod cron;
mod go;
mod metadata;
mod parameter;
mod preset;
mod resource;
mod schedule;
mod script;
mod secret;
mod small;
mod workspace;

use std::collections::BTreeMap;

use outpost_plugin::{Diagnostic, Diagnostics, Provider, Schema, Shape, optional};
use outpost_value::Object;
use semver::Version;

pub use self::context::Context;

/// Returns the provider for `environment`, in the version with which it was installed.
///
/// The version matters for features that were added and removed again; `None` is the newest.
///
/// # Source
/// `github.com/coder/terraform-provider-coder` 2.20.0; for `coder_secret` 2.17.0.
pub fn provider(
    environment: BTreeMap<String, String>,
    version: Option<&Version>,
) -> Provider<Context> {
    let schema = Schema::new(
        "",
        vec![optional("url", Shape::String, "URL of the Coder server.").check(check::url)],
    );
    let provider = Provider::new(schema, move |config| configure(&environment, config));
    let provider = data_sources(resources(provider));
    match version {
        Some(version) if has_secret(version) => {
            provider.data_source("coder_secret", secret::secret())
        }
        _ => provider,
    }
}

/// Returns whether the version has `coder_secret`, which was in early access in 2.16 and 2.17 only.
fn has_secret(version: &Version) -> bool {
    version.major == 2 && (16..=17).contains(&version.minor)
}

fn configure(
    environment: &BTreeMap<String, String>,
    config: &Object,
) -> Result<Context, Diagnostics> {
    // An unknown URL counts as empty, as in the original.
    let url = match config.get("url").is_unknown() {
        true => Some(""),
        false => config.text("url"),
    };
    Context::new(environment.clone(), url).map_err(|error| Diagnostic::error(error).into())
}

fn resources(provider: Provider<Context>) -> Provider<Context> {
    provider
        .resource("coder_agent", agent::agent())
        .resource("coder_agent_instance", agent::agent_instance())
        .resource("coder_ai_task", ai_task::ai_task())
        .resource("coder_app", app::app())
        .resource("coder_devcontainer", small::devcontainer())
        .resource("coder_env", small::env())
        .resource("coder_external_agent", small::external_agent())
        .resource("coder_metadata", metadata::metadata())
        .resource("coder_script", script::script())
}

fn data_sources(provider: Provider<Context>) -> Provider<Context> {
    provider
        .data_source("coder_external_auth", small::external_auth())
        .data_source("coder_parameter", parameter::parameter())
        .data_source("coder_provisioner", small::provisioner())
        .data_source("coder_script_order", small::script_order())
        .data_source("coder_task", ai_task::task())
        .data_source("coder_workspace", workspace::workspace())
        .data_source("coder_workspace_owner", workspace::owner())
        .data_source("coder_workspace_preset", preset::workspace_preset())
        .data_source("coder_workspace_tags", small::workspace_tags())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(version: Option<&str>) -> Vec<String> {
        let version = version.map(|version| version.parse().unwrap());
        let provider = provider(BTreeMap::new(), version.as_ref());
        provider.data_sources.keys().cloned().collect()
    }

    #[test]
    fn secrets_came_and_went() {
        let has = |version| names(version).contains(&"coder_secret".to_owned());

        assert!(has(Some("2.16.0")) && has(Some("2.17.0")));
        assert!(!has(Some("2.15.0")) && !has(Some("2.18.0")) && !has(None));
    }

    #[test]
    fn a_url_that_is_known_only_later_is_an_error() {
        let error = |url: outpost_value::Value| {
            configure(&BTreeMap::new(), &Object::from([("url", url)])).err()
        };

        assert!(error(outpost_value::Value::Unknown).is_some());
        assert!(error(outpost_value::Value::Null).is_none());
    }
}
