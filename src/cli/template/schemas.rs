//! Schemas of providers: asked of those in a mirror or a directory, once for each package, or read from files.

mod plugin_dir;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use semver::Version;
use serde_json::value::RawValue;

use self::plugin_dir::PluginDir;
use super::check::{planning, site};
use crate::{
    cli::{
        engine::{EngineArgs, NamedMirror, Providers},
        isolation::Guarded,
    },
    files,
    language::{Constraint, TemplateFiles as _, lock},
    mirror::Generation,
    net::tls::Trust,
    provision::{ProviderStore, WantedProvider},
    registry::{Platform, ProviderAddr},
    stop::Stop,
    template::{
        check::settings::Settings,
        mock::{
            Mock, ProviderSchema, Question, RealProvider, Schemas, ask, is_mocked, package_key,
        },
    },
};

/// Largest schema that is read from the cache, in bytes: several times that of the largest provider.
const MAX_SCHEMA_BYTES: u64 = 256 << 20;
/// The limit of a lock file, in bytes.
const MAX_LOCK_BYTES: u64 = 1 << 20;

/// Options about schemas of providers.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SchemaArgs {
    /// File with schemas of providers, as `outpost template schema export` writes them
    #[arg(long = "schema", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    dirs: PluginDirs,
}

/// Directories with providers.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PluginDirs {
    /// Directory with providers to ask for their schemas, in the layout of Terraform's filesystem mirror
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
}

/// A provider of a template, and the version that it needs.
pub(super) type Needs = BTreeMap<ProviderAddr, WantedProvider>;

/// Schemas as an engine printed them, by address.
pub(super) type Printed = BTreeMap<String, Box<RawValue>>;

/// What asking providers needs: an engine, and a directory for its sessions.
pub(super) struct Asking<'a> {
    pub(super) engine: &'a EngineArgs,
    pub(super) trust: &'a Trust,
    pub(super) work: PathBuf,
    /// The template, for a mirror that is a server.
    pub(super) template: &'a Path,
    /// The registry of addresses that name none.
    pub(super) default_host: &'a str,
    pub(super) stop: &'a Stop,
}

/// Versions of providers that are tested, by address.
pub(super) type Pins = BTreeMap<ProviderAddr, Version>;

/// Schemas and versions of the providers of a test.
#[derive(Clone, Copy)]
pub(super) struct ProviderSources<'a> {
    pub(super) schemas: &'a SchemaArgs,
    pub(super) pins: &'a Pins,
}

impl ProviderSources<'_> {
    /// Schemas of the providers that a place has, of those that are pinned in that version.
    ///
    /// # Errors
    /// If one of them cannot be asked, or no place has a version that is pinned.
    pub(super) async fn asked(
        &self,
        mut needs: Needs,
        asking: &Asking<'_>,
    ) -> anyhow::Result<Schemas> {
        for (addr, wanted) in &mut needs {
            if let Some(version) = self.pins.get(addr) {
                *wanted = exactly(version);
            }
        }
        let asked = self.schemas.asked(&needs, asking).await?;
        let mut pinned = self
            .pins
            .iter()
            .filter(|(addr, _)| needs.contains_key(*addr));
        match pinned.find(|(addr, _)| !asked.provider_schemas.contains_key(&addr.to_string())) {
            None => Ok(asked),
            Some((addr, version)) => Err(absent(addr, version)),
        }
    }

    /// Makes mocks appear in the versions that are pinned.
    pub(super) fn pin(&self, mocks: &mut [Mock]) {
        for mock in mocks {
            if let Some(version) = self.pins.get(&mock.addr) {
                mock.constraint = Constraint::exactly(version);
            }
        }
    }

    /// The provider `coder`, if a version of it is pinned, from the place that has it.
    ///
    /// # Errors
    /// If no place has it.
    pub(super) async fn real(&self, asking: &Asking<'_>) -> anyhow::Result<Vec<RealProvider>> {
        let mut real = Vec::new();
        let mut pins: Vec<_> = self.pins.iter().collect();
        pins.retain(|(addr, _)| !is_mocked(addr));
        for (addr, version) in pins {
            let dirs = self.schemas.dirs.plugin_dirs.iter();
            let dirs: Vec<_> = dirs
                .map(|dir| PluginDir::read(dir))
                .collect::<Result<_, _>>()?;
            let mut dirs = dirs.into_iter();
            let store = match dirs.find(|dir| dir.versions(addr).any(|it| it == version)) {
                Some(dir) => Arc::new(dir) as Arc<dyn ProviderStore>,
                None => {
                    let mirror = asking.engine.mirror(asking.trust).await?;
                    mirror.ok_or_else(|| absent(addr, version))?
                }
            };
            real.push(RealProvider {
                addr: addr.clone(),
                version: version.clone(),
                store,
            });
        }
        Ok(real)
    }
}

