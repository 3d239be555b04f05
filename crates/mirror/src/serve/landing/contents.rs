//! Contents of a generation, grouped for readers. Pure: no socket, no file.

use std::collections::BTreeMap;

use outpost_base::registry::Platform;
use serde::Serialize;

use crate::{
    Digest,
    generation::{Generation, GitRepository, Image, Provider, Tool},
};

/// All contents of a generation. Versions are newest first.
#[derive(Debug, Serialize)]
pub(super) struct Contents<'g> {
    pub(super) providers: Vec<Named<'g>>,
    pub(super) modules: Vec<Named<'g>>,
    pub(super) git: Vec<Repository<'g>>,
    pub(super) tools: Vec<Named<'g>>,
    pub(super) files: Vec<File<'g>>,
    pub(super) images: Vec<File<'g>>,
}

/// A provider, a module or a program.
#[derive(Debug, Serialize)]
pub(super) struct Named<'g> {
    /// Address or name of the item.
    pub(super) name: String,
    pub(super) versions: Vec<Version<'g>>,
}

#[derive(Debug, Serialize)]
pub(super) struct Version<'g> {
    pub(super) version: &'g semver::Version,
    /// `true` if the publisher signed it; `None` for modules, which are not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signed: Option<bool>,
    /// Packages by platform; empty for modules, which are the same everywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) platforms: Vec<Package<'g>>,
    /// Total size of all packages in bytes.
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Package<'g> {
    pub(super) platform: &'g Platform,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Repository<'g> {
    pub(super) url: &'g str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) head: Option<&'g str>,
    /// Commits by full names of references.
    pub(super) references: &'g BTreeMap<String, String>,
    pub(super) bytes: u64,
}

/// A file by its address, or an image by its reference.
#[derive(Debug, Serialize)]
pub(super) struct File<'g> {
    pub(super) name: &'g str,
    pub(super) bytes: u64,
}

impl<'g> Contents<'g> {
    /// Groups a generation; `size` returns the length of a file whose length the generation does not contain.
    pub(super) fn of(generation: &'g Generation, size: impl Fn(Digest) -> u64) -> Self {
        let repository = |git: &'g GitRepository| Repository {
            url: &git.url,
            head: git.head.as_deref(),
            references: &git.refs,
            bytes: size(git.pack) + size(git.index),
        };
        let modules = generation.modules.iter();
        let modules = modules.map(|it| (it.addr.clone(), Version::plain(&it.version, it.size)));
        let providers = generation.providers.iter();
        let providers = providers.map(|it| (it.addr.to_string(), Version::of_provider(it)));
        let files = generation.files.iter();
        Self {
            providers: grouped(providers),
            modules: grouped(modules),
            git: generation.git.iter().map(repository).collect(),
            tools: grouped(tools(&generation.tools).into_iter()),
            files: files
                .map(|file| File {
                    name: &file.url,
                    bytes: file.size,
                })
                .collect(),
            images: generation.images.iter().map(File::of_image).collect(),
        }
    }
}

impl<'g> File<'g> {
    fn of_image(image: &'g Image) -> Self {
        Self {
            name: &image.reference,
            bytes: image.blobs.iter().map(|blob| blob.size).sum(),
        }
    }
}

impl<'g> Version<'g> {
    fn plain(version: &'g semver::Version, bytes: u64) -> Self {
        Self {
            version,
            signed: None,
            platforms: Vec::new(),
            bytes,
        }
    }

    fn of_provider(provider: &'g Provider) -> Self {
        let packages = provider.packages.iter();
        let platforms = packages.map(|package| Package {
            platform: &package.platform,
            bytes: package.size,
        });
        Self {
            version: &provider.version,
            signed: Some(provider.signed.is_some()),
            platforms: platforms.collect(),
            bytes: provider.packages.iter().map(|package| package.size).sum(),
        }
    }
}

/// Groups programs, of which a generation lists each platform separately.
fn tools(tools: &[Tool]) -> Vec<(String, Version<'_>)> {
    let same = |a: &Tool, b: &Tool| (&a.name, &a.version) == (&b.name, &b.version);
    let of_one = tools.chunk_by(same);
    of_one
        .map(|of_one| (of_one[0].name.clone(), of_tools(of_one)))
        .collect()
}

/// Returns one version of a program, for all platforms.
fn of_tools(tools: &[Tool]) -> Version<'_> {
    let platforms = tools.iter().map(|tool| Package {
        platform: &tool.platform,
        bytes: tool.size,
    });
    Version {
        version: &tools[0].version,
        signed: Some(tools.iter().all(|tool| tool.signed.is_some())),
        platforms: platforms.collect(),
        bytes: tools.iter().map(|tool| tool.size).sum(),
    }
}

/// Groups versions by name, newest first.
fn grouped<'g>(all: impl Iterator<Item = (String, Version<'g>)>) -> Vec<Named<'g>> {
    let mut by_name: BTreeMap<String, Vec<Version<'g>>> = BTreeMap::new();
    for (name, version) in all {
        by_name.entry(name).or_default().push(version);
    }
    let named = |(name, mut versions): (String, Vec<Version<'g>>)| {
        versions.sort_by(|a, b| b.version.cmp(a.version));
        Named { name, versions }
    };
    by_name.into_iter().map(named).collect()
}
