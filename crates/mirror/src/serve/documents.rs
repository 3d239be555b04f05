//! The documents of the registry and network mirror protocols, made from a generation. Pure: no socket, no file.

use std::collections::{BTreeMap, BTreeSet};

use outpost_base::registry::Platform;
use outpost_provision::Services;
use semver::Version;
use serde_json::{Map, Value, json};
use url::Url;

use super::links::Links;
use crate::{
    Digest,
    fetch::registry::Offered,
    generation::{
        Generation, GitRepository, Module, Package, Provider, PublisherKey, Signed, StaticFile,
        Tool,
    },
    git,
    scan::landing::same_query,
    sync::Release,
};

/// A provider in a request: host, namespace and type.
pub(super) struct Asked<'a>(pub(super) &'a str, pub(super) &'a str, pub(super) &'a str);

impl Asked<'_> {
    pub(super) fn of<'g>(&self, generation: &'g Generation) -> impl Iterator<Item = &'g Provider> {
        let providers = generation.providers.iter();
        providers.filter(|p| {
            (self.0, self.1, self.2) == (p.addr.host(), p.addr.namespace(), p.addr.kind())
        })
    }
}

/// Returns the hosts that this generation can replace, with the services of a CLI configuration's `host` block, as
/// paths.
pub(super) fn services(generation: &Generation) -> Services {
    let mut hosts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    // The registry protocol cannot offer providers without a signature.
    let signed = generation.providers.iter().filter(|p| p.signed.is_some());
    for provider in signed {
        hosts
            .entry(provider.addr.host())
            .or_default()
            .insert("providers");
    }
    for module in &generation.modules {
        let host = module.addr.split('/').next().unwrap_or_default();
        hosts.entry(host).or_default().insert("modules");
    }
    let services = |(host, kinds): (&str, BTreeSet<&str>)| {
        let urls = kinds.into_iter().map(|kind| {
            let url = format!("/v1/{kind}/{host}/");
            (format!("{kind}.v1"), url)
        });
        (host.to_owned(), urls.collect())
    };
    hosts.into_iter().map(services).collect()
}

/// Returns `NAMESPACE/TYPE/versions` of the provider registry protocol; `None` if there is no such provider.
///
/// `offered` contains the versions that a registry has beyond that.
pub(super) fn provider_versions(
    generation: &Generation,
    asked: &Asked<'_>,
    offered: &[Offered],
) -> Option<Value> {
    let platform = |p: &Platform| json!({ "os": p.os, "arch": p.arch });
    let version = |p: &Provider| {
        let platforms: Vec<_> = p.packages.iter().map(|p| platform(&p.platform)).collect();
        json!({ "version": p.version, "protocols": protocols(&p.protocols), "platforms": platforms })
    };
    let beyond = |o: &Offered| {
        let platforms: Vec<_> = o.platforms.iter().map(platform).collect();
        json!({ "version": o.version, "protocols": protocols(&o.protocols), "platforms": platforms })
    };
    let is_offered = |p: &&Provider| offered.iter().any(|o| o.version == p.version);
    let own = asked
        .of(generation)
        .filter(|p| p.signed.is_some() && !is_offered(p));
    let versions: Vec<_> = own.map(version).chain(offered.iter().map(beyond)).collect();
    (!versions.is_empty()).then(|| json!({ "versions": versions, "warnings": null }))
}

/// Returns a version of a provider for one platform.
pub(super) fn find_package<'g>(
    generation: &'g Generation,
    asked: &Asked<'_>,
    version: &str,
    platform: &Platform,
) -> Option<(&'g Provider, &'g Package)> {
    let provider = asked
        .of(generation)
        .find(|p| p.version.to_string() == version)?;
    let mut packages = provider.packages.iter();
    let package = packages.find(|p| p.platform == *platform)?;
    Some((provider, package))
}

