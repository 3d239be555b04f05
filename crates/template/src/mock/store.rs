//! Packages of mocks, as an engine finds them: a launcher for each provider, and its schema beside it.

use std::{
    any::Any,
    cell::Cell,
    collections::BTreeMap,
    error::Error,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use outpost_base::registry::{Platform, ProviderAddr};
use outpost_language::Constraint;
use outpost_provision::{
    LinkSink, ProviderStore, ProviderView, Services, UnmetTemplate, WantedProvider,
};
use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    COMMAND,
    given::Values,
    schema::{ProviderSchema, Schemas},
};

/// One provider to replace.
#[derive(Clone, Debug)]
pub struct Mock {
    /// Address of the provider.
    pub addr: ProviderAddr,
    /// Versions that the template accepts.
    pub constraint: Constraint,
    /// What it is served from.
    pub served: Served,
    /// True if the schema is only what the template's use of the provider implies.
    pub is_inferred: bool,
}

impl Mock {
    pub(super) fn new(schema: ProviderSchema, addr: ProviderAddr, constraint: Constraint) -> Self {
        Self {
            addr,
            constraint,
            served: Served {
                schema,
                ..Served::default()
            },
            is_inferred: true,
        }
    }

    /// Takes the schema of its provider, if it is among these. Returns whether it is.
    pub fn adopt(&mut self, schemas: &Schemas) -> bool {
        let known = schemas.provider_schemas.get(&self.addr.to_string());
        if let Some(schema) = known {
            (self.served.schema, self.is_inferred) = (schema.clone(), false);
        }
        known.is_some()
    }
}

/// Content of the file that a mock is served from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Schema of the provider.
    pub schema: ProviderSchema,
    /// Values of computed attributes.
    #[serde(default)]
    pub values: Vec<Values>,
    /// Paths whose change replaces a resource, by type.
    #[serde(default)]
    pub force_new: BTreeMap<String, Vec<String>>,
}

/// A store that has a mock of every provider of a template, and modules of a mirror.
pub struct MockStore {
    mocks: Vec<Mock>,
    /// The directory in which packages are kept from run to run.
    dir: PathBuf,
    executable: PathBuf,
    /// The mirror that modules come from.
    mirror: Option<Arc<dyn ProviderStore>>,
    real: Vec<RealProvider>,
}

/// A provider that is not mocked: one version of it, from a store.
pub struct RealProvider {
    /// Address of the provider.
    pub addr: ProviderAddr,
    /// The only version that the engine sees.
    pub version: Version,
    /// Store with its package.
    pub store: Arc<dyn ProviderStore>,
}

/// Takes links to one version of one provider, and counts them.
struct OnlyLinks<'a> {
    dir: &'a dyn LinkSink,
    addr: String,
    version: String,
    made: Cell<usize>,
}

impl LinkSink for OnlyLinks<'_> {
    fn link(&self, name: &Path, target: &Path) -> io::Result<()> {
        let Ok(file) = name.strip_prefix(&self.addr) else {
            return Ok(());
        };
        let is_tree = file.starts_with(&self.version);
        let packed = format!("_{}_", self.version);
        if !is_tree && !file.to_string_lossy().contains(&packed) {
            return Ok(());
        }
        self.made.set(self.made.get() + 1);
        self.dir.link(name, target)
    }
}

impl RealProvider {
    /// Links the package, and returns what keeps it in place.
    fn view(
        &self,
        dir: &dyn LinkSink,
    ) -> Result<Arc<dyn Any + Send + Sync>, Box<dyn Error + Send + Sync>> {
        let wanted = WantedProvider {
            locked: Some(self.version.clone()),
            constraint: Constraint::exactly(&self.version),
        };
        let links = OnlyLinks {
            dir,
            addr: self.addr.to_string(),
            version: self.version.to_string(),
            made: Cell::new(0),
        };
        let view = self
            .store
            .view(&links, &BTreeMap::from([(self.addr.clone(), wanted)]))?;
        match links.made.get() {
            0 => Err(format!(
                "{} has no {} {}",
                self.store.place(),
                self.addr.short(),
                self.version
            )
            .into()),
            _ => Ok(view.hold),
        }
    }
}

/// Takes links and makes none.
struct NoLinks;

