//! Engines from their publishers' releases, this program itself, and files by their address.

use std::{fs::File, io, path::Path};

use futures::future::join_all;
use http::HeaderMap;
use outpost_base::registry::{HASHICORP_KEY, Platform};
use semver::Version;
use serde::Deserialize;
use url::Url;
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use super::{
    Cause, Report, Sync,
    config::{FileEntry, Program, ToolEntry},
    fetched::FetchOutcome,
    trust::{self, Signature, TrustError, listed},
};
use crate::{
    Generation, StoreError,
    fetch::{blocking, registry::is_plain_name},
    generation::{PublisherKey, Signed, StaticFile, Tool},
    publisher,
    resolve::Pick,
};

const TERRAFORM_SITE: &str = "https://releases.hashicorp.com/";
const TOFU_SITE: &str = "https://github.com/opentofu/opentofu/releases/download/";
const TOFU_VERSIONS: &str = "https://get.opentofu.org/tofu/api.json";
const TOFU_KEY: &str = "https://get.opentofu.org/opentofu.asc";
/// Maximum size of a program in bytes.
const MAX_PROGRAM_BYTES: u64 = 1 << 30;

/// Addresses of the files of one version.
struct Release {
    base: Url,
    sums: String,
    signature: String,
}

impl Sync {
    /// Brings all wanted programs into the store.
    pub(super) async fn tools(&self, before: &Generation, report: &mut Report) {
        for entry in &self.config.tools {
            if entry.name == Program::Outpost {
                self.ourselves(entry, report).await;
                continue;
            }
            let versions = match self.tool_versions(entry).await {
                Ok(versions) => versions,
                Err(error) => {
                    report.fail(entry.name.as_str(), error);
                    continue;
                }
            };
            for version in versions {
                self.tool_version(entry, &version, before, report).await;
            }
        }
    }

    async fn tool_versions(&self, entry: &ToolEntry) -> Result<Vec<Version>, Cause> {
        let exact: Option<Vec<_>> = entry.versions.iter().map(Pick::exact).collect();
        if let Some(exact) = exact.filter(|exact| !exact.is_empty()) {
            return Ok(exact);
        }
        let published = self.published_tools(entry).await?;
        let newest = [Pick::default()];
        let picks = match entry.versions.as_slice() {
            [] => &newest[..],
            picks => picks,
        };
        let mut versions = Vec::new();
        for pick in picks {
            let chosen = pick.choose(&published, 1);
            if chosen.is_empty() {
                let newest = published
                    .iter()
                    .max()
                    .map(Version::to_string)
                    .unwrap_or_default();
                let why = format!("no version satisfies `{pick}`; the newest is {newest}");
                return Err(Cause::Unsatisfied(why));
            }
            versions.extend(chosen.into_iter().cloned());
        }
        versions.sort();
        versions.dedup();
        Ok(versions)
    }

