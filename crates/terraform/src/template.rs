//! The contents of a template's source, read without running anything.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use outpost_language::{self as language, LoadError, TagError, TemplateFiles};
use outpost_provision::ParseComplete;

/// Maximum size of a README in bytes; a longer one is cut. It is part of a message of at most 4 MiB.
const MAX_README_BYTES: u64 = 1024 * 1024;
const README: &str = "README.md";

/// Reads a template: variables, workspace tags as source text, `README.md`.
///
/// A directory without `.tf` files gives an empty result; init is the step that reports it.
///
/// # Errors
/// [`TemplateError`], whose text is the one that Coder's provisioner gives.
///
/// # Source
/// coder `provisioner/terraform/parse.go`.
pub fn parse_dir<F: TemplateFiles + ?Sized>(files: &F) -> Result<ParseComplete, TemplateError> {
    let module = language::load(files)?;
    // Errors of default values are errors of the source, so they precede those of tags.
    let template_variables = language::variables(&module)?;
    Ok(ParseComplete {
        workspace_tags: language::workspace_tags_raw(&module)?,
        template_variables,
        readme: read_readme(files)?,
    })
}

fn read_readme<F: TemplateFiles + ?Sized>(files: &F) -> Result<Bytes, TemplateError> {
    let name = Path::new(README);
    let listed = files.list(Path::new(""));
    let is_there = |(found, is_dir): (std::ffi::OsString, bool)| found == README && !is_dir;
    if !listed.is_ok_and(|listed| listed.into_iter().any(is_there)) {
        return Ok(Bytes::new());
    }
    match files.read(name, MAX_README_BYTES) {
        Ok(readme) => Ok(readme.into()),
        Err(source) => Err(TemplateError::Readme {
            path: files.place().join(name),
            source,
        }),
    }
}

/// Reason why a template's source cannot be used. The text is complete: it includes the causes.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file cannot be read or parsed.
    #[error("load module:{}{_0}", if .0.diagnostics.len() > 1 { "\n\n" } else { " " })]
    Load(LoadError),
    /// The workspace tags are malformed.
    #[error("can't load workspace tags: {0}")]
    Tags(TagError),
    /// The README cannot be read.
    #[error("failed to read `{}`", .path.display())]
    Readme {
        /// Path of the README.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
}

impl From<LoadError> for TemplateError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl From<TagError> for TemplateError {
    fn from(error: TagError) -> Self {
        Self::Tags(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(files: &[(&str, &str)]) -> Result<ParseComplete, TemplateError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        parse_dir(dir.path())
    }

    #[test]
    fn variables_tags_and_readme_come_together() {
        let parsed = parse(&[
            ("main.tf", "variable \"region\" {\n type = string\n}\n"),
            (
                "tags.tf",
                "data \"coder_workspace_tags\" \"t\" {\n tags = {\n \"zone\" = var.region\n }\n}\n",
            ),
            ("README.md", "# Hello\n"),
        ]);

        let parsed = parsed.unwrap();
        assert_eq!(parsed.template_variables[0].name, "region");
        assert_eq!(parsed.workspace_tags["zone"], "var.region");
        assert_eq!(parsed.readme, "# Hello\n");
    }

    #[test]
    fn a_directory_without_a_template_is_empty() {
        let parsed = parse(&[("any-file.txt", "Foobar")]).unwrap();

        assert!(parsed.template_variables.is_empty() && parsed.workspace_tags.is_empty());
        assert!(parsed.readme.is_empty());
    }

    #[test]
    fn one_error_follows_in_the_same_line() {
        let error = parse(&[("main.tf", "a;sd;ajsd;lajsd;lasjdf;a")])
            .unwrap_err()
            .to_string();

        let expected = "load module: ERROR: Invalid character (main.tf:1)\n> The \";\" character is not valid.";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn several_errors_follow_after_an_empty_line() {
        let error = parse(&[("a.tf", ";"), ("b.tf", "variable {\n}")])
            .unwrap_err()
            .to_string();

        assert!(
            error.starts_with("load module:\n\nERROR: Invalid character (a.tf:1)\n"),
            "{error}"
        );
        assert!(
            error.contains("\n\nERROR: Missing name for variable (b.tf:1)\n"),
            "{error}"
        );
    }

    #[test]
    fn wrong_tags_are_an_error_of_their_own() {
        let error = parse(&[(
            "main.tf",
            "data \"coder_workspace_tags\" \"t\" {\n tags {}\n}\n",
        )]);

        let expected =
            "can't load workspace tags: \"tags\" attribute is required by coder_workspace_tags";
        assert_eq!(error.unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_readme_that_is_no_file_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("README.md")).unwrap();

        assert!(parse_dir(dir.path()).unwrap().readme.is_empty());
    }
}