/// Returns the answer to `VERSION/download/OS/ARCH`. `keys` are the publisher's armored keys, in the order of
/// `signed`.
///
/// The publisher's signature is passed on, so that the engine verifies it as it would at the origin, and locks all
/// platforms.
pub(super) fn download(
    provider: &Provider,
    signed: &Signed,
    package: &Package,
    keys: &[String],
    links: &Links<'_>,
) -> Value {
    let keys = published(signed, keys);
    // OpenTofu 1.12 and newer lock all of these.
    let hashes = |p: &Package| {
        let hashes = json!({ "hashes": hashes(p), "package_size": p.size });
        (p.platform.to_string(), hashes)
    };
    let packages: Map<_, _> = provider.packages.iter().map(hashes).collect();
    json!({
        "protocols": protocols(&provider.protocols),
        "os": package.platform.os,
        "arch": package.platform.arch,
        "filename": package.filename,
        "download_url": links.blob(package.archive, &package.filename),
        "shasum": package.archive,
        "shasums_url": links.blob(signed.shasums, "SHA256SUMS"),
        "shasums_signature_url": links.blob(signed.signature, "SHA256SUMS.sig"),
        "signing_keys": { "gpg_public_keys": keys },
        "packages": packages,
    })
}

/// Returns the publisher's keys in the registry's form. `armored` has the same order.
fn published(signed: &Signed, armored: &[String]) -> Vec<Value> {
    let key = |(key, armored): (&PublisherKey, &String)| {
        json!({
            "key_id": key.id, "ascii_armor": armored, "trust_signature": key.trust_signature,
            "source": "", "source_url": "",
        })
    };
    signed.keys.iter().zip(armored).map(key).collect()
}

/// Returns the protocol versions; sources that do not list any get the version that all engines support.
fn protocols(known: &[String]) -> Vec<&str> {
    match known.is_empty() {
        true => vec!["5.0"],
        false => known.iter().map(String::as_str).collect(),
    }
}

/// Returns the same answer for a package that a registry has and the mirror lacks; `None` if it is not signed, or
/// does not exist for the platform.
pub(super) fn pulled(release: &Release, platform: &Platform, links: &Links<'_>) -> Option<Value> {
    let (filename, archive) = release.packages.get(platform)?;
    let signed = release.signed.as_ref()?;
    let keys = published(signed, &release.keys);
    Some(json!({
        "protocols": protocols(&release.protocols),
        "os": platform.os,
        "arch": platform.arch,
        "filename": filename,
        "download_url": links.blob(*archive, filename),
        "shasum": archive,
        "shasums_url": links.blob(signed.shasums, "SHA256SUMS"),
        "shasums_signature_url": links.blob(signed.signature, "SHA256SUMS.sig"),
        "signing_keys": { "gpg_public_keys": keys },
    }))
}

/// Returns the checksums of a package. Engines stop at the first one that they support: `zh:` is that of the archive
/// as downloaded, while `h1:` makes them unpack the archive twice.
fn hashes(package: &Package) -> [String; 2] {
    [package.archive.zh().to_string(), package.h1_zip.to_string()]
}

/// Returns `index.json` of the network mirror protocol.
pub(super) fn mirror_index(
    generation: &Generation,
    asked: &Asked<'_>,
    offered: &[Offered],
) -> Option<Value> {
    let own = asked.of(generation).map(|p| &p.version);
    let versions = own.chain(offered.iter().map(|o| &o.version));
    let versions: Map<_, _> = versions.map(|v| (v.to_string(), json!({}))).collect();
    (!versions.is_empty()).then(|| json!({ "versions": versions }))
}

/// Returns `VERSION.json` of the network mirror protocol.
pub(super) fn mirror_version(
    generation: &Generation,
    asked: &Asked<'_>,
    version: &str,
    release: Option<&Release>,
    links: &Links<'_>,
) -> Option<Value> {
    let mut provider = asked.of(generation);
    let provider = provider.find(|p| p.version.to_string() == version);
    let mut archives = Map::new();
    for (platform, (filename, archive)) in release.iter().flat_map(|release| &release.packages) {
        let (url, hash) = (links.blob(*archive, filename), archive.zh().to_string());
        let archive = json!({ "url": url, "hashes": [hash] });
        archives.insert(platform.to_string(), archive);
    }
    for package in provider.iter().flat_map(|provider| &provider.packages) {
        let url = links.blob(package.archive, &package.filename);
        let archive = json!({ "url": url, "hashes": hashes(package) });
        archives.insert(package.platform.to_string(), archive);
    }
    (!archives.is_empty()).then(|| json!({ "archives": archives }))
}