    /// Returns the versions that a site lists.
    async fn published_tools(&self, entry: &ToolEntry) -> Result<Vec<Version>, Cause> {
        #[derive(Deserialize)]
        // HashiCorp's index has an object of versions, OpenTofu's a list.
        #[serde(untagged)]
        enum Versions {
            ByName(serde_json::Map<String, serde_json::Value>),
            InOrder(Vec<Entry>),
        }
        #[derive(Deserialize)]
        struct Entry {
            id: String,
        }
        #[derive(Deserialize)]
        struct Index {
            versions: Versions,
        }
        let url = match (&entry.url, entry.name) {
            (Some(base), Program::Tofu) => join(&base.0, "api.json")?,
            (None, Program::Tofu) => join(&site(entry), TOFU_VERSIONS)?,
            _ => join(&site(entry), "terraform/index.json")?,
        };
        let index: Index = self
            .fetcher
            .get(&url, &HeaderMap::new(), None)
            .await?
            .json()?;
        let names: Vec<String> = match index.versions {
            Versions::ByName(versions) => versions.into_iter().map(|(name, _)| name).collect(),
            Versions::InOrder(entries) => entries.into_iter().map(|entry| entry.id).collect(),
        };
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    async fn tool_version(
        &self,
        entry: &ToolEntry,
        version: &Version,
        before: &Generation,
        report: &mut Report,
    ) {
        let name = entry.name.as_str();
        let platforms = entry.platforms.as_ref().unwrap_or(&self.config.platforms);
        let is_replaced = self.trust.accepts(name, version);
        let known = |platform: &Platform| {
            let mut tools = before.tools.iter().filter(|_| !is_replaced);
            tools.find(|tool| {
                (tool.name.as_str(), &tool.version, &tool.platform) == (name, version, platform)
                    && self.store.has(tool.archive)
            })
        };
        let there: Vec<_> = platforms.iter().filter_map(known).cloned().collect();
        report.present += there.len();
        let missing: Vec<_> = platforms
            .iter()
            .filter(|platform| known(platform).is_none())
            .collect();
        report.synced.absorb(Generation {
            tools: there,
            ..Generation::default()
        });
        if missing.is_empty() {
            return;
        }
        let (release, sums, signed) = match self.release(before, entry, version).await {
            Ok(release) => release,
            Err(error) => return report.fail(format!("{name} {version}"), error),
        };
        let all = missing
            .iter()
            .map(|platform| self.program(entry, version, platform, &release, &sums));
        for (platform, result) in missing.iter().zip(join_all(all).await) {
            let tool = report.settle(format!("{name} {version} {platform}"), result);
            let tools = tool.map(|tool| Tool {
                signed: signed.clone(),
                ..tool
            });
            report.synced.absorb(Generation {
                tools: tools.into_iter().collect(),
                ..Generation::default()
            });
        }
    }

    /// Returns the checksums of a version after their signature is verified.
    async fn release(
        &self,
        before: &Generation,
        entry: &ToolEntry,
        version: &Version,
    ) -> Result<(Release, Vec<u8>, Option<Signed>), Cause> {
        let name = entry.name.as_str();
        let (place, end) = match entry.name {
            Program::Tofu => (format!("v{version}/"), "gpgsig"),
            _ => (format!("{name}/{version}/"), "sig"),
        };
        let sums = format!("{name}_{version}_SHA256SUMS");
        let release = Release {
            base: join(&site(entry), &place)?,
            signature: format!("{sums}.{end}"),
            sums,
        };
        let get = |url: Url| async move {
            let answer = self.fetcher.get(&url, &HeaderMap::new(), None).await;
            answer.map(|answer| answer.body)
        };
        let content = get(join(&release.base, &release.sums)?).await?;
        let signature = get(join(&release.base, &release.signature)?).await?;
        let key = match (&entry.key, entry.name) {
            (Some(path), _) => std::fs::read_to_string(self.config.dir.join(path))?,
            (None, Program::Tofu) => {
                // OpenTofu publishes its key beside the release; it is trusted on first use.
                let key = get(join(&release.base, TOFU_KEY)?).await?;
                String::from_utf8_lossy(&key).into_owned()
            }
            (None, _) => HASHICORP_KEY.to_owned(),
        };
        let what = format!("{name} {version}");
        let signature_of_it = Signature {
            content: &content,
            signature: &signature,
            keys: std::slice::from_ref(&key),
        };
        let checked = self.trust.check(before, name, &what, signature_of_it);
        checked.await?;
        let all = trust::programs(&content, name, version);
        match self.trust.accepts(name, version) {
            true => self.trust.replace_release(name, version, all).await?,
            false => self.trust.same_release(before, name, version, all).await?,
        }
        if self.dry_run {
            return Ok((release, content, None));
        }
        let (store, list) = (self.store.clone(), content.clone());
        let signed = blocking(move || {
            let id = publisher::fingerprint_of(&key).unwrap_or_default();
            Ok::<_, StoreError>(Signed {
                shasums: store.put(&list)?,
                signature: store.put(&signature)?,
                keys: vec![PublisherKey {
                    // The id of a key is the end of its fingerprint.
                    id: id.get(24..).unwrap_or_default().to_owned(),
                    armored: store.put(key.as_bytes())?,
                    trust_signature: String::new(),
                }],
            })
        });
        Ok((release, content, Some(signed.await?)))
    }

    async fn program(
        &self,
        entry: &ToolEntry,
        version: &Version,
        platform: &Platform,
        release: &Release,
        sums: &[u8],
    ) -> Result<FetchOutcome<Tool>, Cause> {
        let name = entry.name.as_str();
        let filename = format!("{name}_{version}_{platform}.zip");
        let archive = listed(sums, &filename).ok_or_else(|| TrustError::NotListed {
            filename: filename.clone(),
            why: "the signed checksums do not list it".to_owned(),
        })?;
        let url = join(&release.base, &filename)?;
        let fetched = self.fetch_into_store(&url, archive, &filename).await?;
        let tool = Tool {
            name: name.to_owned(),
            version: version.clone(),
            platform: platform.clone(),
            filename,
            archive,
            size: self.length(archive).await?,
            signed: None,
        };
        Ok((fetched, Some(tool).filter(|_| !self.dry_run)))
    }

    /// Adds this program, or another build of it.
    async fn ourselves(&self, entry: &ToolEntry, report: &mut Report) {
        if self.dry_run {
            return;
        }
        let platforms = entry
            .platforms
            .clone()
            .unwrap_or_else(|| vec![Platform::current()]);
        let path = match &entry.path {
            Some(path) => Ok(self.config.dir.join(path)),
            None => std::env::current_exe(),
        };
        let version = Version::parse(env!("CARGO_PKG_VERSION"));
        let (Ok(path), Ok(version), [platform]) = (path, version, &platforms[..]) else {
            let why = "an entry describes one program: set its `path` and its platform".to_owned();
            return report.fail("outpost", Cause::Unsatisfied(why));
        };
        let filename = format!("outpost_{version}_{platform}.zip");
        let (store, name) = (self.store.clone(), filename.clone());
        let packed = blocking(move || {
            let packed = pack(&path).map_err(StoreError::io("read", &path))?;
            store.put_from(&name, packed, MAX_PROGRAM_BYTES)
        });
        match packed.await {
            Ok((archive, size)) => report.synced.absorb(Generation {
                tools: vec![Tool {
                    name: "outpost".to_owned(),
                    version,
                    platform: platform.clone(),
                    filename,
                    archive,
                    size,
                    signed: None,
                }],
                ..Generation::default()
            }),
            Err(error) => report.fail("outpost", error),
        }
    }

    /// Brings all wanted files into the store.
    pub(super) async fn files(&self, report: &mut Report) {
        let all = self.config.files.iter().map(|entry| self.file(entry));
        for (entry, result) in self.config.files.iter().zip(join_all(all).await) {
            let file = report.settle(outpost_net::http::shown(&entry.url.0), result);
            report.synced.absorb(Generation {
                files: file.into_iter().collect(),
                ..Generation::default()
            });
        }
    }

    async fn file(&self, entry: &FileEntry) -> Result<FetchOutcome<StaticFile>, Cause> {
        let last = entry
            .url
            .0
            .path_segments()
            .and_then(|mut parts| parts.next_back());
        let name = last.filter(|name| is_plain_name(name)).unwrap_or("file");
        let fetched = self
            .fetch_into_store(&entry.url.0, entry.sha256, name)
            .await?;
        let file = StaticFile {
            url: outpost_net::http::without_credentials(&entry.url.0).into(),
            content: entry.sha256,
            size: self.length(entry.sha256).await?,
        };
        Ok((fetched, Some(file).filter(|_| !self.dry_run)))
    }
}

fn site(entry: &ToolEntry) -> Url {
    let usual = match entry.name {
        Program::Tofu => TOFU_SITE,
        Program::Terraform | Program::Outpost => TERRAFORM_SITE,
    };
    let usual = || Url::parse(usual).expect("it is constant");
    entry.url.as_ref().map_or_else(usual, |url| url.0.clone())
}

fn join(base: &Url, path: &str) -> Result<Url, Cause> {
    let mut base = base.clone();
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    let joined = base.join(path);
    joined.map_err(|error| Cause::Unsatisfied(format!("{path} below {base}: {error}")))
}

/// Packs a program alone into a zip file. Equal programs give equal bytes.
fn pack(path: &Path) -> io::Result<File> {
    use std::io::Seek as _;
    let mut zip = ZipWriter::new(tempfile::tempfile()?);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    zip.start_file("outpost", options)?;
    io::copy(&mut File::open(path)?, &mut zip)?;
    let mut file = zip.finish()?;
    file.rewind()?;
    Ok(file)
}
