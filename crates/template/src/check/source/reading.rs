//! Reading of single files, with limits, and complaints about those that do not parse.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use outpost_language as language;

use super::{Broken, File, MAX_FILE_BYTES};
use crate::check::{json, place::Place};

/// Tells whether a name is one of Terraform's language, and not an editor's.
pub(super) fn is_source(name: &str) -> bool {
    let is_editors = name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'));
    (name.ends_with(".tf") || name.ends_with(".tf.json")) && !name.starts_with('.') && !is_editors
}

pub(super) fn is_override(name: &str) -> bool {
    let stem = name.trim_end_matches(".json");
    stem == "override.tf" || stem.ends_with("_override.tf")
}

pub(super) fn read_file(path: &Path, name: &str) -> Result<File, Vec<Broken>> {
    let whole = |message: String| vec![broken(name, "", (1, 1), message)];
    let bytes =
        read_limited(path).map_err(|error| whole(format!("the file cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(whole(format!(
            "the file has more than {} MiB, which no server takes; split it",
            MAX_FILE_BYTES >> 20
        )));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        whole("the file is not UTF-8; change its encoding in your editor".to_owned())
    })?;
    if let Err(error) = language::Module::parse([(name, text.as_str())]) {
        let all = error.diagnostics.into_iter();
        return Err(all
            .map(|one| {
                let message = format!("{}: {}", one.summary, one.detail);
                broken(name, &text, (one.line.max(1), one.column.max(1)), message)
            })
            .collect());
    }
    let native = name
        .ends_with(".json")
        .then(|| json::rewrite(&text))
        .flatten();
    let file = File::new(name.to_owned(), text, native);
    file.ok_or_else(|| {
        whole("the file is not what Terraform expects of its JSON syntax".to_owned())
    })
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would never end, and opening it would wait for whoever writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is neither a file nor a link to one"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A complaint about the rest of a line.
fn broken(name: &str, text: &str, (line, column): (usize, usize), message: String) -> Broken {
    let rest = text.lines().nth(line - 1).unwrap_or_default();
    Broken {
        place: Place {
            file: name.to_owned(),
            line,
            column,
            end_line: line,
            end_column: (rest.chars().count() + 1).max(column),
        },
        message,
        module: String::new(),
    }
}
