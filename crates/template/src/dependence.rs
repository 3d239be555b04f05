//! What a result depends on besides the files of its template: the clock, chance, a network, or files elsewhere.

use std::sync::LazyLock;

use bytes::Bytes;
use regex::Regex;

use crate::check::Sources;

/// Calls whose value differs from run to run, and a data source that reads another place's state.
static VARIES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"\b(?:(?:timestamp|plantimestamp|uuid|bcrypt|abspath|pathexpand)\s*\(|path\s*\.\s*cwd\b|terraform_remote_state\b)",
    )
    .expect("is valid")
});

/// Functions that read files, with their first argument if that is a plain text.
static READS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"\b(?:file[a-z0-9]*|templatefile)\s*\(\s*(\\?"[^"]*")?"#).expect("is valid")
});

/// Tells whether the same text may give another result next time.
pub fn varies(text: &str) -> bool {
    VARIES.is_match(text)
        || READS
            .captures_iter(text)
            .any(|found| !is_inside(found.get(1)))
}

/// Tells whether a file's name leads to one of the template.
fn is_inside(name: Option<regex::Match<'_>>) -> bool {
    let Some(name) = name else {
        return false;
    };
    let name = name.as_str().trim_matches(['\\', '"']);
    let below = ["${path.module}/", "${path.root}/"];
    let own = below.iter().find_map(|start| name.strip_prefix(start));
    let plain = own.unwrap_or(name);
    // What another expression puts in front may be any directory.
    let is_relative = !plain.starts_with(['/', '~']) && (own.is_some() || !plain.starts_with('$'));
    is_relative && !plain.split('/').any(|part| part == "..") && !plain.contains("${\"")
}

/// Tells whether a template may give another result next time: by what it calls, or because a link leads to other files.
pub fn template_varies(sources: &Sources, archive: &Bytes) -> bool {
    let mut files = sources.modules.iter().flat_map(|module| &module.files);
    files.any(|file| varies(&file.text)) || has_links(archive)
}

fn has_links(archive: &Bytes) -> bool {
    let mut reader = tar::Archive::new(archive.as_ref());
    let Ok(mut entries) = reader.entries() else {
        return true;
    };
    entries.any(|entry| entry.is_ok_and(|it| !matches!(it.link_name(), Ok(None))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_chance_and_files_elsewhere_make_a_result_vary() {
        for text in [
            "x = timestamp()",
            "x = formatdate(\"YYYY\", plantimestamp ())",
            "x = uuid()",
            "x = bcrypt(\"a\")",
            "data \"terraform_remote_state\" \"x\" {}",
            "x = file(\"/etc/hostname\")",
            "x = file(\"~/.ssh/id.pub\")",
            "x = file(\"../x\")",
            "x = file(\"${path.module}/../x\")",
            "x = templatefile(var.name, {})",
            "x = filesha256( local.name )",
            "x = fileset(\"${var.dir}/a\", \"*\")",
            "\"x\": \"${file(\\\"/etc/hostname\\\")}\"",
            "x = path.cwd",
            "x = pathexpand(\"~\")",
        ] {
            assert!(varies(text), "{text}");
        }
    }

    #[test]
    fn what_only_a_template_decides_does_not_vary() {
        for text in [
            "x = file(\"${path.module}/start.sh\")",
            "x = templatefile(\"${path.root}/a/b.tftpl\", { x = 1 })",
            "x = file(\"start.sh\")",
            "x = uuidv5(\"dns\", \"a\")",
            "x = formatdate(\"YYYY\", var.day)",
            "my_timestamp = 1",
            "profile(\"x\")",
        ] {
            assert!(!varies(text), "{text}");
        }
    }
}
