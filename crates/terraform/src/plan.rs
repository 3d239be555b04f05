//! The plan in the output of `terraform show -json`. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    configuration::Configuration,
    resources::{self, ConvertError, Totals},
};

/// Reason why a document of Terraform cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The document is not JSON, or has another structure.
    #[error("decode terraform json")]
    Json(#[from] serde_json::Error),
    /// The document has an unknown format version.
    #[error("terraform json has format version `{version}`, supported are 0.1 and up, below 2.0")]
    Format {
        /// Version in the document; empty for none.
        version: String,
    },
}

/// A plan that was parsed.
#[derive(Debug)]
pub struct Plan {
    modules: Vec<Module>,
    configuration: Configuration,
    /// Planned changes of resources, in Terraform's order.
    pub(crate) resource_changes: Vec<ResourceChange>,
}

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

/// A module with its resources, present or planned.
#[derive(Debug, Default, Deserialize)]
pub struct Module {
    /// Resources of this module, without those of its child modules.
    #[serde(default)]
    pub resources: Vec<ResourceValues>,
    /// Modules that it calls, one entry for each instance.
    #[serde(default)]
    pub(crate) child_modules: Vec<Module>,
    /// Address of the module; empty for the root module.
    #[serde(default)]
    pub address: String,
}

/// One instance of a resource or data source.
#[derive(Debug, Deserialize)]
pub struct ResourceValues {
    /// Address of the instance, with all keys.
    pub address: String,
    /// Mode: `managed` or `data`.
    #[serde(default)]
    pub mode: String,
    /// Type of the resource, such as `docker_container`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Name in the configuration.
    #[serde(default)]
    pub name: String,
    /// Attributes; those that are not known yet are absent.
    #[serde(default, deserialize_with = "null_is_default")]
    pub values: Map<String, Value>,
}

/// Planned change of one instance of a resource.
#[derive(Debug, Deserialize)]
pub struct ResourceChange {
    /// Address of the instance, with all keys.
    #[serde(default)]
    pub address: String,
    /// Type of the resource.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Details of the change.
    pub change: Option<Change>,
}

/// A change of one instance.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Actions, such as `["delete", "create"]`.
    pub actions: Vec<String>,
    /// Present attributes; `null` for none.
    pub before: Value,
    /// Planned attributes, as far as they are known.
    pub after: Value,
    /// Same structure as `after`, with `true` for every value that is not known yet.
    pub(crate) after_unknown: Value,
    /// Same structure as `before`, with `true` for every sensitive value.
    pub(crate) before_sensitive: Value,
    /// Same structure as `after`, with `true` for every sensitive value.
    pub(crate) after_sensitive: Value,
    /// Paths of the attributes that force a replacement: lists of names and indices.
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) replace_paths: Vec<Value>,
}

impl Plan {
    /// Parses the output of `terraform show -json PLANFILE`.
    ///
    /// # Errors
    /// [`ParseError`] if it is not such a document.
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

    /// Returns the modules to convert: data sources that were read before, then everything planned.
    ///
    /// # Source
    /// coder `provisioner/terraform/planresources.go`.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Returns the template's declarations.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Returns modules and configuration by value.
    pub fn into_parts(self) -> (Vec<Module>, Configuration) {
        (self.modules, self.configuration)
    }

    /// Returns the cost of the planned resources and the number of AI tasks, which need no graph.
    ///
    /// # Errors
    /// [`ConvertError::Totals`] if a `coder_metadata` is malformed.
    pub fn totals(&self) -> Result<Totals, ConvertError> {
        resources::totals(&self.modules)
    }
}

/// Refuses format versions that are older or newer than the known ones. An absent version is refused as well.
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

/// Removes everything but data sources. Modules stay, even if they become empty.
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
