//! Terraform's diagnostics as people read them.
//!
//! # Source
//! coder `provisioner/terraform/diagnostic.go`.

use serde::Deserialize;

/// A warning or an error, as Terraform prints it in JSON.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Diagnostic {
    /// `error` or `warning`.
    pub severity: String,
    /// What is wrong.
    pub summary: String,
    /// More about it.
    pub detail: String,
    /// Where; absent if it is nowhere.
    pub range: Option<Range>,
    /// The code there.
    pub snippet: Option<Snippet>,
}

/// A place in a file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Range {
    /// The file, relative to the template.
    pub filename: String,
    /// Where it begins.
    pub start: Position,
}

/// A position in a file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Position {
    /// From 1.
    pub line: u64,
}

/// Some lines of code.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Snippet {
    /// What they are part of, such as a resource's header.
    pub context: Option<String>,
    /// The lines.
    pub code: String,
    /// The number of the first one.
    pub start_line: u64,
    /// Values that expressions in them have.
    pub values: Option<Vec<SnippetValue>>,
}

/// The value of an expression.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SnippetValue {
    /// The expression.
    pub traversal: String,
    /// What is said about its value.
    pub statement: String,
}

impl Diagnostic {
    /// Whether it warns that a lock file has the checksums of a provider for one platform only.
    pub fn is_about_lock(&self) -> bool {
        self.summary == "Incomplete lock file information for providers"
    }

    /// The same, but of `coder/coder` and of no other provider.
    pub fn is_about_lock_of_coder(&self) -> bool {
        let named = self
            .detail
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("- "));
        let others = named
            .clone()
            .filter(|provider| !provider.ends_with("coder/coder"));
        self.is_about_lock() && named.count() > 0 && others.count() == 0
    }

    /// The place, the code, the values and the detail, several lines; the summary is not part of it.
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

    /// The summary with its place, in one line.
    pub fn brief(&self) -> String {
        match &self.range {
            Some(range) => format!(
                "{} (on {} line {})",
                self.summary, range.filename, range.start.line
            ),
            None => self.summary.clone(),
        }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == "error"
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
