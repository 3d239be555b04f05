//! How a provider describes its blocks, as HashiCorp's plugin SDK knows them: attributes with defaults and checks.
//!
//! A schema reads like a table: [`required`], [`optional`], [`computed`], [`list`] and [`set`] make a row each.

mod rows;

pub use self::rows::{computed, list, optional, required, set};

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use outpost_value::{Path, Type, Value};

use crate::Diagnostic;

/// A text that is mostly written down in the program, and sometimes read from a file.
type Text = Cow<'static, str>;

/// What a resource, a data source or the configuration of a provider looks like.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Of the state: it rises when stored states need to be changed.
    pub version: i64,
    /// For documentation.
    pub description: Text,
    /// Why it should not be used any more.
    pub deprecated: Option<Text>,
    /// Attributes and blocks in any order.
    pub fields: Vec<Field>,
}

impl Schema {
    /// A schema of version zero.
    pub fn new(description: impl Into<Text>, fields: Vec<Field>) -> Self {
        Self {
            version: 0,
            description: description.into(),
            deprecated: None,
            fields,
        }
    }

    /// The same with a version of its states.
    pub fn version(self, version: i64) -> Self {
        Self { version, ..self }
    }

    /// The same, but not to be used any more.
    pub fn deprecated(self, why: impl Into<Text>) -> Self {
        Self {
            deprecated: Some(why.into()),
            ..self
        }
    }

    /// Adds the `id` that every resource and data source has.
    pub(super) fn with_id(mut self) -> Self {
        if !self.fields.iter().any(|field| field.name == "id") {
            let id = optional("id", Shape::String, "").computed_too().updatable();
            self.fields.push(id);
        }
        self
    }

    /// The type of a value with this schema.
    pub fn value_type(&self) -> Type {
        object_type(&self.fields)
    }
}

/// An attribute, or all blocks of one name.
#[derive(Clone)]
pub struct Field {
    /// As templates have it.
    pub name: Text,
    /// What it holds.
    pub shape: Shape,
    /// Who sets it.
    pub presence: Presence,
    /// The value if it is not set.
    pub default: Option<Default>,
    /// Whether a change of it replaces the resource.
    pub force_new: bool,
    /// Whether Terraform hides it.
    pub sensitive: bool,
    /// Why it should not be used any more.
    pub deprecated: Option<Text>,
    /// For documentation.
    pub description: Text,
    /// Whether a value is fine by itself.
    pub checks: Vec<Check>,
    /// Names, or paths such as `validation.0.min`, of what must not be set beside it.
    pub conflicts: Vec<Text>,
}

/// Looks at a known value and says what is wrong with it; its path is put before those of what it finds.
pub type Check = Arc<dyn Fn(&Value, &Path) -> Vec<Diagnostic> + Send + Sync>;

/// Who sets an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The author, always.
    Required,
    /// The author, if at all.
    Optional,
    /// The provider.
    Computed,
    /// The provider, if the author does not.
    OptionalComputed,
}

impl Presence {
    /// Whether the provider may set it.
    pub fn is_computed(self) -> bool {
        matches!(self, Self::Computed | Self::OptionalComputed)
    }

    /// Whether the author may leave it out and may set it.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Optional | Self::OptionalComputed)
    }
}

/// What a field holds.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A text.
    String,
    /// A whole number; for Terraform itself there are numbers only.
    Int,
    /// A number.
    Number,
    /// True or false.
    Bool,
    /// From texts to texts.
    Map,
    /// Of texts.
    List,
    /// Anything else that an attribute can hold.
    Of(Type),
    /// Nested blocks.
    Block(Block),
}

impl Shape {
    /// A list of objects with these attributes of texts, which only a provider can fill.
    pub fn objects(attributes: &[&'static str]) -> Self {
        let attributes = attributes.iter().map(|name| (*name, Type::String));
        Self::Of(Type::list(Type::object(attributes)))
    }

    /// The type of a value of this shape.
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
    /// Whether their order counts.
    pub nesting: Nesting,
    /// How many there must be.
    pub min: u32,
    /// How many there may be; zero for no limit.
    pub max: u32,
    /// What each has.
    pub fields: Vec<Field>,
}

/// Whether the order of blocks counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    /// It does.
    List,
    /// It does not, and equal blocks are one.
    Set,
}

/// The value of an attribute that is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Default {
    /// A text.
    String(Text),
    /// A whole number.
    Int(i64),
    /// A flag.
    Bool(bool),
}

impl Default {
    /// It as a value.
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