impl LinkSink for NoLinks {
    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl MockStore {
    /// A store of mocks whose packages are kept in `dir`. Modules come from `mirror`.
    pub fn new(
        mocks: Vec<Mock>,
        dir: PathBuf,
        executable: PathBuf,
        mirror: Option<Arc<dyn ProviderStore>>,
    ) -> Self {
        Self {
            mocks,
            dir,
            executable,
            mirror,
            real: Vec::new(),
        }
    }

    /// Adds providers that are not mocked.
    #[must_use]
    pub fn with_real(mut self, real: Vec<RealProvider>) -> Self {
        self.real = real;
        self
    }

    /// The directory with the launcher of a mock; made if nobody did before.
    fn package(&self, mock: &Mock, version: &Version) -> io::Result<PathBuf> {
        let json = serde_json::to_vec(&mock.served)?;
        let mut hash = Sha256::new();
        for part in [
            self.executable.as_os_str().as_bytes(),
            &json,
            version.to_string().as_bytes(),
            mock.addr.kind().as_bytes(),
        ] {
            hash.update(part);
            hash.update([0]);
        }
        let target = self.dir.join(hex::encode(&hash.finalize()[..16]));
        let package = target.join("package");
        if package.is_dir() {
            return Ok(package);
        }
        fs::create_dir_all(&self.dir)?;
        let staging = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(&self.dir)?;
        fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755))?;
        outpost_files::write_public(&staging.path().join("schema.json"), &json)?;
        let inner = staging.path().join("package");
        fs::create_dir(&inner)?;
        let launcher = inner.join(format!(
            "terraform-provider-{}_v{version}",
            mock.addr.kind()
        ));
        outpost_files::write_public(&launcher, &self.launcher(&target.join("schema.json")))?;
        fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755))?;
        match fs::rename(staging.path(), &target) {
            // It has moved: there is nothing left to remove.
            Ok(()) => drop(staging.keep()),
            Err(_) if package.is_dir() => {}
            Err(error) => return Err(error),
        }
        Ok(package)
    }

    fn launcher(&self, schema: &Path) -> Vec<u8> {
        let quote = |path: &Path| {
            let quoted = path
                .as_os_str()
                .as_bytes()
                .iter()
                .flat_map(|byte| match byte {
                    b'\'' => br"'\''".to_vec(),
                    byte => vec![*byte],
                });
            [vec![b'\''], quoted.collect(), vec![b'\'']].concat()
        };
        let (program, schema) = (quote(&self.executable), quote(schema));
        [
            b"#!/bin/sh\nexec ".as_slice(),
            &program,
            b" ",
            COMMAND.as_bytes(),
            b" ",
            &schema,
            b"\n",
        ]
        .concat()
    }
}

#[async_trait]
impl ProviderStore for MockStore {
    fn place(&self) -> String {
        self.mirror
            .as_ref()
            .map_or_else(|| "of mocks".to_owned(), |mirror| mirror.place())
    }

    fn view(
        &self,
        dir: &dyn LinkSink,
        _: &BTreeMap<ProviderAddr, WantedProvider>,
    ) -> Result<ProviderView, Box<dyn Error + Send + Sync>> {
        let platform = Platform::current().to_string();
        for mock in &self.mocks {
            let version = acceptable(&mock.constraint);
            let package = self.package(mock, &version)?;
            let name = [mock.addr.to_string(), version.to_string(), platform.clone()].join("/");
            dir.link(Path::new(&name), &package)?;
        }
        let holds: Vec<_> = self
            .real
            .iter()
            .map(|real| real.view(dir))
            .collect::<Result<_, _>>()?;
        let real = self.real.iter().map(|real| real.addr.clone());
        let mocked = self.mocks.iter().map(|mock| mock.addr.clone());
        let providers = mocked.chain(real).collect();
        let modules = self
            .mirror
            .as_ref()
            .map(|mirror| mirror.view(&NoLinks, &BTreeMap::new()))
            .transpose()?;
        Ok(match modules {
            Some(view) => ProviderView {
                providers,
                unsigned: Vec::new(),
                network_mirror: None,
                checksums: BTreeMap::new(),
                hold: Arc::new((holds, view.hold)),
                ..view
            },
            None => ProviderView {
                providers,
                services: Services::new(),
                unsigned: Vec::new(),
                network_mirror: None,
                repositories: BTreeMap::new(),
                token: None,
                checksums: BTreeMap::new(),
                init_proxy: None,
                hold: Arc::new(holds),
            },
        })
    }

    async fn lacks(
        &self,
        template: UnmetTemplate,
    ) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let Some(mirror) = &self.mirror else {
            return Ok(Vec::new());
        };
        // No provider comes from the mirror here.
        let mut lacks = mirror.lacks(template).await?;
        lacks.retain(|line| !line.starts_with("provider "));
        Ok(lacks)
    }
}

/// A version that satisfies a constraint: one that it names, or the next one after it.
fn acceptable(constraint: &Constraint) -> Version {
    let text = constraint.to_string();
    let terms = text.split(',').map(|term| {
        term.trim()
            .trim_start_matches(['>', '<', '=', '~', '!', ' '])
    });
    let named = terms.filter_map(|term| {
        let mut parts = term
            .split('-')
            .next()?
            .split('.')
            .map(|part| part.parse::<u64>().ok());
        let mut next = || parts.next().flatten().unwrap_or(0);
        term.parse()
            .ok()
            .or_else(|| Some(Version::new(next(), next(), next())))
    });
    let around = |version: Version| {
        let Version {
            major,
            minor,
            patch,
            ..
        } = version;
        [
            version,
            Version::new(major, minor, patch + 1),
            Version::new(major, minor + 1, 0),
            Version::new(major + 1, 0, 0),
            Version::new(major, minor, patch.saturating_sub(1)),
            Version::new(major, minor.saturating_sub(1), 0),
            Version::new(major.saturating_sub(1), 0, 0),
        ]
    };
    let usual = [Version::new(1, 0, 0), Version::new(0, 1, 0)];
    let mut candidates = named.flat_map(around).chain(usual);
    // Engines take 0.0.0 for no version at all.
    candidates
        .find(|version| *version != Version::new(0, 0, 0) && constraint.matches(version))
        .unwrap_or(Version::new(1, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mock_has_a_version_that_the_template_accepts() {
        for text in [
            "",
            "~> 3.0",
            ">= 2.4",
            "> 1.2.3",
            "< 2.0",
            "!= 1.0.0",
            "3.1.4",
            ">= 2.0, < 2.1",
            "~> 2.23.0",
        ] {
            let constraint = Constraint::parse(text).unwrap();
            let version = acceptable(&constraint);
            assert!(constraint.matches(&version), "{text}");
            assert_ne!(version, Version::new(0, 0, 0), "{text}");
        }
    }
}
