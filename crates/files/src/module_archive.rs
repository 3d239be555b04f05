//! The modules that init fetched: a list of them, and their files as one archive for the next job.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use outpost_base::job::Module;
use serde::Deserialize;

use super::{
    archive::Writer,
    beneath::{Dir, Kind},
};

/// Path of Terraform's list of fetched modules, below the template's directory.
const MANIFEST: &str = ".terraform/modules/modules.json";
/// Directory of fetched modules; others are part of the template.
const FETCHED: &str = ".terraform/modules/";
/// Maximum size of a module archive in bytes; Coder's limit.
const LIMIT_BYTES: u64 = 20 * 1024 * 1024;
/// Maximum size of a manifest in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 * 1024 * 1024;
/// Size of the two blocks that end an archive.
const FOOTER_BYTES: u64 = 1024;
/// Owner and group of all entries; Coder's choice.
const OWNER: u32 = 1000;
/// Maximum depth of directories in a module.
const MAX_DEPTH: usize = 64;
/// Maximum number of files and directories that are examined; an archive has room for 40,960.
const MAX_ITEMS: usize = 100_000;

/// Result of packing modules.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// A tar archive that can be unpacked over the template. Empty if no module was fetched or none fits.
    pub archive: Bytes,
    /// `KEY:SOURCE` of each module that does not fit.
    pub skipped: Vec<String>,
}

/// Packs the fetched modules of the template in `dir`, the smallest first, up to 20 MiB.
///
/// Equal files give equal bytes, and the same bytes as Coder's provisioner makes: a server stores them once.
/// `.git` directories and everything but files and directories are left out.
///
/// # Errors
/// [`ModuleError`] if the manifest or a module cannot be read.
///
/// # Source
/// coder `provisioner/terraform/modules.go`, `GetModulesArchive`.
pub fn pack_modules(dir: &Dir) -> Result<Packed, ModuleError> {
    pack_modules_within(dir, LIMIT_BYTES)
}

/// Does the same as [`pack_modules`] with another limit, in bytes.
///
/// # Errors
/// Those of [`pack_modules`].
pub(crate) fn pack_modules_within(dir: &Dir, limit: u64) -> Result<Packed, ModuleError> {
    let Some(manifest) = read_manifest(dir)? else {
        return Ok(Packed::default());
    };
    let mut modules = Vec::new();
    for entry in parse_manifest(dir, &manifest)? {
        if entry.dir.starts_with(FETCHED) {
            let files = list(dir, &entry)?;
            modules.push((files.iter().map(Item::estimate).sum::<u64>(), entry, files));
        }
    }
    modules.sort_by_key(|(estimate, ..)| *estimate);
    let (mut writer, mut skipped, mut has_file) = (Writer::new(OWNER), Vec::new(), false);
    for (estimate, entry, files) in modules {
        let remaining = limit.saturating_sub(writer.len());
        if estimate > remaining.saturating_sub(FOOTER_BYTES) {
            skipped.push(format!("{}:{}", entry.key, entry.source));
            continue;
        }
        for item in &files {
            has_file |= item.write(dir, &mut writer)?;
        }
    }
    if !has_file {
        return Ok(Packed {
            archive: Bytes::new(),
            skipped,
        });
    }
    writer.file(MANIFEST, 0o644, &manifest);
    let archive = writer.into_bytes();
    if archive.len() as u64 > limit {
        return Err(ModuleError::TooBig { limit });
    }
    Ok(Packed {
        archive: archive.into(),
        skipped,
    })
}

/// Returns the modules that the template in `dir` calls, in the order of Terraform's manifest, without the template
/// itself.
///
/// Empty if init fetched none.
///
/// # Errors
/// [`ModuleError`] if the manifest cannot be read.
pub fn read_modules(dir: &Dir) -> Result<Vec<Module>, ModuleError> {
    let Some(manifest) = read_manifest(dir)? else {
        return Ok(Vec::new());
    };
    let entries = parse_manifest(dir, &manifest)?.into_iter();
    let called = entries.filter(|entry| !entry.source.is_empty());
    let module = |entry: Entry| Module {
        source: entry.source,
        version: entry.version,
        key: entry.key,
    };
    Ok(called.map(module).collect())
}

/// A module that init fetched, and its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedModule {
    /// Names of the calls that lead to it: `machine.editor`.
    pub key: String,
    /// Source in the form of Terraform's manifest, with the host of a registry.
    pub source: String,
    /// Directory, relative to the template's.
    pub dir: PathBuf,
}

/// Returns the modules below the template in `dir` that were fetched, in the order of Terraform's manifest.
///
/// # Errors
/// [`ModuleError`] if the manifest cannot be read, or names a directory elsewhere.
pub fn fetched_modules(dir: &Dir) -> Result<Vec<FetchedModule>, ModuleError> {
    let Some(manifest) = read_manifest(dir)? else {
        return Ok(Vec::new());
    };
    let entries = parse_manifest(dir, &manifest)?.into_iter();
    let fetched = entries.filter(|entry| entry.dir.starts_with(FETCHED));
    let module = |entry: Entry| match stays_inside(&entry.dir) {
        true => Ok(FetchedModule {
            key: entry.key,
            source: entry.source,
            dir: entry.dir.into(),
        }),
        false => Err(ModuleError::NonLocal { dir: entry.dir }),
    };
    fetched.map(module).collect()
}

