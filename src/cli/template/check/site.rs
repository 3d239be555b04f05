//! Facts that only a site knows: what its mirror lacks, and which daemons its server has.

use std::path::Path;

use anyhow::Context;
use url::Url;

use super::Check;
use crate::{
    cli::{engine::NamedMirror, mirror::pull, remote::coder_at},
    client::coder::templates::DEFAULT_ORGANIZATION,
    mirror::{
        Generation,
        doctor::{self, Item, JobEngine, Served, Verdict},
        scan::closure::Closure,
        serve,
        sync::load,
    },
    net::tls::Trust,
    registry::{DEFAULT_HOST, Platform, ProviderAddr},
    template::check::{Daemon, MissingItem, MissingKind, Options},
    terraform::binary::Binary,
};

/// Compares a template with a mirror.
///
/// # Errors
/// If the mirror or the template cannot be read.
pub(super) async fn lacks(
    mirror: &NamedMirror,
    template: &Path,
    options: &Options,
    binary: Option<&Binary>,
    trust: &Trust,
) -> anyhow::Result<Vec<MissingItem>> {
    let host = options.default_host.as_str();
    let platforms = match options.platforms.is_empty() {
        true => vec![Platform::current()],
        false => options.platforms.clone(),
    };
    let (closure, generation) = needed(mirror, template, host, &platforms, trust).await?;
    let engine = engine(&generation, host, binary);
    let items = doctor::examine(&closure, &generation, &platforms, &engine);
    Ok(items.iter().filter_map(|item| lack(item, host)).collect())
}

/// What a template needs, and what a mirror has; of one that is a server, only what the template may need of it.
///
/// # Errors
/// If the mirror or the template cannot be read.
pub(in crate::cli::template) async fn needed(
    mirror: &NamedMirror,
    template: &Path,
    host: &str,
    platforms: &[Platform],
    trust: &Trust,
) -> anyhow::Result<(Closure, Generation)> {
    let tree = load(template)?;
    Ok(match mirror {
        NamedMirror::Directory(store) => {
            let (_, generation) = store.newest()?;
            let closure = doctor::closure(store, &generation, tree, host).await;
            (closure, generation)
        }
        NamedMirror::Served(remote) => {
            let served = Served::new(remote, pull::fetcher(trust)?).await?;
            let closure = served.closure(tree, host).await;
            let generation = served.generation(&closure, platforms).await?;
            (closure, generation)
        }
    })
}

/// The engine that jobs have: one that the mirror must have if it has any of that name, else the one at hand.
fn engine(generation: &Generation, host: &str, binary: Option<&Binary>) -> JobEngine {
    let name = if host == DEFAULT_HOST {
        "terraform"
    } else {
        "tofu"
    };
    let is_mirrored = generation.tools.iter().any(|tool| tool.name == name);
    let at_hand = binary.filter(|_| !is_mirrored);
    JobEngine {
        name,
        versions: at_hand.map(|it| it.version.clone()).into_iter().collect(),
    }
}

/// The lack that an item stands for. The provider `coder/coder` is in every daemon, and what the template itself gets wrong
/// has rules of its own.
fn lack(item: &Item, host: &str) -> Option<MissingItem> {
    let is_lacking = matches!(
        item.verdict,
        Verdict::Missing | Verdict::Unsatisfiable | Verdict::NotMirrorable
    );
    if !is_lacking {
        return None;
    }
    let module = || MissingKind::Module {
        address: item.item.clone(),
        source: item.wanted.clone(),
    };
    let (kind, entry) = match &item.missing {
        Some(missing) if missing.kind == "provider" => {
            let addr = ProviderAddr::parse(&missing.name, host).ok()?;
            if addr.short().ends_with("coder/coder") {
                return None;
            }
            (MissingKind::Provider(addr), entry(missing))
        }
        Some(missing) if missing.kind == "tool" => {
            (MissingKind::Engine(missing.name.clone()), entry(missing))
        }
        Some(missing) => (module(), entry(missing)),
        None if item.verdict == Verdict::NotMirrorable => (module(), String::new()),
        None => return None,
    };
    Some(MissingItem {
        kind,
        detail: item.detail.clone(),
        entry,
    })
}

/// The section of a `mirror.toml` that makes `sync` fetch an item.
fn entry(missing: &serve::Item) -> String {
    let version = missing.version.as_deref();
    let versions = version.unwrap_or("newest");
    let name = &missing.name;
    match missing.kind {
        "provider" => {
            let platform = missing.platform.as_ref();
            let platforms =
                platform.map_or_else(String::new, |it| format!(" and `platforms = [\"{it}\"]`"));
            format!(
                "`[[providers]]` with `source = \"{name}\"`, `versions = [\"{versions}\"]`{platforms}"
            )
        }
        "module" => {
            format!("`[[modules]]` with `source = \"{name}\"`, `versions = [\"{versions}\"]`")
        }
        "tool" => format!(
            "`[[tools]]` with `name = \"{name}\"` and a version that satisfies `{versions}`"
        ),
        "git" => {
            let refs = version.map_or_else(String::new, |it| format!(", `refs = [\"{it}\"]`"));
            format!("`[[git]]` with `url = \"https://{name}\"`{refs}")
        }
        _ => format!("`[[files]]` with `url = \"https://{name}\"`"),
    }
}

/// Asks a server for its daemons.
///
/// # Errors
/// If there is no token, or the server refuses.
pub(super) async fn daemons(args: &Check, server: &Url) -> anyhow::Result<Vec<Daemon>> {
    let coder = coder_at(
        server,
        args.server_token_file.as_deref(),
        &args.trust.trust(),
    )?;
    let listed = coder.daemons(DEFAULT_ORGANIZATION).await;
    let listed = listed.with_context(|| format!("`--server {server}`"))?;
    let daemon = |daemon: crate::client::coder::ListedDaemon| Daemon {
        name: daemon.name,
        tags: daemon.tags,
    };
    Ok(listed.into_iter().map(daemon).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_a_mirror_lacks_names_the_entry_that_sync_needs() {
        let item = |verdict, missing| Item {
            item: "module.ide".to_owned(),
            wanted: "acme/ide/coder".to_owned(),
            verdict,
            detail: "not in the mirror".to_owned(),
            missing,
        };
        let missing = |kind, name: &str, version: Option<&str>| {
            Some(serve::Item {
                kind,
                name: name.to_owned(),
                version: version.map(str::to_owned),
                platform: None,
            })
        };
        let entry = |item: Item| lack(&item, DEFAULT_HOST).map(|lack| lack.entry);

        let docker = missing(
            "provider",
            "registry.terraform.io/kreuzwerker/docker",
            Some("~> 3.0"),
        );
        let found = entry(item(Verdict::Missing, docker)).unwrap();
        assert!(
            found.contains("[[providers]]") && found.contains("\"~> 3.0\""),
            "{found}"
        );
        let git = missing("git", "git.example/acme/m.git", Some("v1"));
        let found = entry(item(Verdict::Missing, git)).unwrap();
        assert!(
            found.contains("https://git.example/acme/m.git") && found.contains("v1"),
            "{found}"
        );
        assert_eq!(
            entry(item(Verdict::NotMirrorable, None)).as_deref(),
            Some("")
        );
        let coder = missing("provider", "registry.terraform.io/coder/coder", None);
        assert_eq!(entry(item(Verdict::Missing, coder)), None);
        assert_eq!(entry(item(Verdict::Present, None)), None);
        assert_eq!(entry(item(Verdict::Invalid, None)), None);
    }
}