fn exactly(version: &Version) -> WantedProvider {
    WantedProvider {
        locked: Some(version.clone()),
        constraint: Constraint::exactly(version),
    }
}

fn absent(addr: &ProviderAddr, version: &Version) -> anyhow::Error {
    anyhow::Error::msg(format!(
        "neither `--plugin-dir` nor `--mirror` has {} {version}",
        addr.short()
    ))
}

/// The place that a provider is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Dir(usize),
    Mirror,
    Registry,
}

impl SchemaArgs {
    /// Files that are named here.
    pub(super) fn named_files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(super) fn has_plugin_dirs(&self) -> bool {
        !self.dirs.plugin_dirs.is_empty()
    }

    /// Schemas of all files that are named, here and in the settings.
    pub(super) fn files(&self, settings: &Settings) -> anyhow::Result<Schemas> {
        planning::schemas(&self.files, settings)
    }

    /// Schemas of the providers that a directory or the mirror has.
    ///
    /// # Errors
    /// If one of them cannot be asked.
    pub(super) async fn asked(
        &self,
        needs: &Needs,
        asking: &Asking<'_>,
    ) -> anyhow::Result<Schemas> {
        let printed = self.dirs.ask(needs, asking, false).await?;
        let mut schemas = Schemas::default();
        for (addr, json) in printed {
            let schema: ProviderSchema = serde_json::from_str(json.get())
                .with_context(|| format!("the schema of {addr} is not one"))?;
            schemas.provider_schemas.insert(addr, schema);
        }
        Ok(schemas)
    }
}

/// The providers that mocks replace, with the versions in the template's lock file.
pub(super) fn needs(mocks: &[Mock], template: &Path) -> Needs {
    let text = template.read(Path::new(lock::FILE_NAME), MAX_LOCK_BYTES);
    let text = text.map(|text| String::from_utf8_lossy(&text).into_owned());
    let lock = lock::Lock::parse(&text.unwrap_or_default()).unwrap_or_default();
    let need = |mock: &Mock| {
        let locked = lock.providers.get(&mock.addr);
        let wanted = WantedProvider {
            locked: locked.map(|it| it.version.clone()),
            constraint: mock.constraint.clone(),
        };
        (mock.addr.clone(), wanted)
    };
    mocks.iter().map(need).collect()
}

impl PluginDirs {
    /// Schemas of the providers that a directory or the mirror has; with `is_online`, also of those that only a registry has.
    ///
    /// # Errors
    /// If one of them cannot be asked.
    pub(super) async fn ask(
        &self,
        needs: &Needs,
        asking: &Asking<'_>,
        is_online: bool,
    ) -> anyhow::Result<Printed> {
        let dirs = self.plugin_dirs.iter().map(|dir| PluginDir::read(dir));
        let dirs: Vec<_> = dirs.collect::<Result<_, _>>()?;
        let generation = match needs.is_empty() {
            true => None,
            false => asking.generation().await?,
        };
        let (mut printed, mut questions) = (Printed::new(), BTreeMap::<Origin, Vec<_>>::new());
        for (addr, wanted) in needs {
            let Some((origin, version, key)) = find(&dirs, generation.as_ref(), addr, wanted)?
            else {
                if is_online {
                    let constraint = wanted.locked.as_ref().map(Constraint::exactly);
                    let constraint = constraint.unwrap_or_else(|| wanted.constraint.clone());
                    let asked = ((addr.clone(), constraint), None);
                    questions.entry(Origin::Registry).or_default().push(asked);
                }
                continue;
            };
            match asking.cached(&key) {
                Some(schema) => {
                    printed.insert(addr.to_string(), schema);
                }
                None => {
                    let asked = ((addr.clone(), Constraint::exactly(&version)), Some(key));
                    questions.entry(origin).or_default().push(asked);
                }
            }
        }
        let mut dirs: Vec<_> = dirs.into_iter().map(Some).collect();
        for (origin, questions) in questions {
            let providers = match origin {
                Origin::Dir(index) => {
                    let dir = dirs[index]
                        .take()
                        .map(|dir| Arc::new(dir) as Arc<dyn ProviderStore>);
                    Providers::Named(dir)
                }
                Origin::Mirror => Providers::Named(None),
                Origin::Registry => Providers::Operators,
            };
            printed.extend(asking.ask(providers, questions).await?);
        }
        Ok(printed)
    }
}

