//! Changes that the operator accepts, although they differ from what the mirror first saw.

use std::collections::BTreeSet;

use semver::Version;

use crate::{
    cli::exit::UsageError,
    mirror::sync::config::{self, ModuleEntry, ProviderEntry},
    registry::{DEFAULT_HOST, ProviderAddr},
};

/// A key that the operator accepts.
#[derive(Clone, Debug)]
pub(super) struct AcceptedKey {
    /// Namespace as `HOST/NAMESPACE`, or a program's name; `None` for all.
    pub(super) namespace: Option<String>,
    pub(super) fingerprint: String,
}

/// A version that the operator accepts as it is now.
#[derive(Clone, Debug)]
pub(super) struct AcceptedRelease {
    /// Name as in errors: `ADDRESS@VERSION`.
    pub(super) name: String,
    /// Entry of the configuration for the version; none for a program and for a tag, which mirror.toml or a template
    /// must name.
    pub(super) entry: Option<AcceptedEntry>,
}

/// Configuration of a version whose change is accepted.
#[derive(Clone, Debug)]
pub(super) enum AcceptedEntry {
    Provider(ProviderEntry),
    Module(ModuleEntry),
}

/// Parses a key: `[HOST/NAMESPACE=]FINGERPRINT`.
pub(super) fn key(text: &str) -> Result<AcceptedKey, String> {
    let (namespace, fingerprint) = match text.split_once('=') {
        Some((namespace, fingerprint)) => (Some(namespace), fingerprint),
        None => (None, text),
    };
    let fingerprint = config::fingerprint(fingerprint).ok_or(
        "expected 40 or 64 hexadecimal digits, with HOST/NAMESPACE= before them or without",
    )?;
    let is_program = |name: &str| matches!(name, "terraform" | "tofu");
    let namespace = match namespace {
        None => None,
        Some(name) if is_program(name) => Some(name.to_owned()),
        Some(name) => {
            let any = format!("{name}/any").parse::<ProviderAddr>();
            let any = any.map_err(|_| format!("{name:?} is not of the form HOST/NAMESPACE"))?;
            Some(format!("{}/{}", any.host(), any.namespace()))
        }
    };
    Ok(AcceptedKey {
        namespace,
        fingerprint,
    })
}

/// Parses a version as `ADDRESS@VERSION`.
pub(super) fn release(text: &str) -> Result<AcceptedRelease, String> {
    let wrong = || {
        format!(
            "expected HOST/NAMESPACE/TYPE@VERSION, such as {DEFAULT_HOST}/coder/coder@2.20.0, \
             HOST/NAMESPACE/NAME/SYSTEM@VERSION or HOST/OWNER/REPO@TAG"
        )
    };
    let (name, version) = text.split_once('@').ok_or_else(wrong)?;
    let accepted = |name: String, entry| Ok(AcceptedRelease { name, entry });
    let parsed = version.parse::<Version>().ok();
    if matches!(name, "terraform" | "tofu") {
        parsed.ok_or_else(wrong)?;
        return accepted(text.to_owned(), None);
    }
    // Elsewhere a short name means the public registry; accepting a changed release requires the full name.
    let (host, parts) = (name.split('/').next(), name.split('/').count());
    let is_host = host.is_some_and(|host| host.contains(['.', ':']) || host == "localhost");
    if !is_host || parts < 2 || version.is_empty() || name.split('/').any(str::is_empty) {
        return Err(wrong());
    }
    match (parts, parsed) {
        (3, Some(version)) => match name.parse::<ProviderAddr>() {
            Ok(addr) => {
                let entry = ProviderEntry::of(&addr, &version).map(AcceptedEntry::Provider);
                accepted(format!("{addr}@{version}"), entry)
            }
            Err(_) => accepted(text.to_owned(), None),
        },
        (4, Some(version)) => {
            let entry = ModuleEntry::of(name, &version).map(AcceptedEntry::Module);
            accepted(text.to_owned(), entry)
        }
        _ => accepted(text.to_owned(), None),
    }
}

/// Normalizes the fingerprints of an option.
///
/// # Errors
/// [`UsageError`] with the option's name.
pub(super) fn fingerprints(option: &str, given: &[String]) -> anyhow::Result<BTreeSet<String>> {
    let wrong = |text: &str| {
        UsageError(format!(
            "`{option} {text}`: expected 40 or 64 hexadecimal digits"
        ))
    };
    let read = |text: &String| config::fingerprint(text).ok_or_else(|| wrong(text).into());
    given.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_named_in_full() {
        let digits = "ab".repeat(20);
        let of_one = key(&format!("registry.example/Acme={digits}")).unwrap();
        assert_eq!(of_one.namespace.as_deref(), Some("registry.example/acme"));
        assert_eq!(of_one.fingerprint, digits.to_uppercase());
        assert_eq!(key(&digits).unwrap().namespace, None);
        for wrong in ["", "acme=", "../x=", "registry.example/acme/demo=abc"] {
            assert!(key(&format!("{wrong}{digits}x")).is_err(), "{wrong}");
        }

        let changed = release("registry.example/acme/demo@1.2.0").unwrap();
        assert_eq!(changed.name, "registry.example/acme/demo@1.2.0");
        assert!(changed.entry.is_some() && release("tofu@1.10.7").unwrap().entry.is_none());
        let entry = |text: &str| release(text).unwrap().entry;
        let module = entry("registry.example/acme/hello/coder@1.2.0");
        assert!(matches!(module, Some(AcceptedEntry::Module(_))));
        for tag in ["git.example/acme/mods@v1", "git.example/a/b/c/d@1.2.0"] {
            assert!(entry(tag).is_none(), "{tag}");
        }
        for wrong in [
            "registry.example/acme/demo",
            "demo@1.2.0",
            "acme/demo@1.2.0",
            "registry.example/acme/demo@",
            "registry.example//demo@1.2.0",
            "tofu@new",
        ] {
            assert!(release(wrong).is_err(), "{wrong}");
        }
    }
}
