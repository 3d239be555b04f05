//! `coder_env`: environment variables of agents, and conflicts between several resources.

use std::collections::BTreeMap;

use outpost_base::job::Env;
use serde_json::Value;

use super::{Agents, ConvertError, Place, decode};
use crate::{go_text::quoted, plan::ResourceValues, resources::index::Index};

/// The variable that shells need to find commands.
const PATH: &str = "PATH";
/// Directories of a machine's commands.
const COMMANDS: [&str; 2] = ["/bin", "/usr/bin"];

/// Variables that resources have set in one environment so far.
#[derive(Default)]
struct Environment {
    /// Origin of each variable's first value.
    set_by: BTreeMap<String, String>,
    path: Option<Path>,
}

/// The value of `PATH` so far.
struct Path {
    value: String,
    set_by: Vec<String>,
    /// `true` if the whole value is known before the build.
    is_known: bool,
}

impl Agents<'_> {
    /// Assigns each `coder_env` to its agent, in the order of addresses, in which servers apply them.
    ///
    /// # Errors
    /// [`ConvertError::DuplicateEnv`] for a variable that is set twice although it must not be.
    pub(in crate::resources) fn attach_envs(
        &mut self,
        index: &Index<'_>,
    ) -> Result<(), ConvertError> {
        let mut environments: BTreeMap<String, Environment> = BTreeMap::new();
        for resource in index.of_type("coder_env") {
            let (agent_id, env) = decode("decode env attributes", &resource.values, |values| {
                let env = Env {
                    name: values.string("name"),
                    value: values.string("value"),
                    merge_strategy: values.string("merge_strategy"),
                };
                (values.string("agent_id"), env)
            })?;
            match self.place(resource, &agent_id) {
                Some(Place::Agent(agent)) => {
                    let whose = format!("agent {}", quoted(&agent.name));
                    let environment = environments
                        .entry(whose)
                        .or_insert_with(|| Environment::of_block(&agent.env));
                    environment.add(resource, &env)?;
                    agent.extra_envs.push(env);
                }
                Some(Place::Devcontainer(container)) => {
                    let whose = format!("dev container {}", quoted(&container.name));
                    let environment = environments.entry(whose).or_default();
                    environment.add(resource, &env)?;
                    container.envs.push(env);
                }
                None => {}
            }
        }
        let warnings = environments
            .iter()
            .filter_map(|(whose, it)| it.warning(whose));
        self.warnings.extend(warnings);
        Ok(())
    }
}

impl Environment {
    /// Returns the variables of the agent's own block.
    fn of_block(block: &BTreeMap<String, String>) -> Self {
        const BLOCK: &str = "the agent's own `env`";
        let path = block.get(PATH).map(|value| Path {
            value: value.clone(),
            set_by: vec![BLOCK.to_owned()],
            is_known: true,
        });
        let names = block.keys();
        Self {
            set_by: names.map(|name| (name.clone(), BLOCK.to_owned())).collect(),
            path,
        }
    }

    fn add(&mut self, resource: &ResourceValues, env: &Env) -> Result<(), ConvertError> {
        let address = || resource.address.clone();
        match self.set_by.get(&env.name) {
            // A name that is not known yet is empty.
            Some(first) if env.merge_strategy == "error" && !env.name.is_empty() => {
                return Err(ConvertError::DuplicateEnv {
                    name: env.name.clone(),
                    first: first.clone(),
                    second: address(),
                });
            }
            Some(_) => {}
            None => {
                self.set_by.insert(env.name.clone(), address());
            }
        }
        if env.name == PATH {
            self.add_path(resource, env);
        }
        Ok(())
    }

    fn add_path(&mut self, resource: &ResourceValues, env: &Env) {
        let is_known = resource.values.get("value").is_some_and(Value::is_string);
        let new = |value, set_by| Path {
            value,
            set_by,
            is_known,
        };
        let address = resource.address.clone();
        let old = self
            .path
            .take()
            .filter(|old| !old.value.is_empty() || !old.is_known);
        self.path = Some(match (env.merge_strategy.as_str(), old) {
            ("append" | "prepend", Some(mut old)) => {
                old.value = match env.merge_strategy.as_str() {
                    "append" => format!("{}:{}", old.value, env.value),
                    _ => format!("{}:{}", env.value, old.value),
                };
                old.set_by.push(address);
                old.is_known &= is_known;
                old
            }
            (_, _) => new(env.value.clone(), vec![address]),
        });
    }

