//! Schemas of providers as `terraform providers schema -json` prints them.

use std::collections::BTreeMap;

use outpost_value::Type;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Schemas of providers by their addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Schemas {
    /// `registry.terraform.io/kreuzwerker/docker` and so on.
    #[serde(default)]
    pub provider_schemas: BTreeMap<String, ProviderSchema>,
}

/// A file that has no schemas.
#[derive(Debug, thiserror::Error)]
#[error("it is not what `terraform providers schema -json` prints")]
pub struct SchemasError(#[from] serde_json::Error);

/// The schemas of one provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderSchema {
    /// Schema of the provider's configuration.
    #[serde(default)]
    pub provider: Schema,
    /// Schemas of resources by type.
    #[serde(default)]
    pub(crate) resource_schemas: BTreeMap<String, Schema>,
    /// Data sources by type.
    #[serde(default)]
    pub(crate) data_source_schemas: BTreeMap<String, Schema>,
}

/// The attributes and blocks of one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Version of the states that it describes.
    #[serde(default)]
    pub version: i64,
    /// Its attributes and blocks.
    #[serde(default)]
    pub block: Block,
}

/// Attributes and blocks by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Arguments and what is computed.
    #[serde(default)]
    pub attributes: BTreeMap<String, Attribute>,
    /// Blocks inside of it.
    #[serde(default)]
    pub(crate) block_types: BTreeMap<String, Nested>,
    /// Tells whether it should not be used any more.
    #[serde(default)]
    pub(crate) deprecated: bool,
}

/// Attribute of a block, as the engine describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attribute {
    /// In Terraform's notation; null for one that has attributes of its own.
    #[serde(default, rename = "type")]
    pub kind: Json,
    /// The author must set it.
    #[serde(default)]
    pub required: bool,
    /// The author may set it.
    #[serde(default)]
    pub optional: bool,
    /// The provider may set it.
    #[serde(default)]
    pub(crate) computed: bool,
    /// Tells whether Terraform hides it.
    #[serde(default)]
    pub sensitive: bool,
    /// Tells whether it should not be used any more.
    #[serde(default)]
    pub(crate) deprecated: bool,
    /// Elements that a template asks for by index; only in schemas that were inferred.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items: usize,
    /// The type of what is made up for an open one; null for a string. Only in schemas that were inferred.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub like: Json,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Blocks of one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Nested {
    /// `single`, `group`, `list`, `set` or `map`.
    #[serde(default)]
    pub(crate) nesting_mode: String,
    /// The content of each.
    #[serde(default)]
    pub block: Block,
    /// The least number of them.
    #[serde(default)]
    pub(crate) min_items: i64,
    /// The largest number of them; zero for no limit.
    #[serde(default)]
    pub(crate) max_items: i64,
}

impl Schemas {
    /// Reads a file of schemas.
    ///
    /// # Errors
    /// [`SchemasError`] with the line of what is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, SchemasError> {
        Ok(serde_json::from_slice(json)?)
    }
}

impl Block {
    /// The type of a value of this block.
    pub(super) fn value_type(&self) -> Type {
        let attributes = self
            .attributes
            .iter()
            .map(|(name, one)| (name.clone(), one.value_type()));
        let blocks = self
            .block_types
            .iter()
            .map(|(name, one)| (name.clone(), one.value_type()));
        Type::object(attributes.chain(blocks))
    }
}

impl Attribute {
    /// The type of its value. Attributes inside of attributes are left open: they may be left out, which no type says.
    pub(super) fn value_type(&self) -> Type {
        type_of(&self.kind).unwrap_or(Type::Dynamic)
    }

    /// The type of a value that is made up where the schema leaves it open.
    pub(super) fn made_up_type(&self) -> Type {
        match self.value_type() {
            Type::Dynamic => type_of(&self.like).unwrap_or(Type::String),
            known => known,
        }
    }
}

fn type_of(notation: &Json) -> Option<Type> {
    let json = serde_json::to_vec(notation).ok()?;
    Type::from_json(&json).ok()
}

impl Nested {
    pub(super) fn value_type(&self) -> Type {
        let one = self.block.value_type();
        match self.nesting_mode.as_str() {
            "single" | "group" => one,
            "set" => Type::set(one),
            "map" => Type::map(one),
            _ => Type::list(one),
        }
    }
}