/// The package of a provider: of the first directory that has a version that will do, or of the mirror. The third part names
/// the package's content.
fn find(
    dirs: &[PluginDir],
    generation: Option<&Generation>,
    addr: &ProviderAddr,
    wanted: &WantedProvider,
) -> anyhow::Result<Option<(Origin, Version, String)>> {
    for (index, dir) in dirs.iter().enumerate() {
        if let Some(version) = choose(wanted, || dir.versions(addr)) {
            let hash = dir.hash(addr, &version)?;
            let key = package_key(addr, &version, &hash);
            return Ok(Some((Origin::Dir(index), version, key)));
        }
    }
    let platform = Platform::current();
    let of_mirror = generation.into_iter().flat_map(|it| &it.providers);
    let packages: BTreeMap<_, _> = of_mirror
        .filter(|it| it.addr == *addr)
        .filter_map(|it| {
            Some((
                &it.version,
                it.packages.iter().find(|it| it.platform == platform)?,
            ))
        })
        .collect();
    let Some(version) = choose(wanted, || packages.keys().copied()) else {
        return Ok(None);
    };
    let key = package_key(addr, &version, &packages[&version].h1_zip);
    Ok(Some((Origin::Mirror, version, key)))
}

/// The locked version, or else the newest one that the template accepts.
fn choose<'a, I: Iterator<Item = &'a Version>>(
    wanted: &WantedProvider,
    versions: impl Fn() -> I,
) -> Option<Version> {
    let unlocked = || wanted.constraint.newest(versions());
    wanted.choose(versions()).or_else(unlocked).cloned()
}

impl Asking<'_> {
    async fn generation(&self) -> anyhow::Result<Option<Generation>> {
        let Some(mirror) = self.engine.named_mirror(self.trust)? else {
            return Ok(None);
        };
        Ok(Some(match &mirror {
            NamedMirror::Directory(store) => store.newest()?.1,
            NamedMirror::Served(_) => {
                let (template, host) = (self.template, self.default_host);
                site::needed(&mirror, template, host, &[Platform::current()], self.trust)
                    .await?
                    .1
            }
        }))
    }

    /// The schema of a package that was asked before.
    fn cached(&self, key: &str) -> Option<Box<RawValue>> {
        let mut json = String::new();
        let file = File::open(self.cache().ok()?.join(key)).ok()?;
        file.take(MAX_SCHEMA_BYTES).read_to_string(&mut json).ok()?;
        // One that was cut is no JSON, and is asked again.
        RawValue::from_string(json).ok()
    }

    fn cache(&self) -> anyhow::Result<PathBuf> {
        Ok(self.engine.cache_dir()?.join("schemas"))
    }

    async fn ask(
        &self,
        providers: Providers,
        questions: Vec<(Question, Option<String>)>,
    ) -> anyhow::Result<Printed> {
        let guarded = Guarded {
            jobs: 1,
            are_foreign: false,
            hidden: Vec::new(),
        };
        let work = self.work.clone();
        let engine = self
            .engine
            .with(providers, work, guarded, self.trust, self.stop);
        let engine = engine.await?.provisioner;
        let (questions, keys): (Vec<_>, Vec<_>) = questions.into_iter().unzip();
        let names: Vec<_> = questions.iter().map(|(addr, _)| addr.to_string()).collect();
        let printed = ask(engine.as_ref(), &questions, self.stop).await;
        let printed =
            printed.with_context(|| format!("failed to ask {} for schemas", names.join(", ")))?;
        let cache = self.cache()?;
        std::fs::create_dir_all(&cache)?;
        for (name, key) in names.iter().zip(keys) {
            if let (Some(schema), Some(key)) = (printed.get(name), key) {
                files::write_public(&cache.join(key), schema.get().as_bytes())?;
            }
        }
        Ok(printed)
    }
}
