//! Diagnostics of a provider about a template.

use outpost_value::Path;

/// Effect of a diagnostic on Terraform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Terraform stops with a failure.
    Error,
    /// Terraform shows the message and continues.
    Warning,
}

/// A message that Terraform shows to the author of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Effect of the diagnostic on Terraform.
    pub severity: Severity,
    /// Summary in one line.
    pub summary: String,
    /// Details of the problem; may be empty.
    pub detail: String,
    /// Path of the attribute or block at fault; the root for the block as a whole.
    pub path: Path,
}

impl Diagnostic {
    /// Returns an error about a block as a whole.
    pub fn error(summary: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            summary: summary.into(),
            detail: String::new(),
            path: Path::root(),
        }
    }

    /// Returns a warning about a block as a whole.
    pub fn warning(summary: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(summary)
        }
    }

    /// Adds details to the diagnostic.
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..self
        }
    }

    /// Sets the attribute or block at fault.
    pub fn at(self, path: impl Into<Path>) -> Self {
        Self {
            path: path.into(),
            ..self
        }
    }
}

/// Errors and warnings, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Returns an empty list of diagnostics.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|one| one.severity == Severity::Error)
    }

    /// Appends a diagnostic to the list.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self(vec![one])
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<T: IntoIterator<Item = Diagnostic>>(diagnostics: T) -> Self {
        Self(diagnostics.into_iter().collect())
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<T: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: T) {
        self.0.extend(diagnostics);
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
