//! Providers in a directory, in the layout of Terraform's filesystem mirror: packed, or unpacked.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use async_trait::async_trait;
use semver::Version;

use crate::{
    cli::exit::{Hint as _, UsageError},
    provision::{LinkSink, ProviderStore, ProviderView, Services, WantedProvider},
    registry::{DEFAULT_HOST, Hash, Platform, ProviderAddr, h1_of_dir, h1_of_zip},
};

/// A directory with more packages is not one of providers.
const MAX_PACKAGES: usize = 10_000;

/// The packages of a directory that are for this machine.
pub(super) struct PluginDir {
    dir: PathBuf,
    packages: BTreeMap<(ProviderAddr, Version), PathBuf>,
}

impl PluginDir {
    /// Lists a directory.
    ///
    /// # Errors
    /// [`UsageError`] if it has no package for this machine.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?;
        let mut packages = BTreeMap::new();
        list(&dir, &mut packages)
            .with_context(|| format!("failed to list `--plugin-dir {}`", dir.display()))?;
        let platform = Platform::current();
        if packages.is_empty() {
            let text = format!("`{}` has no provider for {platform}", dir.display());
            return Err(UsageError(text)).hint(format!(
                "it must have files as `terraform providers mirror` writes them, or HOST/NAMESPACE/TYPE/VERSION/{platform} with the program"
            ));
        }
        Ok(Self { dir, packages })
    }

    pub(super) fn versions(&self, addr: &ProviderAddr) -> impl Iterator<Item = &Version> {
        let of_addr = self.packages.keys().filter(move |(one, _)| one == addr);
        of_addr.map(|(_, version)| version)
    }

    /// The checksum of a package's files.
    pub(super) fn hash(&self, addr: &ProviderAddr, version: &Version) -> anyhow::Result<Hash> {
        let path = &self.packages[&(addr.clone(), version.clone())];
        let hash = match path.is_dir() {
            true => h1_of_dir(path),
            false => h1_of_zip(File::open(path)?),
        };
        hash.with_context(|| format!("failed to read the package `{}`", path.display()))
    }
}

/// Adds the packages at `HOST/NAMESPACE/TYPE/VERSION/PLATFORM` and `HOST/NAMESPACE/TYPE/terraform-provider-TYPE_VERSION_PLATFORM.zip`.
fn list(root: &Path, packages: &mut BTreeMap<(ProviderAddr, Version), PathBuf>) -> io::Result<()> {
    for host in names(root)? {
        for namespace in names(&root.join(&host))? {
            for kind in names(&root.join(&host).join(&namespace))? {
                let addr = format!("{host}/{namespace}/{kind}");
                let Ok(addr) = ProviderAddr::parse(&addr, DEFAULT_HOST) else {
                    continue;
                };
                let dir = root.join(&host).join(&namespace).join(&kind);
                for (version, path) in names(&dir)?
                    .iter()
                    .filter_map(|it| package(&dir, &kind, it))
                {
                    packages.insert((addr.clone(), version), path);
                }
                if packages.len() > MAX_PACKAGES {
                    return Err(io::Error::other(format!(
                        "more than {MAX_PACKAGES} packages"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// The package that a name below a provider's directory stands for, if it is for this machine.
fn package(dir: &Path, kind: &str, name: &str) -> Option<(Version, PathBuf)> {
    let platform = Platform::current().to_string();
    if let Ok(version) = name.parse() {
        let path = dir.join(name).join(platform);
        return path.is_dir().then_some((version, path));
    }
    let rest = name
        .strip_prefix("terraform-provider-")?
        .strip_prefix(kind)?;
    let version = rest.strip_prefix('_')?.strip_suffix(".zip")?;
    let version = version.strip_suffix(&platform)?.strip_suffix('_')?;
    Some((version.parse().ok()?, dir.join(name)))
}

/// Names in a directory; none if it is a file.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

#[async_trait]
impl ProviderStore for PluginDir {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn view(
        &self,
        dir: &dyn LinkSink,
        _: &BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>> {
        for ((addr, version), path) in &self.packages {
            let of_addr = PathBuf::from(addr.to_string());
            let name = match path.is_dir() {
                true => of_addr
                    .join(version.to_string())
                    .join(Platform::current().to_string()),
                false => of_addr.join(path.file_name().unwrap_or_default()),
            };
            dir.link(&name, path)?;
        }
        let mut providers: Vec<_> = self.packages.keys().map(|(addr, _)| addr.clone()).collect();
        providers.dedup();
        Ok(ProviderView {
            providers,
            services: Services::new(),
            unsigned: Vec::new(),
            network_mirror: None,
            repositories: BTreeMap::new(),
            token: None,
            checksums: BTreeMap::new(),
            init_proxy: None,
            hold: Arc::new(()),
        })
    }
}
