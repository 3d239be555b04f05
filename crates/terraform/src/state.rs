//! The state in the output of `terraform show -json`. Pure.

use serde::Deserialize;

use super::plan::{Module, ParseError, Values, check_format};

/// A state that was parsed.
#[derive(Debug)]
pub struct State {
    modules: Vec<Module>,
}

#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    format_version: String,
    pub(super) values: Option<Values>,
}

impl State {
    /// Parses the output of `terraform show -json`.
    ///
    /// # Errors
    /// [`ParseError`] if it is not such a document.
    pub fn parse(json: &[u8]) -> Result<Self, ParseError> {
        let document: Document = serde_json::from_slice(json)?;
        check_format(&document.format_version)?;
        let modules = document.values.into_iter().map(|values| values.root_module);
        Ok(Self {
            modules: modules.collect(),
        })
    }

    /// Returns the modules to convert; none for an empty state.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Returns the modules by value.
    pub(crate) fn into_modules(self) -> Vec<Module> {
        self.modules
    }
}
