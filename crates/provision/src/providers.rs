//! Sources of providers for engines that have no network.

use std::{
    any::Any,
    collections::BTreeMap,
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use outpost_base::{
    registry::{Hash, ProviderAddr},
    secret::Secret,
};
use outpost_language::Constraint;
use semver::Version;
use url::Url;

/// Packages of the `coder` provider that are part of this program, for an engine without a registry.
pub trait ProviderPackages: Send + Sync {
    /// Returns the registries that the packages appear to come from, such as `registry.terraform.io`.
    fn hosts(&self) -> &[&'static str];

    /// Prepares the packages and returns their directory, in the layout of Terraform's filesystem mirror.
    ///
    /// The directory contains all versions that were ever published, and `locked`. This needs a few files and no
    /// network.
    ///
    /// # Errors
    /// If they cannot be written.
    fn mirror(&self, locked: Option<&Version>) -> std::io::Result<PathBuf>;
}

/// Requirements of a template for a provider.
#[derive(Clone, Debug, Default)]
pub struct WantedProvider {
    /// Version in the template's lock file.
    pub locked: Option<Version>,
    /// Constraint for the version if none is locked.
    pub constraint: Constraint,
}

impl WantedProvider {
    /// Returns the version that an engine selects among those that exist.
    pub fn choose<'a>(&self, versions: impl Iterator<Item = &'a Version>) -> Option<&'a Version> {
        match &self.locked {
            Some(locked) => versions.into_iter().find(|version| *version == locked),
            None => self.constraint.newest(versions),
        }
    }
}

/// Addresses of services, such as `modules.v1`, by host, such as `registry.terraform.io`. A host has only the
/// services that are listed.
pub type Services = BTreeMap<String, BTreeMap<String, String>>;

/// A proxy through which init reaches hosts that are replaced.
#[derive(Clone, Debug)]
pub struct InitProxy {
    /// Address of the proxy.
    pub url: Url,
    /// Certificate of the proxy's authority in PEM.
    pub authority: String,
}

/// A filesystem mirror for one session.
pub struct ProviderView {
    /// Providers in the mirror, whatever their version.
    pub providers: Vec<ProviderAddr>,
    /// Registries that the mirror replaces, with their services.
    pub services: Services,
    /// Providers that a registry cannot offer, because no publisher signed them.
    pub unsigned: Vec<ProviderAddr>,
    /// Network mirror of those providers; its address ends in a slash. `None` if engines cannot use it.
    pub network_mirror: Option<Url>,
    /// Replacements for the addresses of git repositories: the beginning of an address, and what git uses instead of
    /// it.
    pub repositories: BTreeMap<String, String>,
    /// Token that the servers of the replaced hosts require.
    pub token: Option<Secret>,
    /// Checksums of each package; all checksums of a package are of the same files.
    pub checksums: BTreeMap<(ProviderAddr, Version), Vec<Hash>>,
    /// Proxy through which init gets archives that templates name by their own addresses, and nothing else over
    /// HTTPS.
    pub init_proxy: Option<InitProxy>,
    /// Guard that keeps the packages in place.
    pub hold: Arc<dyn Any + Send + Sync>,
}

/// A directory in which symbolic links are made; intermediate directories are created.
pub trait LinkSink {
    /// Creates a link to `target` at `name`, a path in the directory.
    ///
    /// # Errors
    /// The system's error.
    fn link(&self, name: &Path, target: &Path) -> std::io::Result<()>;
}

/// A template whose providers or modules an engine could not install.
#[derive(Clone, Debug)]
pub struct UnmetTemplate {
    /// The template: an uncompressed tar archive.
    pub archive: Bytes,
    /// Name of the engine: `terraform` or `tofu`.
    pub engine: &'static str,
    /// Version of the engine.
    pub version: Version,
    /// The registry of addresses without a host.
    pub default_host: &'static str,
    /// Addresses of providers that the store need not contain.
    pub supplied: Vec<String>,
}

/// Packages of providers that were verified before.
#[async_trait]
pub trait ProviderStore: Send + Sync {
    /// Returns the location of the store for messages: a directory or an address.
    fn place(&self) -> String;

    /// Creates a filesystem mirror in `dir`, which is empty. Packages in `wanted` are prepared for quick
    /// installation.
    ///
    /// # Errors
    /// If the packages cannot be read or unpacked, or the services cannot be asked for.
    fn view(
        &self,
        dir: &dyn LinkSink,
        wanted: &BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>>;

    /// Returns what a template needs and the store lacks, one line each, and reports it to the process that fills the
    /// store if there is a way. Engines request no version that a list does not contain, so only this finds out which
    /// one is missing.
    ///
    /// # Errors
    /// If the template cannot be read, or the store cannot be asked.
    async fn lacks(
        &self,
        template: UnmetTemplate,
    ) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let _ = template;
        Ok(Vec::new())
    }
}
