//! The files of one module: found, read and parsed.

use std::{collections::BTreeMap, io, ops::Range, path::Path};

use hcl_edit::{
    Span,
    expr::Expression,
    structure::{Block, Body},
};
use serde_json::Value;

use super::{
    diagnostic::{Diagnostic, LoadError},
    eval::{self, EvalError, Fuel, Scope},
    files::TemplateFiles,
    json,
};

/// Maximum size of a file in bytes; that of the daemon's archives.
const MAX_FILE_BYTES: u64 = 10 * 1024 * 1024;
/// Maximum number of files in a template's directory.
const MAX_FILES: usize = 10_000;
/// Maximum number of repeated keys of objects in one file, because the file is parsed again for each.
const MAX_REPEATED_KEYS: usize = 32;

/// A module: the `.tf` and `.tf.json` files of one directory, without its children.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Files sorted by name; those that override others come last.
    pub files: Vec<SourceFile>,
}

/// One file of a module.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Name without a directory.
    pub name: String,
    /// Text of the file. Spans are positions in bytes.
    pub text: String,
    /// Parsed contents, without spans if the file is JSON.
    pub body: Body,
    /// `true` if the file is JSON.
    pub is_json: bool,
    /// `true` if its blocks override those of other files: `override.tf`, `*_override.tf`.
    pub is_override: bool,
    /// Offsets of the bytes after line ends, in order.
    line_starts: Vec<usize>,
    /// Real keys of an object that repeat an earlier one, by the position where the key begins, without quotes.
    ///
    /// In the language the last one wins; the parser accepts only unique keys, so it gets other ones.
    pub(super) repeated_keys: BTreeMap<usize, String>,
}

/// A block at the top of a file, with its position.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a> {
    /// File that contains the block.
    pub file: &'a SourceFile,
    /// The block itself, parsed.
    pub block: &'a Block,
    /// Number of the line where it begins, counted from 1. In JSON, its position among the blocks.
    pub line: usize,
}

impl Located<'_> {
    /// Returns the label at `index`, such as the type and the name of a resource.
    pub fn label(&self, index: usize) -> &str {
        self.block
            .labels
            .get(index)
            .map_or("", |label| label.as_str())
    }
}

impl SourceFile {
    /// Parses one file; its name decides about the syntax.
    ///
    /// # Errors
    /// The first problem of the file.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostic> {
        // Terraform ignores the byte order mark that some editors for Windows write.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let is_json = name.ends_with(".json");
        let stem = name.strip_suffix(".json").unwrap_or(name);
        let is_override = stem == "override.tf" || stem.ends_with("_override.tf");
        let (body, repeated_keys) = match is_json {
            true => (json::parse(name, &text)?, BTreeMap::new()),
            false => parse_native(name, &text)?,
        };
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Ok(Self {
            name: name.to_owned(),
            line_starts: ends.map(|(at, _)| at + 1).collect(),
            text,
            body,
            is_json,
            is_override,
            repeated_keys,
        })
    }

    /// Returns the source text of a part of the file; empty in JSON.
    pub fn source(&self, part: &impl Span) -> &str {
        let span = part.span().unwrap_or(0..0);
        self.text.get(span).unwrap_or_default()
    }

    /// Returns the line where a part of the file begins, counted from 1; 0 in JSON.
    pub fn line(&self, part: &impl Span) -> usize {
        part.span()
            .map_or(0, |span| 1 + self.lines_before(span.start))
    }

    /// The value of one of the file's expressions, which may use `variables` and functions.
    ///
    /// # Errors
    /// [`EvalError`] if it has none, or takes too much time or memory.
    pub fn evaluate(
        &self,
        expr: &Expression,
        variables: &BTreeMap<String, Value>,
    ) -> Result<Value, EvalError> {
        let fuel = Fuel::new();
        let scope = Scope::with_variables(variables, &fuel);
        eval::evaluate(expr, &scope.with_repeated_keys(&self.repeated_keys))
    }

    fn lines_before(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Returns an error at a part of the file.
    pub(super) fn error(
        &self,
        part: &impl Span,
        summary: impl Into<String>,
        detail: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::error(summary, detail, &self.name, self.line(part))
    }
}

