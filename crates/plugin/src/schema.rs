//! Schemas of a provider's blocks, as in HashiCorp's plugin SDK: attributes with defaults and checks.
//!
//! A schema reads like a table: [`required`], [`optional`], [`computed`], [`list`] and [`set`] make a row each.

mod rows;

pub use self::rows::{computed, list, optional, required, set};

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use outpost_value::{Path, Type, Value};

use crate::Diagnostic;

/// A text that is usually constant, and sometimes read from a file.
type Text = Cow<'static, str>;

/// The schema of a resource, a data source or a provider's configuration.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Version of the state, which increases when stored states need to be converted.
    pub version: i64,
    /// Description for the documentation.
    pub description: Text,
    /// Reason for the deprecation; `None` if it is not deprecated.
    pub deprecated: Option<Text>,
    /// Attributes and blocks in any order.
    pub fields: Vec<Field>,
}

impl Schema {
    /// Returns a schema of version 0.
    pub fn new(description: impl Into<Text>, fields: Vec<Field>) -> Self {
        Self {
            version: 0,
            description: description.into(),
            deprecated: None,
            fields,
        }
    }

    /// Sets the version of the state.
    pub fn version(self, version: i64) -> Self {
        Self { version, ..self }
    }

    /// Marks the schema as deprecated.
    pub fn deprecated(self, why: impl Into<Text>) -> Self {
        Self {
            deprecated: Some(why.into()),
            ..self
        }
    }

    /// Adds the `id` that every resource and data source has.
    pub(super) fn with_id(mut self) -> Self {
        if !self.fields.iter().any(|field| field.name == "id") {
            let id = optional("id", Shape::String, "")
                .optional_computed()
                .updatable();
            self.fields.push(id);
        }
        self
    }

    /// Returns the type of a value with this schema.
    pub fn value_type(&self) -> Type {
        object_type(&self.fields)
    }
}

/// An attribute, or all blocks of one name.
#[derive(Clone)]
pub struct Field {
    /// Name of the attribute or block in templates.
    pub name: Text,
    /// Type of the value.
    pub shape: Shape,
    /// Party that sets the attribute: the author, the provider, or either.
    pub(crate) presence: Presence,
    /// Value if it is not set.
    pub default: Option<Default>,
    /// `true` if a change replaces the resource.
    pub force_new: bool,
    /// `true` if Terraform hides the value.
    pub sensitive: bool,
    /// Reason for the deprecation; `None` if it is not deprecated.
    pub deprecated: Option<Text>,
    /// Description for the documentation.
    pub description: Text,
    /// Checks of a single value.
    pub checks: Vec<Check>,
    /// Names, or paths such as `validation.0.min`, of fields that must not be set at the same time.
    pub conflicts: Vec<Text>,
}

/// Function that returns problems of a known value; their paths are relative to it.
pub type Check = Arc<dyn Fn(&Value, &Path) -> Vec<Diagnostic> + Send + Sync>;

/// Party that sets an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The author, who must set it.
    Required,
    /// The author, who may set it.
    Optional,
    /// Only the provider sets it.
    Computed,
    /// The provider sets it if the author does not.
    OptionalComputed,
}

impl Presence {
    /// Returns whether the provider may set it.
    pub(crate) fn is_computed(self) -> bool {
        matches!(self, Self::Computed | Self::OptionalComputed)
    }

    /// Returns whether the author may set it or leave it out.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Optional | Self::OptionalComputed)
    }
}

/// The type of a field's value.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A string of Unicode text.
    String,
    /// A whole number; Terraform itself has only numbers.
    Int,
    /// A number of any kind.
    Number,
    /// A boolean, `true` or `false`.
    Bool,
    /// A map of strings.
    Map,
    /// A list of strings.
    List,
    /// Any other type of an attribute.
    Of(Type),
    /// Nested blocks of one name.
    Block(Block),
}

impl Shape {
    /// Returns the shape of a list of objects with these string attributes, which only a provider can set.
    pub fn objects(attributes: &[&'static str]) -> Self {
        let attributes = attributes.iter().map(|name| (*name, Type::String));
        Self::Of(Type::list(Type::object(attributes)))
    }

    /// Returns the type of a value of this shape.
    pub fn value_type(&self) -> Type {
        match self {
            Self::String => Type::String,
            Self::Int | Self::Number => Type::Number,
            Self::Bool => Type::Bool,
            Self::Map => Type::map(Type::String),
            Self::List => Type::list(Type::String),
            Self::Of(of) => of.clone(),
            Self::Block(block) => match block.nesting {
                Nesting::List => Type::list(object_type(&block.fields)),
                Nesting::Set => Type::set(object_type(&block.fields)),
            },
        }
    }
}

/// Nested blocks of one name.
#[derive(Clone, Debug)]
pub struct Block {
    /// Kind of collection that the blocks form.
    pub nesting: Nesting,
    /// Minimum number of blocks.
    pub min: u32,
    /// Maximum number of blocks; 0 for no limit.
    pub max: u32,
    /// Fields of each block.
    pub fields: Vec<Field>,
}

/// Kind of collection that blocks form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    /// The order of blocks matters.
    List,
    /// The order does not matter, and equal blocks are merged.
    Set,
}

/// The value of an attribute that is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Default {
    /// A string of text.
    String(Text),
    /// A whole number of 64 bits.
    Int(i64),
    /// A boolean, `true` or `false`.
    Bool(bool),
}

impl Default {
    /// Returns the default as a value.
    pub fn value(&self) -> Value {
        match self {
            Self::String(text) => Value::from(text.as_ref()),
            Self::Int(number) => Value::from(*number),
            Self::Bool(flag) => Value::from(*flag),
        }
    }
}

impl From<&'static str> for Default {
    fn from(text: &'static str) -> Self {
        Self::String(text.into())
    }
}

impl From<i64> for Default {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Default {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field")
            .field("name", &self.name)
            .field("shape", &self.shape)
            .field("presence", &self.presence)
            .finish_non_exhaustive()
    }
}

fn object_type(fields: &[Field]) -> Type {
    let attributes: BTreeMap<_, _> = fields
        .iter()
        .map(|field| (field.name.to_string(), field.shape.value_type()))
        .collect();
    Type::object(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_has_the_type_of_its_fields() {
        let volume = vec![
            required("path", Shape::String, ""),
            optional("size", Shape::Int, ""),
        ];
        let schema = Schema::new(
            "",
            vec![
                set("volume", "", volume),
                computed("roles", Shape::objects(&["name"]), ""),
            ],
        );

        let of = schema.with_id().value_type();

        assert_eq!(
            of.to_json().to_string(),
            r#"["object",{"id":"string","roles":["list",["object",{"name":"string"}]],"volume":["set",["object",{"path":"string","size":"number"}]]}]"#
        );
    }
}
