//! Misses of a mirror in a sealed site, as entries of a `mirror.toml`: the list that was exported makes the next
//! bundle.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::MirrorConfig;

/// The list in the form that `outpost mirror serve` writes.
#[derive(Deserialize)]
struct List {
    missing: Vec<Miss>,
}

#[derive(Deserialize)]
struct Miss {
    kind: String,
    name: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    platform: Option<String>,
}

/// Adds the items of a list, and returns those that cannot be fetched by their name alone.
///
/// The list may contain nonsense from clients, so names that are not addresses are returned as well.
///
/// # Errors
/// If it is not such a list.
pub fn add(config: &mut MirrorConfig, list: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let list: List = serde_json::from_slice(list)?;
    let mut left = Vec::new();
    for miss in list.missing {
        let versions = [miss.version.as_deref().unwrap_or("newest")];
        let platforms = miss.platform.as_ref().map(|platform| [platform]);
        let name = &miss.name;
        let entry = json!({ "source": name, "versions": versions });
        let is_added = match miss.kind.as_str() {
            "provider" => {
                let entry = with(entry, "platforms", json!(platforms));
                push(&mut config.providers, entry)
            }
            "module" => push(&mut config.modules, entry),
            "tool" => {
                let entry = json!({ "name": name, "versions": versions });
                push(&mut config.tools, entry)
            }
            "git" => {
                let url = match name.contains("://") {
                    true => name.clone(),
                    false => format!("https://{name}"),
                };
                let refs: Vec<_> = miss.version.iter().collect();
                push(&mut config.git, json!({ "url": url, "refs": refs }))
            }
            _ => false,
        };
        if !is_added {
            left.push(format!("{} {name}", miss.kind));
        }
    }
    Ok(left)
}

fn with(mut entry: Value, key: &str, value: Value) -> Value {
    entry[key] = value;
    entry
}

/// Adds an entry as if it were in a `mirror.toml`; returns whether it is valid.
fn push<T: DeserializeOwned>(config: &mut Vec<T>, entry: Value) -> bool {
    let entry = serde_json::from_value(entry);
    entry.map(|entry| config.push(entry)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_wishes_and_what_has_no_name_to_fetch_it_by_is_told() {
        let list = json!({ "missing": [
            { "kind": "provider", "name": "registry.example/acme/demo", "version": "1.1.0",
              "platform": "linux_arm64", "count": 3, "last": "2026-01-01T00:00:00Z" },
            { "kind": "provider", "name": "registry.example/acme/other" },
            { "kind": "module", "name": "registry.example/acme/hello/coder", "version": "1.2.0" },
            { "kind": "git", "name": "git.example/acme/mods.git" },
            { "kind": "git", "name": "git.example/acme/more", "version": "v2" },
            { "kind": "tool", "name": "tofu", "version": "1.10.7" },
            { "kind": "tool", "name": "unheard-of" },
            { "kind": "file", "name": "https://files.example/x" },
            { "kind": "provider", "name": "../../etc/passwd" },
        ]});
        let mut config = MirrorConfig::default();

        let left = add(&mut config, list.to_string().as_bytes()).unwrap();

        let of = [
            config.providers.len(),
            config.modules.len(),
            config.git.len(),
            config.tools.len(),
        ];
        assert_eq!(of, [2, 1, 2, 1]);
        assert_eq!(config.git[1].refs, ["v2"]);
        let platforms = config.providers[0].platforms.as_deref().unwrap();
        assert_eq!(platforms[0].to_string(), "linux_arm64");
        assert_eq!(config.git[0].url, "https://git.example/acme/mods.git");
        let told = [
            "tool unheard-of",
            "file https://files.example/x",
            "provider ../../etc/passwd",
        ];
        assert_eq!(left, told);
        assert!(add(&mut config, b"[]").is_err());
    }
}
