//! Rules of a server for the resources, parameters and presets of a completed job.
//!
//! A daemon that checks this before it applies a plan loses nothing to a refusal afterwards.
//!
//! # Source
//! coder `coderd/provisionerdserver`, where a job completes, and the constraints of its database.

use std::{collections::BTreeSet, fmt};

use uuid::Uuid;

use super::{AGENT_NAME, APP_SLUG, is_agent_name, is_app_slug};
use crate::job::{Agent, AgentAuth, App, Parameter, Preset, Resource};

/// Maximum length of the key of a resource's metadata, in characters.
const KEY_CHARS: usize = 1024;
/// Maximum length of the value of a resource's metadata, in characters.
const VALUE_CHARS: usize = 65_536;

/// A violation of a server's rules, and its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} {reason}")]
pub struct Refused {
    /// The resource or part of it, such as ``agent `dev` of `docker_container.workspace` ``.
    pub place: String,
    /// Reason why a server refuses it.
    pub reason: String,
}

fn refused(place: impl fmt::Display, reason: impl Into<String>) -> Refused {
    Refused {
        place: place.to_string(),
        reason: reason.into(),
    }
}

/// Checks the resources of one build, dry run, or pass of an import.
///
/// # Errors
/// The first thing that a server refuses.
pub fn check_resources(resources: &[Resource]) -> Result<(), Refused> {
    let mut agents = BTreeSet::new();
    for resource in resources {
        check_resource(resource)?;
        for agent in &resource.agents {
            if !agents.insert(agent.name.as_str()) {
                let place = format!("agent `{}`", agent.name);
                return Err(refused(place, "appears twice in one workspace"));
            }
        }
    }
    Ok(())
}

fn check_resource(resource: &Resource) -> Result<(), Refused> {
    let place = match resource.address.as_str() {
        "" => format!("{}.{}", resource.kind, resource.name),
        address => address.to_owned(),
    };
    let (mut names, mut slugs) = (BTreeSet::new(), BTreeSet::new());
    for agent in &resource.agents {
        let here = format!("agent `{}` of `{place}`", agent.name);
        check_agent(&here, agent)?;
        if !names.insert(agent.name.to_lowercase()) {
            return Err(refused(
                here,
                "has the name of another agent of this resource",
            ));
        }
        let inside = agent
            .devcontainers
            .iter()
            .flat_map(|container| &container.apps);
        for app in agent.apps.iter().chain(inside) {
            check_app(&here, app)?;
            if !slugs.insert(app.slug.as_str()) {
                let here = format!("app `{}` of {here}", app.slug);
                return Err(refused(
                    here,
                    "has the slug of another app of this resource",
                ));
            }
        }
    }
    check_facts(&place, resource)
}

fn check_facts(place: &str, resource: &Resource) -> Result<(), Refused> {
    let mut keys = BTreeSet::new();
    for fact in resource.metadata.iter().filter(|fact| !fact.is_null) {
        let here = || format!("metadata `{}` of `{place}`", fact.key);
        if fact.key.chars().count() > KEY_CHARS {
            let here = format!("metadata of `{place}`");
            return Err(refused(
                here,
                format!("has a key of more than {KEY_CHARS} characters"),
            ));
        }
        if fact.value.chars().count() > VALUE_CHARS {
            return Err(refused(
                here(),
                format!("has more than {VALUE_CHARS} characters"),
            ));
        }
        if !keys.insert(fact.key.as_str()) {
            return Err(refused(here(), "is there twice"));
        }
    }
    Ok(())
}

fn check_agent(here: &str, agent: &Agent) -> Result<(), Refused> {
    if agent.name.contains('_') {
        return Err(refused(
            here,
            "has an underscore in its name; use a hyphen instead",
        ));
    }
    if !is_agent_name(&agent.name) {
        return Err(refused(
            here,
            format!("has a name that does not match {AGENT_NAME}"),
        ));
    }
    if let AgentAuth::Token(token) = &agent.auth
        && !token.is_empty()
        && Uuid::parse_str(token).is_err()
    {
        return Err(refused(here, "has a token that is not a UUID"));
    }
    let mut keys = BTreeSet::new();
    if let Some(twice) = agent.metadata.iter().find(|fact| !keys.insert(&fact.key)) {
        return Err(refused(
            here,
            format!("has the metadata `{}` twice", twice.key),
        ));
    }
    check_envs(here, agent)
}