/// Returns `NAMESPACE/NAME/SYSTEM/versions` of the module registry protocol. `addr` begins with the host.
///
/// `offered` contains the versions that a registry has beyond that.
pub(super) fn module_versions(
    generation: &Generation,
    addr: &str,
    offered: &[Version],
) -> Option<Value> {
    let modules = generation.modules.iter().filter(|m| m.addr == addr);
    let all: BTreeSet<_> = modules.map(|m| &m.version).chain(offered).collect();
    let versions: Vec<_> = all.into_iter().map(|v| json!({ "version": v })).collect();
    (!versions.is_empty()).then(|| json!({ "modules": [{ "source": addr, "versions": versions }] }))
}

/// Returns the address of a module in go-getter's form, with a checksum that go-getter verifies before it unpacks the
/// archive.
pub(super) fn module_location(
    generation: &Generation,
    addr: &str,
    version: &str,
    links: &Links<'_>,
) -> Option<String> {
    let found = |m: &&Module| m.addr == addr && m.version.to_string() == version;
    let module = generation.modules.iter().find(found)?;
    let archive = module.archive;
    let url = links.blob(archive, "module.tar.gz");
    let (path, query) = match url.split_once('?') {
        Some((path, query)) => (path, format!("{query}&")),
        None => (url.as_str(), String::new()),
    };
    // The double slash makes the engine unpack the whole archive and use a directory of it.
    let dir = match module.dir.as_str() {
        "" => String::new(),
        dir => format!("//{dir}"),
    };
    Some(format!("{path}{dir}?{query}checksum=sha256:{archive}"))
}

/// Returns the versions of a program in the form of `releases.hashicorp.com`; `None` if there is none.
pub(super) fn releases(generation: &Generation, name: &str) -> Option<Value> {
    let tools: Vec<&Tool> = tools(generation, name).collect();
    let versions = tools.chunk_by(|a, b| a.version == b.version);
    let versions: Map<_, _> = versions
        .map(|of_one| (of_one[0].version.to_string(), release_of(of_one)))
        .collect();
    (!versions.is_empty()).then(|| json!({ "name": name, "versions": versions }))
}

/// Returns one version of a program in the same form.
pub(super) fn release(generation: &Generation, name: &str, version: &str) -> Option<Value> {
    let tools = tools(generation, name).filter(|tool| tool.version.to_string() == version);
    let tools: Vec<&Tool> = tools.collect();
    (!tools.is_empty()).then(|| release_of(&tools))
}

/// Returns a file of a release: an archive, the checksums, or their signature.
pub(super) fn release_file(
    generation: &Generation,
    name: &str,
    version: &str,
    file: &str,
) -> Option<Digest> {
    let mut tools = tools(generation, name).filter(|tool| tool.version.to_string() == version);
    tools.find_map(|tool| {
        if tool.filename == file {
            return Some(tool.archive);
        }
        let signed = tool.signed.as_ref()?;
        let rest = file.strip_prefix(&format!("{name}_{version}_SHA256SUMS"))?;
        match rest {
            "" => Some(signed.shasums),
            // The name may contain the id of the signing key.
            _ if rest.ends_with(".sig") => Some(signed.signature),
            _ => None,
        }
    })
}

fn tools<'g>(generation: &'g Generation, name: &'g str) -> impl Iterator<Item = &'g Tool> {
    generation
        .tools
        .iter()
        .filter(move |tool| tool.name == name)
}

