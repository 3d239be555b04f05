//! Mock providers for one template.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use outpost_base::registry::{DEFAULT_HOST, ProviderAddr};
use outpost_language::Constraint;
use serde_json::Value as Json;

use super::{
    addresses,
    archive::{LOCAL, rewritten},
    backend::StateServer,
    force_new, infer, providers,
    schema::{ProviderSchema, Schemas},
    store::Mock,
};
use crate::check::{Assumption, Calls, MissingModule, Model, SourceError, Sources};

/// Mocks of the providers of a template, and changes of its source that they need.
#[derive(Clone, Debug, Default)]
pub struct Doubles {
    /// One for each provider but `coder` and those of the engine.
    pub mocks: Vec<Mock>,
    /// Modules that are not there, so that nobody knows their providers.
    pub missing: Vec<MissingModule>,
    /// Calls of modules that lead nowhere or in a circle: a file, a line and a reason.
    pub wrong: Vec<String>,
    /// Names of resources, and whether they are data sources, by type.
    pub(crate) names: BTreeMap<(bool, String), BTreeSet<String>>,
    /// True if a state in a file would slow down the engine.
    pub is_large: bool,
    files: BTreeMap<PathBuf, String>,
    has_backend: bool,
}

/// Below this many resources, starting a backend process costs more than it saves. Instances of a block beyond this are not
/// counted.
const MANY: usize = 100;

impl Doubles {
    /// The doubles for the template in a directory. `force_new` are arguments whose change replaces a resource.
    ///
    /// # Errors
    /// [`SourceError`] if the directory cannot be listed.
    pub fn of_template(
        dir: &Path,
        variables: &[(String, String)],
        default_host: &str,
        force_new: &BTreeSet<String>,
    ) -> Result<Self, SourceError> {
        let mut sources = Sources::read(dir, BTreeMap::new())?;
        let calls = Calls::follow(&mut sources)?;
        let model = Model::new(&sources, &calls, variables);
        Ok(Self {
            wrong: calls.wrong.iter().map(ToString::to_string).collect(),
            missing: calls.missing,
            ..Self::of(&model, default_host, force_new)
        })
    }

    /// The doubles for a template whose source is known.
    pub fn of(model: &Model<'_>, default_host: &str, force_new: &BTreeSet<String>) -> Self {
        let mut names: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for decl in &model.decls {
            let of_type = names.entry((decl.is_data, decl.kind.to_owned()));
            of_type.or_default().insert(decl.name.to_owned());
        }
        Self {
            mocks: mocks(model, default_host, force_new),
            missing: Vec::new(),
            wrong: Vec::new(),
            names,
            is_large: resources(model) >= MANY,
            files: addresses::files(model, default_host),
            has_backend: has_backend(model),
        }
    }

    /// Serves mocks from schemas that are known.
    pub fn use_schemas(&mut self, schemas: &Schemas) {
        for mock in &mut self.mocks {
            mock.adopt(schemas);
        }
    }

    /// Prepares mocks for the state of a real workspace: for schema versions, which a template does not state, and for types and
    /// providers that the template no longer uses.
    pub fn adopt_state(&mut self, state: &Json) {
        let resources = state["resources"].as_array().into_iter().flatten();
        for resource in resources.filter(|it| it["mode"] == "managed") {
            let (Some(addr), Some(kind)) = (provider(resource), resource["type"].as_str()) else {
                continue;
            };
            if !addresses::is_mocked(&addr) {
                continue;
            }
            let instances = resource["instances"].as_array().into_iter().flatten();
            let versions = instances.filter_map(|it| it["schema_version"].as_i64());
            let version = versions.max().unwrap_or(0);
            let known = self.mocks.iter().position(|mock| mock.addr == addr);
            let known = known.unwrap_or_else(|| {
                let schema = ProviderSchema::default();
                let mock = Mock::new(schema, addr, Constraint::default());
                self.mocks.push(mock);
                self.mocks.len() - 1
            });
            let mock = &mut self.mocks[known];
            if mock.is_inferred {
                let schemas = &mut mock.served.schema.resource_schemas;
                let schema = schemas.entry(kind.to_owned()).or_default();
                schema.version = schema.version.max(version);
            }
        }
    }

    /// The archive of the template, ready to be planned with these mocks. Its state is in the session's file, or with
    /// `states`.
    ///
    /// # Errors
    /// If the archive is broken.
    pub fn prepare(&self, archive: &Bytes, states: Option<&StateServer>) -> std::io::Result<Bytes> {
        let served = states.map(StateServer::backend);
        let local = self.has_backend.then(|| LOCAL.to_owned());
        rewritten(archive, served.or(local).as_deref(), &self.files)
    }
}

/// Resources of a started workspace, as far as the source tells.
fn resources(model: &Model<'_>) -> usize {
    let made = model.decls.iter().filter(|decl| !decl.is_data);
    let counts = made.map(|decl| {
        let count = model.values.how_many(model, decl, Assumption::Started);
        count.unwrap_or(1)
    });
    counts.sum()
}

/// Mocks of the providers of a template, with schemas inferred from use.
pub(crate) fn mocks(model: &Model<'_>, host: &str, given: &BTreeSet<String>) -> Vec<Mock> {
    let mock = |(addr, constraint)| {
        let mut mock = Mock::new(infer(model, &addr, host), addr, constraint);
        for kind in mock.served.schema.resource_schemas.keys() {
            let paths = force_new(kind, given);
            mock.served.force_new.insert(kind.clone(), paths);
        }
        mock
    };
    providers(model, host).into_iter().map(mock).collect()
}

/// The provider that a resource of a state belongs to: `module.a.provider["HOST/NAMESPACE/TYPE"].alias`.
fn provider(resource: &Json) -> Option<ProviderAddr> {
    let (_, behind) = resource["provider"].as_str()?.split_once("provider[\"")?;
    let (addr, _) = behind.split_once("\"]")?;
    ProviderAddr::parse(addr, DEFAULT_HOST).ok()
}

/// Tells whether a template names a place for states.
pub(crate) fn has_backend(model: &Model<'_>) -> bool {
    let files = model.instances[0].source.files.iter();
    let mut settings = files.flat_map(|file| file.body().get_blocks("terraform"));
    settings.any(|block| {
        let mut inner = block.body.blocks();
        inner.any(|inner| matches!(inner.ident.as_str(), "backend" | "cloud"))
    })
}
