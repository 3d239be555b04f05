//! Secrets that a job is given. No line of its log may show them.

use outpost_base::{
    job::{Job, Metadata, VariableValue, Work},
    secret::Secret,
};
use serde::Deserialize;

/// Returns the secrets in `job`. Values of an import's variables count only once the server has said which are
/// sensitive.
pub(super) fn of_job(job: &Job) -> Vec<Secret> {
    let mut secrets = Vec::new();
    match &job.work {
        Work::WorkspaceBuild(build) => {
            secrets.extend(of_metadata(&build.metadata));
            secrets.extend(of_variables(&build.variables));
            let tokens = build.external_auth.iter();
            secrets.extend(tokens.map(|auth| auth.access_token.clone()));
            secrets.extend(of_state(&build.state));
        }
        Work::TemplateImport(import) => secrets.extend(of_metadata(&import.metadata)),
        Work::TemplateDryRun(dry_run) => {
            secrets.extend(of_metadata(&dry_run.metadata));
            secrets.extend(of_variables(&dry_run.variables));
        }
        Work::Unknown => {}
    }
    secrets
}

/// Returns the values of variables that people must not see.
pub(super) fn of_variables(variables: &[VariableValue]) -> impl Iterator<Item = Secret> {
    let sensitive = variables.iter().filter(|variable| variable.sensitive);
    sensitive.map(|variable| variable.value.clone())
}

fn of_metadata(metadata: &Metadata) -> impl Iterator<Item = Secret> {
    let own = [
        &metadata.owner_oidc_access_token,
        &metadata.owner_session_token,
        &metadata.owner_ssh_private_key,
    ];
    let agents = metadata.running_agent_tokens.iter();
    let agents = agents.map(|agent| &agent.token);
    own.into_iter().chain(agents).cloned()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    resources: Vec<Resource>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resource {
    r#type: String,
    instances: Vec<Instance>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Instance {
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    token: Option<Token>,
}

/// Attribute `token` of a resource: a text for agents, and anything for other resources.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Other(serde::de::IgnoredAny),
}

/// Returns the tokens of agents that exist already.
fn of_state(state: &[u8]) -> Vec<Secret> {
    let state: State = serde_json::from_slice(state).unwrap_or_default();
    let agents = state.resources.into_iter();
    let agents = agents.filter(|resource| resource.r#type == "coder_agent");
    let tokens = agents.flat_map(|agent| agent.instances);
    let texts = tokens.filter_map(|instance| match instance.attributes.token {
        Some(Token::Text(token)) => Some(Secret::new(token)),
        Some(Token::Other(_)) | None => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_of_agents_are_found_in_a_state() {
        let state = br#"{"version":4,"resources":[
            {"type":"coder_agent","instances":[{"attributes":{"token":"t-1"}},{"attributes":{"token":"t-2"}}]},
            {"type":"other","instances":[{"attributes":{"token":{"a":1}}},{"attributes":{"token":"no"}}]}]}"#;

        assert_eq!(of_state(state), [Secret::new("t-1"), Secret::new("t-2")]);
        assert_eq!(of_state(b"not a state"), []);
    }

    #[test]
    fn only_sensitive_variables_are_hidden() {
        let variable = |value: &str, sensitive| VariableValue {
            name: "v".to_owned(),
            value: Secret::new(value),
            sensitive,
        };

        let found: Vec<_> = of_variables(&[variable("a", true), variable("b", false)]).collect();

        assert_eq!(found, [Secret::new("a")]);
    }
}
