//! The plan as `terraform show -json` prints it.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::state::State;

/// Why a document of Terraform's cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not JSON, or not of the right shape.
    #[error("decode terraform json")]
    Json(#[from] serde_json::Error),
    /// Its format is not one that we know.
    #[error("terraform json has format version `{version}`, supported are 0.1 and up, below 2.0")]
    Format {
        /// The version it claims; empty for none.
        version: String,
    },
}

/// A plan.
#[derive(Debug, Deserialize)]
pub struct Plan {
    #[serde(default)]
    format_version: String,
    #[serde(default)]
    planned_values: Values,
    prior_state: Option<State>,
    /// What would change, in Terraform's order.
    #[serde(default)]
    pub resource_changes: Vec<ResourceChange>,
}

/// The values of all modules.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Values {
    #[serde(default)]
    pub(super) root_module: Module,
}

/// A module with its resources, as they are or will be.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Module {
    /// Resources of the module itself.
    #[serde(default)]
    pub resources: Vec<ResourceValues>,
    /// Modules that it calls, by instance.
    #[serde(default)]
    pub child_modules: Vec<Module>,
    /// Its address; empty for the root module.
    #[serde(default)]
    pub address: String,
}

/// One instance of a resource or data source.
#[derive(Clone, Debug, Deserialize)]
pub struct ResourceValues {
    /// The full instance address.
    pub address: String,
    /// `managed` or `data`.
    #[serde(default)]
    pub mode: String,
    /// The type, such as `docker_container`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The name in the configuration.
    #[serde(default)]
    pub name: String,
    /// Attributes; those that are not known yet are absent.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub values: Map<String, Value>,
}

/// What would happen to one instance of a resource.
#[derive(Debug, Deserialize)]
pub struct ResourceChange {
    /// The full instance address.
    #[serde(default)]
    pub address: String,
    /// The type.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The change itself.
    pub change: Option<Change>,
}

/// A change of one instance.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Such as `["delete", "create"]`.
    pub actions: Vec<String>,
    /// What is; `null` for nothing.
    pub before: Value,
    /// What will be, as far as it is known.
    pub after: Value,
    /// `true` at every place of `after` that is not known yet.
    pub after_unknown: Value,
    /// `true` at every place of `before` that people must not see.
    pub before_sensitive: Value,
    /// The same for `after`.
    pub after_sensitive: Value,
    /// Paths of the attributes that force a replacement: lists of names and indices.
    #[serde(deserialize_with = "null_is_default")]
    pub replace_paths: Vec<Value>,
}

impl Plan {
    /// Reads the output of `terraform show -json PLANFILE`.
    ///
    /// # Errors
    /// [`ParseError`] if it is no such thing.
    pub fn parse(json: &[u8]) -> Result<Self, ParseError> {
        let plan: Self = serde_json::from_slice(json)?;
        check_format(&plan.format_version)?;
        Ok(plan)
    }

    /// The modules to convert: data sources that were read before, then everything planned.
    ///
    /// # Source
    /// coder `provisioner/terraform/planresources.go`.
    pub fn modules(&self) -> Vec<Module> {
        let prior = self
            .prior_state
            .as_ref()
            .and_then(|state| state.values.as_ref());
        let prior = prior.map(|values| only_data(&values.root_module));
        prior
            .into_iter()
            .chain([self.planned_values.root_module.clone()])
            .collect()
    }
}

/// Refuses what is older or newer than we know. An absent version is refused, too.
pub(super) fn check_format(version: &str) -> Result<(), ParseError> {
    let parse = |text: &str| -> Option<(u64, u64)> {
        let mut parts = text.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?))
    };
    match parse(version) {
        Some(known) if ((0, 1)..(2, 0)).contains(&known) => Ok(()),
        _ => Err(ParseError::Format {
            version: version.to_owned(),
        }),
    }
}

fn only_data(module: &Module) -> Module {
    Module {
        address: module.address.clone(),
        resources: module
            .resources
            .iter()
            .filter(|resource| resource.mode == "data")
            .cloned()
            .collect(),
        child_modules: module.child_modules.iter().map(only_data).collect(),
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    input: D,
) -> Result<Map<String, Value>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

fn null_is_default<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_formats_are_read() {
        for version in ["0.1", "0.2", "1.0", "1.2"] {
            assert!(check_format(version).is_ok(), "{version}");
        }
        for version in ["", "0.0", "2.0", "x"] {
            assert!(check_format(version).is_err(), "{version}");
        }
    }

    #[test]
    fn data_of_the_prior_state_comes_before_what_is_planned() {
        let plan = br#"{"format_version":"1.2",
            "planned_values":{"root_module":{"resources":[{"address":"a.b","mode":"managed","type":"a","name":"b"}]}},
            "prior_state":{"format_version":"1.0","values":{"root_module":{"resources":[
                {"address":"data.c.d","mode":"data","type":"c","name":"d","values":null},
                {"address":"a.b","mode":"managed","type":"a","name":"b"}]}}}}"#;

        let modules = Plan::parse(plan).unwrap().modules();

        let addresses: Vec<_> = modules
            .iter()
            .flat_map(|module| &module.resources)
            .map(|resource| resource.address.as_str())
            .collect();
        assert_eq!(addresses, ["data.c.d", "a.b"]);
    }
}
