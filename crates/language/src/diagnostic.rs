//! Problems of a template's source, in the form in which Coder reports them.

use std::fmt;

/// Severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The template cannot be used.
    Error,
    /// The template can be used nevertheless.
    Warning,
}

/// A problem of a template's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Severity of the problem.
    pub severity: Severity,
    /// Summary in a few words without a full stop.
    pub summary: String,
    /// Details in complete sentences; may be empty.
    pub detail: String,
    /// Path of the file, relative to the template's directory; empty for the directory itself.
    pub file: String,
    /// Number of the line, counted from 1; 0 if unknown.
    pub line: usize,
    /// The column in characters, counted from 1; 0 if unknown.
    pub column: usize,
}

impl Diagnostic {
    /// Returns an error at a position.
    pub(super) fn error(
        summary: impl Into<String>,
        detail: impl Into<String>,
        file: &str,
        line: usize,
    ) -> Self {
        Self {
            severity: Severity::Error,
            summary: summary.into(),
            detail: detail.into(),
            file: file.to_owned(),
            line,
            column: 0,
        }
    }

    /// The same at a column of its line.
    pub(super) fn column(self, column: usize) -> Self {
        Self { column, ..self }
    }
}

/// Maximum width of lines with details, in characters.
const WIDTH: usize = 78;

impl fmt::Display for Diagnostic {
    /// Writes `ERROR: SUMMARY (FILE:LINE)`, then the details in lines that begin with `> `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARN",
        };
        write!(f, "{severity}: {} (", self.summary)?;
        match (self.file.as_str(), self.line) {
            ("", _) => f.write_str("unknown location")?,
            (file, line) => write!(f, "{file}:{line}")?,
        }
        f.write_str(")\n")?;
        if self.detail.is_empty() {
            return Ok(());
        }
        for line in self.detail.split('\n') {
            for wrapped in wrap(line) {
                writeln!(f, "> {wrapped}")?;
            }
        }
        Ok(())
    }
}

/// Breaks a line at spaces; a longer word stays whole.
fn wrap(line: &str) -> Vec<String> {
    let (mut lines, mut current) = (Vec::new(), String::new());
    for word in line.split(' ') {
        let length = current.chars().count() + 1 + word.chars().count();
        if !current.is_empty() && length > WIDTH {
            lines.push(std::mem::take(&mut current));
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    lines.push(current);
    lines
}

/// Returned if a template's source cannot be read. At least one problem is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// All problems, sorted by file.
    pub diagnostics: Vec<Diagnostic>,
}

impl LoadError {
    /// Returns `Err` if there is an error among the problems.
    pub(super) fn check(diagnostics: Vec<Diagnostic>) -> Result<(), Self> {
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        match diagnostics.iter().any(is_error) {
            true => Err(Self { diagnostics }),
            false => Ok(()),
        }
    }
}

impl fmt::Display for LoadError {
    /// Writes all problems, one after the other.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.diagnostics.iter().map(ToString::to_string).collect();
        f.write_str(all.join("\n").trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_place_and_wraps_its_detail() {
        let detail = format!("{} {}\n\nEnd.", "word ".repeat(15).trim(), "longer");
        let diagnostic = Diagnostic::error("Invalid character", detail, "main.tf", 3);

        let expected = format!(
            "ERROR: Invalid character (main.tf:3)\n> {}\n> longer\n> \n> End.\n",
            "word ".repeat(15).trim()
        );
        assert_eq!(diagnostic.to_string(), expected);
    }

    #[test]
    fn problems_follow_each_other_with_an_empty_line_between() {
        let diagnostic = Diagnostic::error("Broken", "", "a.tf", 1);
        let error = LoadError {
            diagnostics: vec![diagnostic.clone(), diagnostic],
        };

        assert_eq!(
            error.to_string(),
            "ERROR: Broken (a.tf:1)\n\nERROR: Broken (a.tf:1)"
        );
    }

    #[test]
    fn warnings_alone_are_no_error() {
        let mut diagnostic = Diagnostic::error("Old", "", "", 0);
        diagnostic.severity = Severity::Warning;

        assert_eq!(diagnostic.to_string(), "WARN: Old (unknown location)\n");
        assert_eq!(LoadError::check(vec![diagnostic]), Ok(()));
    }
}
