//! Templates without provisioners, so that nothing of them runs: `local-exec` and its like are blanked in a session's copy.

use std::{
    io::{self, Write as _},
    path::{Component, Path, PathBuf},
};

use hcl_edit::Span as _;
use outpost_files::beneath::{Dir, Kind};
use outpost_language::SourceFile;
use serde_json::Value;

/// Maximum number of files and directories of a template and its modules.
const MAX_ENTRIES: usize = 100_000;
/// Maximum size of one file in bytes; archives of templates have none that is larger.
const MAX_FILE_BYTES: u64 = 10 << 20;

/// Endings of the files that engines read.
const ENDINGS: [&str; 4] = [".tf", ".tf.json", ".tofu", ".tofu.json"];

/// Packages of providers: links to where all sessions have them.
const PACKAGES: &str = ".terraform/providers";

const PROVISIONER: &str = "provisioner";

/// Blanks all provisioners in the files of `dir`, a session's own copy of a template and its modules.
///
/// # Errors
/// If a file cannot be read, parsed or written: an engine might then run what is in it.
pub(super) fn blank_provisioners(dir: &Path) -> io::Result<()> {
    let root = Dir::open(dir)?;
    let (mut open, mut seen) = (vec![PathBuf::new()], 0_usize);
    while let Some(inner) = open.pop() {
        for (name, kind) in root.list(&inner)? {
            seen += 1;
            if seen > MAX_ENTRIES {
                return Err(io::Error::other(
                    "the template and its modules have too many files",
                ));
            }
            let path = inner.join(name);
            match kind {
                Kind::Directory if path != Path::new(PACKAGES) => open.push(path),
                Kind::File if is_template(&path) => blank(&root, &path)?,
                Kind::Link => refuse_outside(&root, &path)?,
                Kind::Directory | Kind::File | Kind::Other => {}
            }
        }
    }
    Ok(())
}

/// Refuses a link to what may not be blanked itself: one that leads anywhere but below its own directory.
fn refuse_outside(root: &Dir, link: &Path) -> io::Result<()> {
    let target = root.read_link(link)?.unwrap_or_default();
    let is_below = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    match target.components().all(is_below) {
        true => Ok(()),
        false => {
            let text = format!(
                "`{}` is a link that leads out of its directory",
                link.display()
            );
            Err(io::Error::other(text))
        }
    }
}

fn is_template(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn blank(root: &Dir, path: &Path) -> io::Result<()> {
    let failed = |reason: &str| io::Error::other(format!("`{}`: {reason}", path.display()));
    let content = root.read(path, MAX_FILE_BYTES)?.unwrap_or_default();
    let text = String::from_utf8(content).map_err(|_| failed("the file is not UTF-8"))?;
    let is_json = path.extension().is_some_and(|ending| ending == "json");
    // In JSON a letter of a name can be written as an escape.
    if !is_json && !text.contains(PROVISIONER) {
        return Ok(());
    }
    let blanked = match is_json {
        true => without_provisioners_in_json(&text).map_err(|error| failed(&error.to_string()))?,
        false => without_provisioners(&text).map_err(|error| failed(&error))?,
    };
    root.create(path, 0o600)?.write_all(blanked.as_bytes())
}

/// Each provisioner becomes blanks, so that lines and columns of the rest stay what they were.
fn without_provisioners(text: &str) -> Result<String, String> {
    let file = SourceFile::parse("main.tf", text).map_err(|error| error.to_string())?;
    let mut blanked = file.text.clone();
    for block in file.body.blocks() {
        for provisioner in block.body.get_blocks(PROVISIONER) {
            let span = provisioner
                .span()
                .ok_or("a provisioner is at an unknown place")?;
            let part = &file.text[span.clone()];
            let blanks: String = part
                .bytes()
                .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
                .collect();
            blanked.replace_range(span, &blanks);
        }
    }
    Ok(blanked)
}

fn without_provisioners_in_json(text: &str) -> serde_json::Result<String> {
    let mut document: Value = serde_json::from_str(text)?;
    // A document may be a list of such objects, too.
    each(&mut document, &mut |document| {
        if let Some(resources) = document.get_mut("resource") {
            remove(resources, 2);
        }
        if let Some(removed) = document.get_mut("removed") {
            remove(removed, 0);
        }
    });
    serde_json::to_string(&document)
}

/// The members of a list, or the value itself.
fn each(value: &mut Value, act: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(act),
        other => act(other),
    }
}

/// Removes provisioners from the bodies that lie so many labels deep.
fn remove(value: &mut Value, labels: usize) {
    each(value, &mut |value| {
        let Some(object) = value.as_object_mut() else {
            return;
        };
        match labels {
            0 => drop(object.remove(PROVISIONER)),
            _ => object
                .values_mut()
                .for_each(|inner| remove(inner, labels - 1)),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provisioners_are_blanked_and_everything_else_stays_in_its_place() {
        let text = "resource \"a\" \"b\" {\n  provisioner \"local-exec\" {\n    command = \"ö\"\n  }\n  x = 1\n}\n";

        let blanked = without_provisioners(text).unwrap();

        assert!(!blanked.contains(PROVISIONER) && !blanked.contains("command"));
        assert_eq!(blanked.lines().count(), text.lines().count());
        assert_eq!(blanked.lines().nth(4), Some("  x = 1"));
    }

    #[test]
    fn json_loses_provisioners_of_resources_only() {
        let text = r#"{"resource": {"a": [{"b": {"x": {"provisioner": 1}, "provi\u0073ioner": [{"local-exec": {}}]}}]},
            "locals": {"provisioner": 1}}"#;

        let blanked: Value =
            serde_json::from_str(&without_provisioners_in_json(text).unwrap()).unwrap();

        let expected = serde_json::json!({
            "resource": {"a": [{"b": {"x": {"provisioner": 1}}}]},
            "locals": {"provisioner": 1},
        });
        assert_eq!(blanked, expected);
    }

    #[test]
    fn a_link_that_leads_out_is_refused() {
        let (dir, outside) = (
            tempfile::TempDir::new().unwrap(),
            tempfile::TempDir::new().unwrap(),
        );
        std::fs::write(dir.path().join("main.tf"), "locals {\n}\n").unwrap();
        assert!(blank_provisioners(dir.path()).is_ok());

        std::os::unix::fs::symlink(outside.path(), dir.path().join("module")).unwrap();

        assert!(blank_provisioners(dir.path()).is_err());
    }
}
