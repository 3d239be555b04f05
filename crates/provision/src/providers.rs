//! Where an engine finds providers without a network.

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

/// Packages of the `coder` provider that this program brings along, for an engine without a registry.
pub trait ProviderPackages: Send + Sync {
    /// Registries under whose names the packages are, such as `registry.terraform.io`.
    fn hosts(&self) -> &[&'static str];

    /// Makes the packages ready and returns their directory, in the layout of Terraform's filesystem mirror.
    ///
    /// All versions that were ever published are in it, and `locked`. It takes a few files and no network.
    ///
    /// # Errors
    /// If they cannot be written.
    fn mirror(&self, locked: Option<&Version>) -> std::io::Result<PathBuf>;
}

/// What a template asks of a provider.
#[derive(Clone, Debug, Default)]
pub struct WantedProvider {
    /// The version in its lock file.
    pub locked: Option<Version>,
    /// What versions are acceptable otherwise.
    pub constraint: Constraint,
}

impl WantedProvider {
    /// The version that an engine takes of those that there are.
    pub fn choose<'a>(&self, versions: impl Iterator<Item = &'a Version>) -> Option<&'a Version> {
        match &self.locked {
            Some(locked) => versions.into_iter().find(|version| *version == locked),
            None => self.constraint.newest(versions),
        }
    }
}

/// For a host, such as `registry.terraform.io`, where its services are, such as `modules.v1`. What is not named there
/// the host does not offer.
pub type Services = BTreeMap<String, BTreeMap<String, String>>;

/// A proxy that init takes for hosts that are somewhere else.
#[derive(Clone, Debug)]
pub struct Detour {
    /// Where it listens.
    pub url: Url,
    /// Its authority, in PEM.
    pub authority: String,
}

/// A filesystem mirror for one session.
pub struct ProviderView {
    /// What is in it, whatever the version.
    pub providers: Vec<ProviderAddr>,
    /// Registries that somebody else stands in for.
    pub services: Services,
    /// Providers that a registry cannot hand out, as no publisher signed them.
    pub unsigned: Vec<ProviderAddr>,
    /// The network mirror that has those; its address ends in a slash. `None` if engines cannot use it.
    pub network_mirror: Option<Url>,
    /// Beginnings of the addresses of git repositories, and what git takes in their place.
    pub repositories: BTreeMap<String, String>,
    /// What those who stand in want to see.
    pub token: Option<Secret>,
    /// The checksums of each package, all of which are of the same files.
    pub checksums: BTreeMap<(ProviderAddr, Version), Vec<Hash>>,
    /// How init gets archives that templates name by their own addresses, and nothing else over HTTPS.
    pub detour: Option<Detour>,
    /// Keeps the packages where they are.
    pub hold: Arc<dyn Any + Send + Sync>,
}

/// A directory that takes symbolic links; directories on the way to them are made.
pub trait LinkSink {
    /// Makes a link to `target` at `name`, a path in the directory.
    ///
    /// # Errors
    /// The system's reason.
    fn link(&self, name: &Path, target: &Path) -> std::io::Result<()>;
}

/// A template that an engine could not install.
#[derive(Clone, Debug)]
pub struct UnmetTemplate {
    /// The template: an uncompressed tar archive.
    pub archive: Bytes,
    /// `terraform` or `tofu`.
    pub engine: &'static str,
    /// The engine's version.
    pub version: Version,
    /// The registry of addresses without a host.
    pub default_host: &'static str,
    /// Addresses of providers that the store need not have.
    pub supplied: Vec<String>,
}

/// Packages of providers that were all checked before.
#[async_trait]
pub trait ProviderStore: Send + Sync {
    /// Where all of it is, for people: a directory or an address.
    fn place(&self) -> String;

    /// Lays a filesystem mirror into `dir`, which is empty. What is `wanted` is quick to install.
    ///
    /// # Errors
    /// If the packages cannot be read or unpacked, or the services cannot be asked for.
    fn view(
        &self,
        dir: &dyn LinkSink,
        wanted: &BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>>;

    /// What a template needs and the store does not have, one line each; whoever fills the store is told where there is a
    /// way. Engines ask for no version that a list does not have, so only this finds out which it was.
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
