//! ResultCache of earlier runs of `outpost template check` and `outpost template test`.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::schemas::SchemaArgs;
use crate::{
    cli::engine::EngineArgs,
    files::archive,
    stop::Stop,
    template::{
        check::settings::Settings,
        policy::Policies,
        result_cache::{Key, KeyParts, ResultCache, appearance},
    },
};

/// Options about results of earlier runs.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CacheArgs {
    /// Neither use nor keep results of earlier runs
    ///
    /// The result for a template is used again if nothing changed on which it depends: files, settings, options, schemas, mirror,
    /// policies, engine and this program.
    #[arg(long)]
    no_cache: bool,
}

/// ResultCache of earlier runs with one engine.
pub(super) struct EngineResults {
    results: ResultCache,
    common: KeyParts,
}

impl EngineResults {
    /// The results of runs with the engine of `engine`; `None` if they may not be used, or if nobody knows whether the engine,
    /// the mirror or anything else has changed.
    pub(super) async fn open(cache: &CacheArgs, engine: &EngineArgs, stop: &Stop) -> Option<Self> {
        if cache.no_cache {
            return None;
        }
        let dir = engine.cache_dir().ok()?.join("results");
        let program = appearance(&std::env::current_exe().ok()?).ok()?;
        let identity = engine.identity(stop).await?;
        let common = KeyParts::default()
            .with(env!("CARGO_PKG_VERSION"))
            .with(program)
            .with_all(identity);
        Some(Self {
            results: ResultCache::new(dir),
            common,
        })
    }

    /// Begins the key of a result that depends on a template: `None` if the template cannot be packed.
    pub(super) fn of_template(&self, directory: &Path, settings: &Settings) -> Option<TemplateKey> {
        let archive = archive::pack_template(directory).ok()?;
        let decided = Settings {
            path: Default::default(),
            ..settings.clone()
        };
        // A scenario's workspace is named after the directory.
        let name = directory.canonicalize().ok()?;
        let parts = self.common.clone();
        let parts = parts.with(&archive).with(format!("{decided:?}"));
        let name = name.file_name().map(OsStr::as_bytes).unwrap_or_default();
        Some(TemplateKey {
            parts: parts.with(name),
            archive,
        })
    }

    pub(super) fn get<T: serde::de::DeserializeOwned>(&self, key: &Key) -> Option<T> {
        self.results.get(key)
    }

    /// Keeps a result. One that cannot be kept is found again next time.
    pub(super) fn put(&self, key: &Key, result: &impl serde::Serialize) {
        if let Err(error) = self.results.put(key, result) {
            tracing::debug!(%error, "cannot keep a result");
        }
    }
}

/// The key of a result that depends on a template, before what else it depends on.
pub(super) struct TemplateKey {
    pub(super) parts: KeyParts,
    /// The template's files.
    pub(super) archive: Bytes,
}

/// Schemas beyond this size are told apart by their appearance: reading them would take longer than a second run may.
const MAX_READ: u64 = 4 << 20;

/// Identifies what schemas come from, by the settings and by what was named; `None` if that cannot be told. A mirror is part
/// of the engine's identity.
pub(super) fn schemas(settings: &Settings, named: &SchemaArgs) -> Option<Vec<Vec<u8>>> {
    // Reading all packages of a directory would take longer than a second run may.
    if named.has_plugin_dirs() {
        return None;
    }
    let beside = settings.schemas.iter().map(|path| settings.beside(path));
    let all = beside.chain(named.named_files().iter().cloned());
    all.map(|path| schema(&path).ok()).collect()
}

/// Names and texts of the policies in directories; `None` if one cannot be read.
pub(super) fn policies(dirs: &[PathBuf]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for dir in dirs {
        let texts = Policies::texts(dir).ok()?;
        all.push(texts.len().to_string());
        all.extend(texts.into_iter().flat_map(|(name, text)| [name, text]));
    }
    Some(all)
}

fn schema(path: &Path) -> io::Result<Vec<u8>> {
    let about = fs::metadata(path)?;
    match about.is_file() && about.len() <= MAX_READ {
        true => fs::read(path),
        false => Ok(appearance(path)?.into_bytes()),
    }
}
