//! Functions for the rows of the table that a schema is.

use std::sync::Arc;

use outpost_value::{Path, Value};

use super::{Block, Default, Field, Nesting, Presence, Shape, Text};
use crate::Diagnostic;

/// Returns an attribute that must be set.
pub fn required(name: impl Into<Text>, shape: Shape, description: impl Into<Text>) -> Field {
    Field::new(name, shape, Presence::Required, description)
}

/// Returns an attribute that may be set.
pub fn optional(name: impl Into<Text>, shape: Shape, description: impl Into<Text>) -> Field {
    Field::new(name, shape, Presence::Optional, description)
}

/// Returns an attribute that only the provider sets. An unknown value of it replaces nothing.
pub fn computed(name: impl Into<Text>, shape: Shape, description: impl Into<Text>) -> Field {
    Field::new(name, shape, Presence::Computed, description).updatable()
}

/// Returns any number of blocks whose order matters.
pub fn list(name: impl Into<Text>, description: impl Into<Text>, fields: Vec<Field>) -> Field {
    blocks(name, Nesting::List, description, fields)
}

/// Returns any number of blocks whose order does not matter.
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

    /// Sets the value for an attribute that is not set.
    pub fn default(self, default: impl Into<Default>) -> Self {
        Self {
            default: Some(default.into()),
            ..self
        }
    }

    /// Marks the value as sensitive, so that Terraform hides it.
    pub fn sensitive(self) -> Self {
        Self {
            sensitive: true,
            ..self
        }
    }

    /// Marks the field as deprecated.
    pub fn deprecated(self, why: impl Into<Text>) -> Self {
        Self {
            deprecated: Some(why.into()),
            ..self
        }
    }

    /// Lets the provider set the attribute if the author does not.
    pub fn optional_computed(self) -> Self {
        Self {
            presence: Presence::OptionalComputed,
            ..self
        }
    }

    /// Lets a change update the resource in place instead of replacing it.
    pub(crate) fn updatable(self) -> Self {
        Self {
            force_new: false,
            ..self
        }
    }

    /// Adds a check of a value that is set and known.
    pub fn check(
        mut self,
        check: impl Fn(&Value, &Path) -> Vec<Diagnostic> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// Forbids any of these fields to be set at the same time.
    pub fn conflicts<T: Into<Text>>(self, others: impl IntoIterator<Item = T>) -> Self {
        Self {
            conflicts: others.into_iter().map(Into::into).collect(),
            ..self
        }
    }

    /// Sets the minimum number of blocks.
    pub fn at_least(mut self, count: u32) -> Self {
        if let Shape::Block(block) = &mut self.shape {
            block.min = count;
        }
        self
    }

    /// Sets the maximum number of blocks.
    pub fn at_most(mut self, count: u32) -> Self {
        if let Shape::Block(block) = &mut self.shape {
            block.max = count;
        }
        self
    }

    /// Returns the block, if the field consists of blocks.
    pub fn block(&self) -> Option<&Block> {
        match &self.shape {
            Shape::Block(block) => Some(block),
            _ => None,
        }
    }
}