impl Module {
    /// Returns the blocks of one kind at the top of all files, in the order of files and lines.
    pub fn blocks<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = Located<'a>> {
        self.files.iter().flat_map(move |file| {
            let blocks = file.body.blocks().enumerate();
            blocks
                .filter(move |(_, block)| block.has_ident(kind))
                .map(move |(index, block)| Located {
                    file,
                    block,
                    line: if file.is_json {
                        index + 1
                    } else {
                        file.line(block)
                    },
                })
        })
    }

    /// Parses files that are already in memory, by name and text.
    ///
    /// # Errors
    /// [`LoadError`] with all problems.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, LoadError> {
        let (mut module, mut diagnostics) = (Self::default(), Vec::new());
        for (name, text) in files {
            match SourceFile::parse(name, text) {
                Ok(file) => {
                    diagnostics.extend(wrong_labels(&file));
                    module.files.push(file);
                }
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
        LoadError::check(diagnostics)?;
        module
            .files
            .sort_by(|a, b| (a.is_override, &a.name).cmp(&(b.is_override, &b.name)));
        Ok(module)
    }
}

/// Reads the module in a directory. One without `.tf` files is empty.
///
/// Only `*.tf` and `*.tf.json` are read, but no directories, no hidden files, and no files of editors: `*~`, `#*#`.
///
/// # Errors
/// [`LoadError`] with all problems, including those of the system.
///
/// # Source
/// terraform-config-inspect `tfconfig/load.go`, as Coder's `provisioner/terraform/tfparse` uses it.
pub fn load<F: TemplateFiles + ?Sized>(files: &F) -> Result<Module, LoadError> {
    load_below(files, Path::new(""))
}

/// Reads the module in a directory of a template.
pub(super) fn load_below<F: TemplateFiles + ?Sized>(
    files: &F,
    dir: &Path,
) -> Result<Module, LoadError> {
    let (mut texts, mut diagnostics) = (Vec::new(), Vec::new());
    for name in template_files(files, dir)? {
        match read_text(files, &dir.join(&name)) {
            Ok(text) => texts.push((name, text)),
            Err((summary, detail)) => {
                diagnostics.push(Diagnostic::error(summary, detail, &name, 1));
            }
        }
    }
    let parsed = Module::parse(
        texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    match parsed {
        Err(error) => diagnostics.extend(error.diagnostics),
        Ok(module) if diagnostics.is_empty() => return Ok(module),
        Ok(_) => {}
    }
    diagnostics.sort_by(|a, b| a.file.cmp(&b.file));
    Err(LoadError { diagnostics })
}

fn template_files<F: TemplateFiles + ?Sized>(
    files: &F,
    dir: &Path,
) -> Result<Vec<String>, LoadError> {
    let failed = |error: io::Error| LoadError {
        diagnostics: vec![Diagnostic::error(
            "Failed to read module directory",
            format!(
                "Module directory {} cannot be read: {error}.",
                files.place().join(dir).display()
            ),
            "",
            0,
        )],
    };
    let mut names = Vec::new();
    for (name, is_dir) in files.list(dir).map_err(failed)? {
        // A name that is not UTF-8 cannot have one of the known endings and be referred to.
        let Ok(name) = name.into_string() else {
            continue;
        };
        if is_template(&name) && !is_dir {
            names.push(name);
        }
        if names.len() > MAX_FILES {
            return Err(failed(io::Error::other("it has more than 10,000 files")));
        }
    }
    names.sort();
    Ok(names)
}

fn is_template(name: &str) -> bool {
    let is_editors = name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'));
    (name.ends_with(".tf") || name.ends_with(".tf.json")) && !name.starts_with('.') && !is_editors
}

/// Reads the text of a file. An error consists of a summary and details.
fn read_text<F: TemplateFiles + ?Sized>(
    files: &F,
    path: &Path,
) -> Result<String, (&'static str, String)> {
    let bytes = files.read(path, MAX_FILE_BYTES + 1).map_err(|error| {
        (
            "Failed to read file",
            format!("The file cannot be read: {error}."),
        )
    })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let detail = format!("The file has more than {MAX_FILE_BYTES} bytes. Split it.");
        return Err(("File too long", detail));
    }
    String::from_utf8(bytes).map_err(|_| {
        let detail = "All files of a template must be UTF-8. Change the encoding in your editor.";
        ("Invalid character encoding", detail.to_owned())
    })
}

type RepeatedKeys = BTreeMap<usize, String>;

