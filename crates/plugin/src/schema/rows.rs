//! The rows of the table that a schema is.

use std::sync::Arc;

use outpost_value::{Path, Value};

use super::{Block, Default, Field, Nesting, Presence, Shape, Text};
use crate::Diagnostic;

/// An attribute that must be set.
pub fn required(name: impl Into<Text>, shape: Shape, description: impl Into<Text>) -> Field {
    Field::new(name, shape, Presence::Required, description)
}

/// An attribute that may be set.
pub fn optional(name: impl Into<Text>, shape: Shape, description: impl Into<Text>) -> Field {
    Field::new(name, shape, Presence::Optional, description)
}

/// An attribute that only the provider sets; that it is yet to be computed replaces nothing.
pub fn computed(name: impl Into<Text>, shape: Shape, description: impl Into<Text>) -> Field {
    Field::new(name, shape, Presence::Computed, description).updatable()
}

/// Blocks whose order counts; any number of them.
pub fn list(name: impl Into<Text>, description: impl Into<Text>, fields: Vec<Field>) -> Field {
    blocks(name, Nesting::List, description, fields)
}

/// Blocks whose order does not count; any number of them.
pub fn set(name: impl Into<Text>, description: impl Into<Text>, fields: Vec<Field>) -> Field {
    blocks(name, Nesting::Set, description, fields)
}

fn blocks(
    name: impl Into<Text>,
    nesting: Nesting,
    description: impl Into<Text>,
    fields: Vec<Field>,
) -> Field {
    let block = Block {
        nesting,
        min: 0,
        max: 0,
        fields,
    };
    optional(name, Shape::Block(block), description)
}

impl Field {
    fn new(
        name: impl Into<Text>,
        shape: Shape,
        presence: Presence,
        description: impl Into<Text>,
    ) -> Self {
        Self {
            name: name.into(),
            shape,
            presence,
            default: None,
            force_new: true,
            sensitive: false,
            deprecated: None,
            description: description.into(),
            checks: Vec::new(),
            conflicts: Vec::new(),
        }
    }

    /// The same with a value for when it is not set.
    pub fn default(self, default: impl Into<Default>) -> Self {
        Self {
            default: Some(default.into()),
            ..self
        }
    }

    /// The same, hidden by Terraform.
    pub fn sensitive(self) -> Self {
        Self {
            sensitive: true,
            ..self
        }
    }

    /// The same, but not to be used any more.
    pub fn deprecated(self, why: impl Into<Text>) -> Self {
        Self {
            deprecated: Some(why.into()),
            ..self
        }
    }

    /// The same, set by the provider if the author does not.
    pub fn computed_too(self) -> Self {
        Self {
            presence: Presence::OptionalComputed,
            ..self
        }
    }

    /// The same, changed in place instead of by a replacement.
    pub fn updatable(self) -> Self {
        Self {
            force_new: false,
            ..self
        }
    }

    /// The same with a check of what is set and known.
    pub fn check(
        mut self,
        check: impl Fn(&Value, &Path) -> Vec<Diagnostic> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// The same, never set beside any of these.
    pub fn conflicts<T: Into<Text>>(self, others: impl IntoIterator<Item = T>) -> Self {
        Self {
            conflicts: others.into_iter().map(Into::into).collect(),
            ..self
        }
    }

    /// The same blocks, at least so many.
    pub fn at_least(mut self, count: u32) -> Self {
        if let Shape::Block(block) = &mut self.shape {
            block.min = count;
        }
        self
    }

    /// The same blocks, at most so many.
    pub fn at_most(mut self, count: u32) -> Self {
        if let Shape::Block(block) = &mut self.shape {
            block.max = count;
        }
        self
    }

    /// Its blocks, if it stands for blocks.
    pub fn block(&self) -> Option<&Block> {
        match &self.shape {
            Shape::Block(block) => Some(block),
            _ => None,
        }
    }
}