/// Returns one version with its packages.
///
/// # Source
/// The addresses are paths below the site: hc-install 0.8 and later append the path to their base URL, and take no other
/// part of an address. Earlier ones put it at the root of the server.
fn release_of(tools: &[&Tool]) -> Value {
    let (name, version) = (&tools[0].name, &tools[0].version);
    let build = |tool: &&Tool| {
        let (os, arch, file) = (&tool.platform.os, &tool.platform.arch, &tool.filename);
        json!({
            "name": name, "version": version, "os": os, "arch": arch, "filename": file,
            "url": format!("/{name}/{version}/{file}"),
        })
    };
    let builds: Vec<_> = tools.iter().map(build).collect();
    let sums = format!("{name}_{version}_SHA256SUMS");
    let mut release = json!({ "name": name, "version": version, "builds": builds });
    if tools.iter().any(|tool| tool.signed.is_some()) {
        let signature = format!("{sums}.sig");
        release["shasums_signatures"] = json!([&signature]);
        release["shasums_signature"] = signature.into();
        release["shasums"] = sums.into();
    }
    release
}

/// Finds a file by its address without the scheme: `HOST/PATH`, and `?QUERY` with its parameters in any order.
pub(super) fn file(generation: &Generation, place: &str) -> Option<Digest> {
    let url = |scheme: &str| Url::parse(&format!("{scheme}://{place}")).ok();
    let asked = place.contains('?').then(|| [url("https"), url("http")]);
    let is_it = |file: &&StaticFile| {
        let known = file.url.split_once("://").map(|(_, rest)| rest);
        let mut asked = asked.iter().flatten().flatten();
        known == Some(place) || asked.any(|asked| same_query(asked, &file.url))
    };
    generation.files.iter().find(is_it).map(|file| file.content)
}

/// Returns the host of a file's address.
pub(super) fn host(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?.split(['/', '?']).next()
}

/// A file that git's dumb protocol requests.
pub(super) enum GitAnswer {
    /// A small generated text.
    Text(String),
    /// A file of the store.
    Blob(Digest),
}

/// Splits a path below `/git/` into the repository and the file that is requested: `HOST/OWNER/REPO` and `info/refs`.
pub(super) fn split_git(path: &str) -> Option<(&str, &str)> {
    let ends = ["/info/refs", "/HEAD", "/git-upload-pack"];
    let end = ends.iter().find(|end| path.ends_with(**end));
    let at = match end {
        Some(end) => path.len() - end.len(),
        None => path.rfind("/objects/")?,
    };
    Some((git::place(&path[..at]), &path[at + 1..]))
}

/// Returns a repository by `HOST/OWNER/REPO`.
pub(super) fn repository<'g>(generation: &'g Generation, place: &str) -> Option<&'g GitRepository> {
    generation.git.iter().find(|git| git.place() == place)
}

/// Returns a file of a repository: `HOST/OWNER/REPO.git/info/refs`. If it does not exist, the error is the
/// repository's name, or empty if the repository exists.
///
/// # Source
/// <https://git-scm.com/docs/http-protocol#_dumb_server_response>
pub(super) fn git(generation: &Generation, path: &str) -> Result<GitAnswer, String> {
    let (place, file) = split_git(path).unwrap_or((path, ""));
    let repository = repository(generation, place).ok_or_else(|| place.to_owned())?;
    let pack = repository.pack_name();
    let pack_file = file
        .strip_prefix("objects/pack/")
        .and_then(|file| file.strip_prefix(&pack));
    match (file, pack_file) {
        ("HEAD", _) => {
            let head = repository.head.as_deref().unwrap_or("refs/heads/main");
            Ok(GitAnswer::Text(format!("ref: {head}\n")))
        }
        ("info/refs", _) => {
            let refs = repository.refs.iter();
            let lines = refs.map(|(name, commit)| format!("{commit}\t{name}\n"));
            Ok(GitAnswer::Text(lines.collect()))
        }
        ("objects/info/packs", _) => Ok(GitAnswer::Text(format!("P {pack}.pack\n\n"))),
        (_, Some(".pack")) => Ok(GitAnswer::Blob(repository.pack)),
        (_, Some(".idx")) => Ok(GitAnswer::Blob(repository.index)),
        // Git requests loose objects and alternates, which never exist here.
        _ => Err(String::new()),
    }
}
