//! Providers of a template: jobs with the same ones need about the same memory.

use std::{collections::BTreeSet, io::Read as _};

use outpost_language::{self as language, Module, lock};

/// Bytes of one file that are read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Returns the providers of a template, sorted. `unknown` if it does not declare any.
pub(super) fn of_template(archive: &[u8]) -> String {
    let files = files(archive);
    let locked = files.iter().find(|(name, _)| name == lock::FILE_NAME);
    let locked = locked.and_then(|(_, text)| lock::Lock::parse(text).ok());
    let mut names: BTreeSet<String> = match locked {
        Some(lock) => lock.providers.keys().map(ToString::to_string).collect(),
        None => required(&files).unwrap_or_default(),
    };
    if names.is_empty() {
        names.insert("unknown".to_owned());
    }
    names.into_iter().collect::<Vec<_>>().join(" ")
}

fn required(files: &[(String, String)]) -> Option<BTreeSet<String>> {
    let sources = files.iter().filter(|(name, _)| name != lock::FILE_NAME);
    let sources = sources.map(|(name, text)| (name.as_str(), text.as_str()));
    let module = Module::parse(sources).ok()?;
    let providers = language::required_providers(&module, "registry.terraform.io").ok()?;
    Some(providers.iter().map(|it| it.addr.to_string()).collect())
}

/// Returns the files of the root module that name providers. Unreadable ones are skipped: init will report them.
fn files(archive: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut archive = tar::Archive::new(archive);
    let Ok(entries) = archive.entries() else {
        return found;
    };
    for entry in entries {
        let Ok(entry) = entry else {
            break;
        };
        let Ok(path) = entry.path() else {
            continue;
        };
        let name = path.to_string_lossy().trim_start_matches("./").to_owned();
        let is_wanted = name == lock::FILE_NAME || name.ends_with(".tf");
        if !is_wanted || name.contains('/') {
            continue;
        }
        let mut text = String::new();
        if entry.take(MAX_FILE_BYTES).read_to_string(&mut text).is_ok() {
            found.push((name, text));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_cksum();
            builder
                .append_data(&mut header, name, text.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_lock_file_says_it_and_otherwise_the_template_does() {
        let main = "terraform {\n  required_providers {\n    coder = {\n      source = \"coder/coder\"\n    }\n  }\n}\n\
            resource \"null_resource\" \"x\" {}\n";
        let lock = "provider \"registry.terraform.io/hashicorp/aws\" {\n  version = \"5.0.0\"\n}\n";

        let named = of_template(&archive(&[("main.tf", main), ("README.md", "x")]));
        let locked = of_template(&archive(&[("main.tf", main), (lock::FILE_NAME, lock)]));

        assert_eq!(
            named,
            "registry.terraform.io/coder/coder registry.terraform.io/hashicorp/null"
        );
        assert_eq!(locked, "registry.terraform.io/hashicorp/aws");
    }

    #[test]
    fn what_is_no_template_is_a_class_of_its_own() {
        assert_eq!(of_template(b"tar"), "unknown");
        assert_eq!(of_template(&archive(&[("main.tf", "{{{")])), "unknown");
    }
}
