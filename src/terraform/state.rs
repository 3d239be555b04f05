//! The state as `terraform show -json` prints it.

use serde::Deserialize;

use super::plan::{Module, ParseError, Values, check_format};

/// A state.
#[derive(Debug, Deserialize)]
pub struct State {
    #[serde(default)]
    format_version: String,
    pub(super) values: Option<Values>,
}

impl State {
    /// Reads the output of `terraform show -json`.
    ///
    /// # Errors
    /// [`ParseError`] if it is no such thing.
    pub fn parse(json: &[u8]) -> Result<Self, ParseError> {
        let state: Self = serde_json::from_slice(json)?;
        check_format(&state.format_version)?;
        Ok(state)
    }

    /// The modules to convert; none for an empty state.
    pub fn modules(self) -> Vec<Module> {
        self.values
            .into_iter()
            .map(|values| values.root_module)
            .collect()
    }
}