/// Checks an agent's environment variables in the order in which they apply: a variable whose strategy forbids a
/// second value must not get one.
fn check_envs(here: &str, agent: &Agent) -> Result<(), Refused> {
    let mut set: BTreeSet<_> = agent.env.keys().collect();
    for env in &agent.extra_envs {
        if !set.insert(&env.name) && env.merge_strategy == "error" {
            return Err(refused(
                here,
                format!("has the variable `{}` twice", env.name),
            ));
        }
    }
    Ok(())
}

fn check_app(here: &str, app: &App) -> Result<(), Refused> {
    let place = || format!("app `{}` of {here}", app.slug);
    if !is_app_slug(&app.slug) {
        return Err(refused(
            place(),
            format!("has a slug that does not match {APP_SLUG}"),
        ));
    }
    if !app.id.is_empty() && Uuid::parse_str(&app.id).is_err() {
        return Err(refused(place(), "has an id that is not a UUID"));
    }
    Ok(())
}

/// Checks the parameters and presets of a template.
///
/// # Errors
/// The first thing that a server refuses.
pub fn check_parameters(parameters: &[Parameter], presets: &[Preset]) -> Result<(), Refused> {
    let mut names = BTreeSet::new();
    for parameter in parameters {
        let place = format!("parameter `{}`", parameter.name);
        if !names.insert(parameter.name.as_str()) {
            return Err(refused(place, "is there twice"));
        }
        if !["", "increasing", "decreasing"].contains(&parameter.validation_monotonic.as_str()) {
            let reason = "has a monotonic validation that is neither increasing nor decreasing";
            return Err(refused(place, reason));
        }
    }
    let mut names = BTreeSet::new();
    if let Some(preset) = presets.iter().find(|preset| !names.insert(&preset.name)) {
        return Err(refused(
            format!("preset `{}`", preset.name),
            "is there twice",
        ));
    }
    let mut defaults = presets.iter().filter(|preset| preset.default);
    match (defaults.next(), defaults.next()) {
        (Some(first), Some(second)) => Err(refused(
            format!("preset `{}`", second.name),
            format!("is a default, and so is `{}`", first.name),
        )),
        (_, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Devcontainer, Env, ResourceMetadata};

    fn agent(name: &str) -> Agent {
        Agent {
            name: name.to_owned(),
            ..Agent::default()
        }
    }

    fn resource(agents: Vec<Agent>) -> Resource {
        Resource {
            address: "a.b".to_owned(),
            agents,
            ..Resource::default()
        }
    }

    fn with_app(slug: &str) -> Agent {
        Agent {
            apps: vec![app(slug)],
            ..agent("dev")
        }
    }

    fn app(slug: &str) -> App {
        App {
            slug: slug.to_owned(),
            ..App::default()
        }
    }

    fn fact(key: &str, value: &str) -> ResourceMetadata {
        ResourceMetadata {
            key: key.to_owned(),
            value: value.to_owned(),
            ..ResourceMetadata::default()
        }
    }

    fn said(resources: &[Resource]) -> String {
        check_resources(resources).unwrap_err().to_string()
    }

    #[test]
    fn what_servers_accept_is_accepted() {
        let mut good = with_app("code-server");
        good.name = "Dev".to_owned();
        good.auth = AgentAuth::Token(Uuid::nil().to_string());
        let facts = vec![fact("a", "1"), fact("b", &"x".repeat(VALUE_CHARS))];
        let first = Resource {
            metadata: facts,
            ..resource(vec![good, agent("other")])
        };

        assert_eq!(
            check_resources(&[first, resource(vec![agent("dev")])]),
            Ok(())
        );
    }

    #[test]
    fn names_of_agents_are_checked() {
        for (name, part) in [
            ("", "does not match"),
            ("dev--1", "does not match"),
            ("dev_1", "underscore"),
        ] {
            let text = said(&[resource(vec![agent(name)])]);
            assert!(
                text.starts_with(&format!("agent `{name}` of `a.b` ")),
                "{text}"
            );
            assert!(text.contains(part), "{text}");
        }
        let same = said(&[resource(vec![agent("dev"), agent("Dev")])]);
        assert_eq!(
            same,
            "agent `Dev` of `a.b` has the name of another agent of this resource"
        );
        let twice = [resource(vec![agent("dev")]), resource(vec![agent("dev")])];
        assert_eq!(said(&twice), "agent `dev` appears twice in one workspace");
    }

    #[test]
    fn tokens_are_checked_and_not_shown() {
        let bad = Agent {
            auth: AgentAuth::Token("hunter2".to_owned()),
            ..agent("dev")
        };

        assert_eq!(
            said(&[resource(vec![bad])]),
            "agent `dev` of `a.b` has a token that is not a UUID"
        );
    }

    #[test]
    fn slugs_are_checked_also_those_of_devcontainers() {
        for slug in ["dev_1", "dev--1", "Dev", ""] {
            assert!(said(&[resource(vec![with_app(slug)])]).contains("does not match"));
        }
        let mut twice = with_app("app");
        twice.devcontainers = vec![Devcontainer {
            apps: vec![app("app")],
            ..Devcontainer::default()
        }];
        let text = said(&[resource(vec![twice])]);
        assert_eq!(
            text,
            "app `app` of agent `dev` of `a.b` has the slug of another app of this resource"
        );
    }

    #[test]
    fn long_and_doubled_metadata_is_refused() {
        let with = |metadata| Resource {
            metadata,
            ..resource(Vec::new())
        };

        let long = said(&[with(vec![fact("a", &"x".repeat(VALUE_CHARS + 1))])]);
        assert_eq!(long, "metadata `a` of `a.b` has more than 65536 characters");
        let twice = said(&[with(vec![fact("a", "1"), fact("a", "2")])]);
        assert_eq!(twice, "metadata `a` of `a.b` is there twice");
    }

    #[test]
    fn a_variable_that_must_be_unique_is() {
        let env = |strategy: &str| Env {
            name: "PATH".to_owned(),
            merge_strategy: strategy.to_owned(),
            ..Env::default()
        };
        let with = |envs| Agent {
            extra_envs: envs,
            ..agent("dev")
        };

        let appended = with(vec![env("append"), env("append")]);
        assert_eq!(check_resources(&[resource(vec![appended])]), Ok(()));
        let overwritten = with(vec![env("error"), env("replace")]);
        assert_eq!(check_resources(&[resource(vec![overwritten])]), Ok(()));
        let strict = with(vec![env("append"), env("error")]);
        let text = said(&[resource(vec![strict])]);
        assert_eq!(text, "agent `dev` of `a.b` has the variable `PATH` twice");
    }

    #[test]
    fn parameters_and_presets_are_checked() {
        let parameter = |monotonic: &str| Parameter {
            name: "size".to_owned(),
            validation_monotonic: monotonic.to_owned(),
            ..Parameter::default()
        };
        let preset = |name: &str| Preset {
            name: name.to_owned(),
            default: true,
            ..Preset::default()
        };
        let said = |parameters: &[Parameter], presets: &[Preset]| {
            check_parameters(parameters, presets)
                .unwrap_err()
                .to_string()
        };

        assert_eq!(
            check_parameters(&[parameter("increasing")], &[preset("a")]),
            Ok(())
        );
        assert_eq!(
            said(&[parameter(""), parameter("")], &[]),
            "parameter `size` is there twice"
        );
        assert!(said(&[parameter("growing")], &[]).contains("neither increasing nor"));
        assert_eq!(
            said(&[], &[preset("a"), preset("a")]),
            "preset `a` is there twice"
        );
        let two = said(&[], &[preset("a"), preset("b")]);
        assert_eq!(two, "preset `b` is a default, and so is `a`");
    }
}
