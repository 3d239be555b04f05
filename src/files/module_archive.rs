//! The modules that init fetched: which there are, and their files as one archive for the next job.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;

use super::archive::Writer;
use crate::job::Module;

/// Where Terraform writes down which modules it fetched, below the template's directory.
const MANIFEST: &str = ".terraform/modules/modules.json";
/// Modules in here were fetched; others are part of the template.
const FETCHED: &str = ".terraform/modules/";
/// How long a module archive may be, in bytes; Coder's limit.
const LIMIT_BYTES: u64 = 20 * 1024 * 1024;
/// A manifest longer than this is not Terraform's, in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 * 1024 * 1024;
/// The two blocks that end an archive.
const FOOTER_BYTES: u64 = 1024;
/// Owner and group of every entry; Coder's choice.
const OWNER: u32 = 1000;
/// A module deeper than this is not archived.
const MAX_DEPTH: usize = 64;

/// What [`pack_modules`] gives.
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
pub fn pack_modules(dir: &Path) -> Result<Packed, ModuleError> {
    pack_modules_within(dir, LIMIT_BYTES)
}

/// [`pack_modules`] with another limit, in bytes.
///
/// # Errors
/// As [`pack_modules`].
pub fn pack_modules_within(dir: &Path, limit: u64) -> Result<Packed, ModuleError> {
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

/// The modules that the template in `dir` calls, in the order of Terraform's manifest, without the template itself.
///
/// Empty if init fetched none.
///
/// # Errors
/// [`ModuleError`] if the manifest cannot be read.
pub fn read_modules(dir: &Path) -> Result<Vec<Module>, ModuleError> {
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

fn read_manifest(dir: &Path) -> Result<Option<Vec<u8>>, ModuleError> {
    let path = dir.join(MANIFEST);
    let length = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModuleError::Read { path, source }),
    };
    if length > MAX_MANIFEST_BYTES {
        return Err(ModuleError::TooBig {
            limit: MAX_MANIFEST_BYTES,
        });
    }
    let manifest = fs::read(&path).map_err(ModuleError::read(&path))?;
    Ok(Some(manifest))
}

fn parse_manifest(dir: &Path, manifest: &[u8]) -> Result<Vec<Entry>, ModuleError> {
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|source| ModuleError::Manifest {
            path: dir.join(MANIFEST),
            source,
        })?;
    Ok(manifest.modules.unwrap_or_default())
}

/// One file or directory of a module. The name starts at the template's directory.
struct Item {
    name: String,
    mode: u32,
    /// `None` for a directory.
    size: Option<u64>,
}

impl Item {
    /// What it takes in the archive at most. Coder counts a whole block of padding after a full last block.
    fn estimate(&self) -> u64 {
        self.size
            .map_or(512, |size| 512 + size + (512 - size % 512))
    }

    /// Returns whether it is a file.
    fn write(&self, dir: &Path, writer: &mut Writer) -> Result<bool, ModuleError> {
        if self.size.is_none() {
            writer.directory(&self.name, self.mode);
            return Ok(false);
        }
        let path = dir.join(&self.name);
        let content = fs::read(&path).map_err(ModuleError::read(&path))?;
        writer.file(&self.name, self.mode, &content);
        Ok(true)
    }
}

fn list(dir: &Path, entry: &Entry) -> Result<Vec<Item>, ModuleError> {
    let module = Path::new(&entry.dir);
    let stays_inside = |component| matches!(component, Component::Normal(_));
    if !module.components().all(stays_inside) {
        return Err(ModuleError::NonLocal {
            dir: entry.dir.clone(),
        });
    }
    let mut items = Vec::new();
    let name = entry.dir.trim_end_matches('/');
    walk(&dir.join(name), name, 0, &mut items)?;
    Ok(items)
}

fn walk(path: &Path, name: &str, depth: usize, items: &mut Vec<Item>) -> Result<(), ModuleError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::symlink_metadata(path).map_err(ModuleError::read(path))?;
    let is_dir = metadata.is_dir();
    let is_git = is_dir && path.file_name().is_some_and(|name| name == ".git");
    if is_git || !(is_dir || metadata.is_file()) || depth > MAX_DEPTH {
        return Ok(());
    }
    items.push(Item {
        name: name.to_owned(),
        mode: metadata.permissions().mode() & 0o7777,
        size: metadata.is_file().then_some(metadata.len()),
    });
    if is_dir {
        for child in children(path)? {
            walk(
                &path.join(&child),
                &format!("{name}/{child}"),
                depth + 1,
                items,
            )?;
        }
    }
    Ok(())
}

fn children(path: &Path) -> Result<Vec<String>, ModuleError> {
    let mut children = Vec::new();
    for entry in fs::read_dir(path).map_err(ModuleError::read(path))? {
        let name = entry.map_err(ModuleError::read(path))?.file_name();
        let name = name.into_string().map_err(|name| ModuleError::Name {
            path: path.join(name),
        })?;
        children.push(name);
    }
    children.sort();
    Ok(children)
}

/// Why modules were not listed or not packed.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file cannot be read.
    #[error("failed to read `{}`", .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Terraform's list of modules is damaged.
    #[error("failed to parse `{}`", .path.display())]
    Manifest {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The list names a directory outside.
    #[error("module directory {dir:?} is not inside of the template")]
    NonLocal {
        /// As the list has it.
        dir: String,
    },
    /// A file's name cannot be stored.
    #[error("file name `{}` cannot be stored: it must be UTF-8", .path.display())]
    Name {
        /// Which one.
        path: PathBuf,
    },
    /// The list of modules alone is too long.
    #[error("modules have more than {limit} bytes")]
    TooBig {
        /// What is allowed, in bytes.
        limit: u64,
    },
}

impl ModuleError {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }
}

#[cfg(test)]
mod tests;