/// Parses the native syntax. Each repeated key of an object is replaced by another one of the same length.
fn parse_native(name: &str, text: &str) -> Result<(Body, RepeatedKeys), Diagnostic> {
    let (mut text, mut repeated) = (text.to_owned(), BTreeMap::new());
    let mut serial = 0;
    loop {
        let error = match hcl_edit::parser::parse_body(&text) {
            Ok(body) => return Ok((body, repeated)),
            Err(error) => error,
        };
        let is_repeated = error.message().contains("redefined object key");
        let other = match is_repeated && serial < MAX_REPEATED_KEYS {
            true => other_key(&text, error.location().offset(), serial),
            false => None,
        };
        let Some((span, other)) = other else {
            return Err(syntax_error(name, &text, &error));
        };
        let key = text[span.clone()].to_owned();
        repeated.entry(span.start).or_insert(key);
        text.replace_range(span, &other);
        serial += 1;
    }
}

/// Returns the position of a key without its quotes, and a replacement of the same length that hardly any author uses
/// as a key.
fn other_key(text: &str, offset: usize, serial: usize) -> Option<(Range<usize>, String)> {
    let start = offset + usize::from(text.get(offset..)?.starts_with('"'));
    let rest = text.get(start..)?;
    let is_inner = |c: char| c.is_alphanumeric() || "_-./ ".contains(c);
    let length = match start == offset {
        true => rest.find(|c: char| !is_inner(c) || c == ' ')?,
        false => rest.find(|c: char| !is_inner(c))?,
    };
    let other = format!("{serial:_>length$}");
    (other.len() == length).then_some((start..start + length, other))
}

/// Returns a syntax error in the words that authors know from Terraform, where possible.
fn syntax_error(name: &str, text: &str, error: &hcl_edit::parser::Error) -> Diagnostic {
    let line = error.location().line();
    let rest = text.get(error.location().offset()..).unwrap_or_default();
    let (summary, detail) = match rest.trim_start_matches([' ', '\t']).chars().next() {
        Some(';') => (
            "Invalid character",
            "The \";\" character is not valid. Use newlines to separate arguments and blocks, and \
             commas to separate items in collection values."
                .to_owned(),
        ),
        Some('\'') => (
            "Invalid character",
            "Single quotes are not valid. Use double quotes (\") to enclose strings.".to_owned(),
        ),
        Some('`') => (
            "Invalid character",
            "The \"`\" character is not valid. To create a multi-line string, use the \"heredoc\" \
             syntax, like \"<<EOT\"."
                .to_owned(),
        ),
        _ if error.message().contains("unique attribute key") => (
            "Attribute redefined",
            "The argument is set twice in one block. Each argument may be set only once.".to_owned(),
        ),
        None | Some('\n' | '\r' | '}') if error.message().starts_with("invalid structure") => (
            "Invalid block definition",
            "Argument or block definition required: a name must be followed by an equals sign, or by \
             labels and an opening brace."
                .to_owned(),
        ),
        _ => ("Invalid syntax", format!("The source cannot be parsed: {}.", error.message())),
    };
    Diagnostic::error(summary, detail, name, line).column(error.location().column())
}

/// Returns the labels that a block must have, by its kind.
fn label_names(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "resource" | "data" => Some(&["type", "name"]),
        "variable" | "output" | "module" | "provider" => Some(&["name"]),
        "terraform" | "locals" => Some(&[]),
        _ => None,
    }
}

fn wrong_labels(file: &SourceFile) -> Vec<Diagnostic> {
    let wrong = |block: &Block| {
        let kind = block.ident.as_str();
        let names = label_names(kind)?;
        let (expected, list) = (names.len(), names.join(", "));
        let (summary, detail) = match block.labels.len() {
            found if found < expected => (
                format!("Missing {} for {kind}", names[found]),
                format!("All {kind} blocks must have {expected} labels ({list})."),
            ),
            found if found > expected && expected == 0 => (
                format!("Extraneous label for {kind}"),
                format!("No labels are expected for {kind} blocks."),
            ),
            found if found > expected => (
                format!("Extraneous label for {kind}"),
                format!("Only {expected} labels ({list}) are expected for {kind} blocks."),
            ),
            _ => return None,
        };
        Some(file.error(block, summary, detail))
    };
    file.body.blocks().filter_map(wrong).collect()
}

#[cfg(test)]
mod tests;
