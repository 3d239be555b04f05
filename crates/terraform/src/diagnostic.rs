//! Terraform's diagnostics as text for people.
//!
//! # Source
//! coder `provisioner/terraform/diagnostic.go`.

use std::collections::HashSet;

use serde::Deserialize;

/// Maximum number of warnings of one command that are compared with later ones.
const MAX_COMPARED: usize = 1_000;

/// A warning or an error in Terraform's JSON output.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Diagnostic {
    /// Severity: `error` or `warning`.
    pub severity: String,
    /// Summary of the problem.
    pub summary: String,
    /// Details of the problem.
    pub detail: String,
    /// Position in the template, if there is one.
    pub range: Option<Range>,
    /// Source code at the position.
    pub(crate) snippet: Option<Snippet>,
}

/// A range in a file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Range {
    /// Path of the file, relative to the template.
    pub filename: String,
    /// Beginning of the range.
    pub start: Position,
}

/// A position in a file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Position {
    /// Number of the line, counted from 1.
    pub line: u64,
}

/// An excerpt of source code.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Snippet {
    /// Header of the block around it, such as a resource's.
    pub context: Option<String>,
    /// The lines of code.
    pub code: String,
    /// Number of the first line.
    pub(crate) start_line: u64,
    /// Values of expressions in the code.
    pub values: Option<Vec<SnippetValue>>,
}

/// The value of an expression.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SnippetValue {
    /// The expression as written.
    pub traversal: String,
    /// Statement about the expression's value.
    pub(crate) statement: String,
}

impl Diagnostic {
    /// Returns whether it warns that a lock file has a provider's checksums for one platform only.
    pub(crate) fn is_about_lock(&self) -> bool {
        self.summary == "Incomplete lock file information for providers"
    }

    /// Returns whether it warns so about `coder/coder` and about no other provider.
    pub(crate) fn is_about_lock_of_coder(&self) -> bool {
        let named = self
            .detail
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("- "));
        let others = named
            .clone()
            .filter(|provider| !provider.ends_with("coder/coder"));
        self.is_about_lock() && named.count() > 0 && others.count() == 0
    }

    /// Returns position, code, values and details in several lines, without the summary.
    pub fn format(&self) -> String {
        let Some(range) = &self.range else {
            return self.detail.clone();
        };
        let mut text = format!("on {} line {}", range.filename, range.start.line);
        let Some(snippet) = &self.snippet else {
            return format!("{text}:\n  (source code not available)\n\n{}", self.detail);
        };
        if let Some(context) = &snippet.context {
            text.push_str(&format!(", in {context}"));
        }
        text.push_str(":\n");
        for (index, line) in snippet.code.split('\n').enumerate() {
            text.push_str(&format!(
                "  {}: {line}\n",
                snippet.start_line + index as u64
            ));
        }
        let mut values = snippet.values.clone().unwrap_or_default();
        values.sort_by(|a, b| a.traversal.cmp(&b.traversal));
        if !values.is_empty() {
            text.push_str("    ├────────────────\n");
        }
        for value in values {
            text.push_str(&format!("    │ {} {}\n", value.traversal, value.statement));
        }
        text.push('\n');
        text.push_str(&self.detail);
        text
    }

    /// Returns the summary with its position, in one line.
    pub fn brief(&self) -> String {
        match &self.range {
            Some(range) => format!(
                "{} (on {} line {})",
                self.summary, range.filename, range.start.line
            ),
            None => self.summary.clone(),
        }
    }

    /// Returns whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == "error"
    }
}

/// Warnings of one command. An engine prints one for each instance of a block, and again while it plans, with the same
/// text and place; on a terminal it counts them together, but not in JSON.
#[derive(Debug, Default)]
pub(crate) struct Warnings(HashSet<(String, String)>);

impl Warnings {
    /// Returns whether the command has already printed exactly this warning.
    pub(crate) fn has_repeated(&mut self, diagnostic: &Diagnostic) -> bool {
        if diagnostic.is_error() {
            return false;
        }
        let warning = (diagnostic.summary.clone(), diagnostic.format());
        match self.0.len() < MAX_COMPARED {
            true => !self.0.insert(warning),
            false => self.0.contains(&warning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Diagnostic {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_diagnostic_shows_its_place_its_code_and_its_values() {
        let diagnostic = parse(
            r#"{"severity":"error","summary":"Unsupported argument","detail":"No such argument.",
                "range":{"filename":"main.tf","start":{"line":3}},
                "snippet":{"context":"resource \"a\" \"b\"","code":"x = var.y\nz = 1","start_line":3,
                    "values":[{"traversal":"var.z","statement":"is 1"},{"traversal":"var.y","statement":"is \"q\""}]}}"#,
        );

        let expected = "on main.tf line 3, in resource \"a\" \"b\":\n  3: x = var.y\n  4: z = 1\n    ├────────────────\n    \
                        │ var.y is \"q\"\n    │ var.z is 1\n\nNo such argument.";
        assert_eq!(diagnostic.format(), expected);
        assert_eq!(
            diagnostic.brief(),
            "Unsupported argument (on main.tf line 3)"
        );
    }

    #[test]
    fn a_diagnostic_without_code_or_place_says_so() {
        let without_code =
            parse(r#"{"detail":"Hm.","range":{"filename":"a.tf","start":{"line":1}}}"#);
        let without_place = parse(r#"{"detail":"Hm."}"#);

        assert_eq!(
            without_code.format(),
            "on a.tf line 1:\n  (source code not available)\n\nHm."
        );
        assert_eq!(without_place.format(), "Hm.");
    }

    #[test]
    fn a_warning_is_repeated_if_nothing_of_what_people_see_differs() {
        let warning = |severity: &str, line: u64| Diagnostic {
            severity: severity.to_owned(),
            summary: "Deprecated Resource".to_owned(),
            range: Some(Range {
                filename: "main.tf".to_owned(),
                start: Position { line },
            }),
            ..Diagnostic::default()
        };
        let mut warnings = Warnings::default();

        assert!(!warnings.has_repeated(&warning("warning", 1)));
        assert!(warnings.has_repeated(&warning("warning", 1)));
        assert!(!warnings.has_repeated(&warning("warning", 2)));
        assert!(!warnings.has_repeated(&warning("error", 1)));
        assert!(!warnings.has_repeated(&warning("error", 1)));
        for line in 0..2 * MAX_COMPARED as u64 {
            warnings.has_repeated(&warning("warning", line));
        }
        assert_eq!(warnings.0.len(), MAX_COMPARED);
    }

    #[test]
    fn an_incomplete_lock_file_is_news_where_it_is_about_another_provider() {
        let warning = |providers: &str| Diagnostic {
            severity: "warning".to_owned(),
            summary: "Incomplete lock file information for providers".to_owned(),
            detail: format!("…locally for the following providers:\n{providers}\n\nThe current …"),
            ..Diagnostic::default()
        };

        assert!(warning("  - coder/coder").is_about_lock_of_coder());
        assert!(!warning("  - coder/coder\n  - hashicorp/null").is_about_lock_of_coder());
        assert!(!Diagnostic::default().is_about_lock_of_coder());
        assert!(warning("  - hashicorp/null").is_about_lock());
        assert!(!Diagnostic::default().is_about_lock());
    }
}
