//! The plan as `terraform show -json` prints it.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    configuration::Configuration,
    resources::{self, ConvertError, Totals},
};

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
#[derive(Debug)]
pub struct Plan {
    modules: Vec<Module>,
    configuration: Configuration,
    /// What would change, in Terraform's order.
    pub resource_changes: Vec<ResourceChange>,
}

/// The document.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    format_version: String,
    #[serde(default)]
    planned_values: Values,
    prior_state: Option<super::state::Document>,
    #[serde(default, deserialize_with = "null_is_default")]
    resource_changes: Vec<ResourceChange>,
    #[serde(default, deserialize_with = "null_is_default")]
    configuration: Configuration,
}

/// The values of all modules.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Values {
    #[serde(default)]
    pub(super) root_module: Module,
}

/// A module with its resources, as they are or will be.
#[derive(Debug, Default, Deserialize)]
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
#[derive(Debug, Deserialize)]
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
    #[serde(default, deserialize_with = "null_is_default")]
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
        let document: Document = serde_json::from_slice(json)?;
        check_format(&document.format_version)?;
        let mut modules = Vec::new();
        if let Some(mut prior) = document.prior_state.and_then(|prior| prior.values) {
            keep_data(&mut prior.root_module);
            modules.push(prior.root_module);
        }
        modules.push(document.planned_values.root_module);
        Ok(Self {
            modules,
            configuration: document.configuration,
            resource_changes: document.resource_changes,
        })
    }

    /// The modules to convert: data sources that were read before, then everything planned.
    ///
    /// # Source
    /// coder `provisioner/terraform/planresources.go`.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// What the template declares.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Both, for keeps.
    pub fn into_parts(self) -> (Vec<Module>, Configuration) {
        (self.modules, self.configuration)
    }

    /// What the planned resources cost and how many AI tasks there are; no graph is needed.
    ///
    /// # Errors
    /// [`ConvertError::Totals`] if a `coder_metadata` is malformed.
    pub fn totals(&self) -> Result<Totals, ConvertError> {
        resources::totals(&self.modules)
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

/// Drops all but data sources. Modules stay, even if nothing is left in them.
fn keep_data(module: &mut Module) {
    module.resources.retain(|resource| resource.mode == "data");
    module.child_modules.iter_mut().for_each(keep_data);
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

        let plan = Plan::parse(plan).unwrap();

        let addresses: Vec<_> = plan
            .modules()
            .iter()
            .flat_map(|module| &module.resources)
            .map(|resource| resource.address.as_str())
            .collect();
        assert_eq!(addresses, ["data.c.d", "a.b"]);
    }
}