fn stays_inside(dir: &str) -> bool {
    let is_plain = |component| matches!(component, Component::Normal(_));
    Path::new(dir).components().all(is_plain)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    #[serde(default)]
    modules: Option<Vec<Entry>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    key: String,
    source: String,
    version: String,
    dir: String,
}

fn read_manifest(dir: &Dir) -> Result<Option<Vec<u8>>, ModuleError> {
    match dir.find(MANIFEST) {
        Ok(Some(found)) if found.size > MAX_MANIFEST_BYTES => Err(ModuleError::TooBig {
            limit: MAX_MANIFEST_BYTES,
        }),
        Ok(Some(_)) => dir
            .read(MANIFEST, MAX_MANIFEST_BYTES)
            .map_err(ModuleError::read(dir, MANIFEST)),
        Ok(None) => Ok(None),
        Err(error) => Err(ModuleError::read(dir, MANIFEST)(error)),
    }
}

fn parse_manifest(dir: &Dir, manifest: &[u8]) -> Result<Vec<Entry>, ModuleError> {
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|source| ModuleError::Manifest {
            path: dir.path().join(MANIFEST),
            source,
        })?;
    Ok(manifest.modules.unwrap_or_default())
}

/// A file or directory of a module, with its path relative to the template's directory.
struct Item {
    name: String,
    mode: u32,
    /// Size in bytes; `None` for a directory.
    size: Option<u64>,
}

impl Item {
    /// Returns its maximum size in the archive. Coder counts a whole block of padding after a full last block.
    fn estimate(&self) -> u64 {
        self.size
            .map_or(512, |size| 512 + size + (512 - size % 512))
    }

    /// Writes it to the archive, and returns whether it is a file.
    fn write(&self, dir: &Dir, writer: &mut Writer) -> Result<bool, ModuleError> {
        if self.size.is_none() {
            writer.directory(&self.name, self.mode);
            return Ok(false);
        }
        let failed = |source| ModuleError::read(dir, &self.name)(source);
        // A file that has grown since it was measured would take the room of others.
        let content = dir.read(&self.name, self.size.unwrap_or_default());
        let content = content.map_err(failed)?;
        let content = content.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        writer.file(&self.name, self.mode, &content);
        Ok(true)
    }
}

fn list(dir: &Dir, entry: &Entry) -> Result<Vec<Item>, ModuleError> {
    if !stays_inside(&entry.dir) {
        return Err(ModuleError::NonLocal {
            dir: entry.dir.clone(),
        });
    }
    let mut items = Vec::new();
    let name = entry.dir.trim_end_matches('/');
    walk(dir, name, 0, &mut items)?;
    Ok(items)
}

fn walk(dir: &Dir, name: &str, depth: usize, items: &mut Vec<Item>) -> Result<(), ModuleError> {
    let failed = |source| ModuleError::read(dir, name)(source);
    let found = dir.find(name).map_err(failed)?;
    let found = found.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let is_dir = found.kind == Kind::Directory;
    let is_git = is_dir && (name == ".git" || name.ends_with("/.git"));
    if is_git || !(is_dir || found.kind == Kind::File) || depth > MAX_DEPTH {
        return Ok(());
    }
    if items.len() == MAX_ITEMS {
        return Err(ModuleError::TooMany { limit: MAX_ITEMS });
    }
    items.push(Item {
        name: name.to_owned(),
        mode: found.mode,
        size: (found.kind == Kind::File).then_some(found.size),
    });
    if is_dir {
        for (child, _) in dir.list(name).map_err(failed)? {
            let child = child.into_string().map_err(|child| ModuleError::Name {
                path: dir.path().join(name).join(child),
            })?;
            walk(dir, &format!("{name}/{child}"), depth + 1, items)?;
        }
    }
    Ok(())
}

/// Reason why modules were not listed or not packed.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file cannot be read.
    #[error("failed to read `{}`", .path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// Terraform's list of modules is damaged.
    #[error("failed to parse `{}`", .path.display())]
    Manifest {
        /// Path of the list.
        path: PathBuf,
        /// Error from the parser.
        source: serde_json::Error,
    },
    /// The list names a directory outside of the template.
    #[error("module directory {dir:?} is not inside of the template")]
    NonLocal {
        /// Directory in the list.
        dir: String,
    },
    /// A file's name cannot be stored in an archive.
    #[error("file name `{}` cannot be stored: it must be UTF-8", .path.display())]
    Name {
        /// Path of the file.
        path: PathBuf,
    },
    /// There are more files than a module has.
    #[error("modules have more than {limit} files and directories")]
    TooMany {
        /// Maximum number of files.
        limit: usize,
    },
    /// The list of modules alone exceeds the limit.
    #[error("modules have more than {limit} bytes")]
    TooBig {
        /// Maximum size of the archive in bytes.
        limit: u64,
    },
}

impl ModuleError {
    fn read(dir: &Dir, name: &str) -> impl FnOnce(io::Error) -> Self {
        let path = dir.path().join(name);
        move |source| Self::Read { path, source }
    }
}

#[cfg(test)]
mod tests;