    /// Returns a warning if `PATH` leads to no commands.
    fn warning(&self, whose: &str) -> Option<String> {
        let path = self.path.as_ref().filter(|path| path.is_known)?;
        let has_commands = path.value.split(':').any(|dir| {
            let dir = dir.trim_end_matches('/');
            COMMANDS.contains(&dir)
        });
        if has_commands || path.value.is_empty() || names_path(&path.value) {
            return None;
        }
        Some(format!(
            "{whose} gets the PATH {} from {}, without its machine's PATH, so commands such as `ls` are not found; \
             merge strategies such as `append` only join values from the template: write `$PATH` into one of the values, as in {}",
            quoted(&path.value),
            path.set_by.join(" and "),
            quoted(&format!("{}:$PATH", path.value)),
        ))
    }
}

/// Returns whether a text contains `$PATH` or `${PATH}`.
fn names_path(text: &str) -> bool {
    text.split('$').skip(1).any(|rest| {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        match rest.strip_prefix('{') {
            Some(braced) => braced.starts_with("PATH}"),
            None => rest.split(|letter| !is_part(letter)).next() == Some(PATH),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn environment(block: &[(&str, &str)], envs: &[(&str, Option<&str>)]) -> Environment {
        let block = block
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut environment = Environment::of_block(&block.collect());
        for (at, (strategy, value)) in envs.iter().enumerate() {
            environment
                .add(&resource(at, *value), &path(strategy, *value))
                .unwrap();
        }
        environment
    }

    fn resource(at: usize, value: Option<&str>) -> ResourceValues {
        let values = value.map_or(json!({}), |value| json!({ "value": value }));
        let resource = json!({"address": format!("coder_env.e{at}"), "values": values});
        serde_json::from_value(resource).unwrap()
    }

    fn path(strategy: &str, value: Option<&str>) -> Env {
        Env {
            name: PATH.to_owned(),
            value: value.unwrap_or_default().to_owned(),
            merge_strategy: strategy.to_owned(),
        }
    }

    #[test]
    fn a_path_without_that_of_the_machine_is_warned_about() {
        let two = environment(
            &[],
            &[
                ("append", Some("/opt/a/bin")),
                ("append", Some("/opt/b/bin")),
            ],
        );
        assert_eq!(
            two.warning("agent \"main\"").unwrap(),
            "agent \"main\" gets the PATH \"/opt/a/bin:/opt/b/bin\" from coder_env.e0 and coder_env.e1, without its \
             machine's PATH, so commands such as `ls` are not found; merge strategies such as `append` only join \
             values from the template: write `$PATH` into one of the values, as in \"/opt/a/bin:/opt/b/bin:$PATH\""
        );
        let lost = [
            environment(&[], &[("replace", Some("/opt/a"))]),
            environment(&[], &[("prepend", Some("/opt/a"))]),
            environment(&[("PATH", "/x")], &[("append", Some("$PATHS"))]),
            environment(&[("PATH", "$PATH")], &[("replace", Some("/x"))]),
        ];
        for environment in lost {
            assert!(environment.warning("").is_some());
        }
    }

    #[test]
    fn a_path_with_that_of_the_machine_or_one_that_is_not_known_is_not() {
        let kept = [
            environment(&[], &[]),
            environment(&[], &[("append", Some("/opt/a:$PATH"))]),
            environment(
                &[],
                &[("append", Some("/opt/a")), ("prepend", Some("${PATH}"))],
            ),
            environment(&[("PATH", "$PATH:/x")], &[("append", Some("/y"))]),
            environment(&[], &[("replace", Some("/usr/local/bin:/usr/bin/"))]),
            environment(&[], &[("append", Some("/opt/a")), ("append", None)]),
            environment(&[], &[("replace", Some(""))]),
        ];
        for environment in kept {
            assert_eq!(environment.warning(""), None);
        }
    }

    #[test]
    fn what_must_not_be_set_twice_is_refused_with_both_who_set_it() {
        let mut environment = environment(&[], &[("error", Some("/a"))]);
        environment
            .add(&resource(1, Some("/b")), &path("replace", Some("/b")))
            .unwrap();
        let refused = environment.add(&resource(2, Some("/c")), &path("error", Some("/c")));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "coder_env.e2: duplicate env var \"PATH\": merge_strategy is \"error\" but variable is already defined by \
             coder_env.e0"
        );
    }
}
