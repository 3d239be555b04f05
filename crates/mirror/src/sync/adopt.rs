//! Packages from a local directory: one that `terraform providers mirror` made, or one with own builds.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use outpost_base::registry::{Hash, Platform, ProviderAddr};
use outpost_files as files;
use semver::Version;
use serde::Deserialize;
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use super::{
    package::{self, Identity},
    trust::listed,
};
use crate::{Store, StoreError, generation::Provider};

/// Maximum size of a package in bytes; the largest provider has a few hundred million.
const MAX_PACKAGE_BYTES: u64 = 8 << 30;
/// Maximum size of a list of checksums or of an index in bytes.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// Maximum number of files of an unpacked package.
const MAX_FILES: usize = 10_000;

/// A package that was found in a directory.
struct Candidate {
    addr: ProviderAddr,
    version: Version,
    platform: Platform,
    path: PathBuf,
}

/// Imports all packages in a directory in the layout of Terraform's filesystem mirror, packed or not, and returns the
/// result of each.
///
/// A checksum beside a package must match: that of `VERSION.json`, which Terraform writes, or of `…_SHA256SUMS`.
///
/// # Errors
/// If the directory itself cannot be read.
pub(super) fn adopt(
    store: &Store,
    dir: &Path,
) -> io::Result<Vec<(String, Result<Provider, StoreError>)>> {
    let found = candidates(dir)?;
    let adopted = found.into_iter().map(|candidate| {
        let Candidate {
            addr,
            version,
            platform,
            ..
        } = &candidate;
        let name = format!("{addr} {version} {platform}");
        (name, take(store, &candidate))
    });
    Ok(adopted.collect())
}

fn take(store: &Store, candidate: &Candidate) -> Result<Provider, StoreError> {
    let Candidate {
        addr,
        version,
        platform,
        path,
    } = candidate;
    let filename = format!(
        "terraform-provider-{}_{version}_{platform}.zip",
        addr.kind()
    );
    let failed = |source| StoreError::Io {
        what: "read",
        path: path.clone(),
        source,
    };
    let is_packed = path.is_file();
    let (archive, size) = match is_packed {
        true => {
            let file = File::open(path).map_err(failed)?;
            store.put_from(&filename, file, MAX_PACKAGE_BYTES)?
        }
        false => {
            let packed = pack(path).map_err(failed)?;
            store.put_from(&filename, packed, MAX_PACKAGE_BYTES)?
        }
    };
    let identity = Identity {
        addr: addr.clone(),
        platform: platform.clone(),
        filename: filename.clone(),
    };
    let package = package::examine(store, identity, archive, size)?;
    let refused = |why: String| StoreError::Package {
        name: filename.clone(),
        why,
    };
    // Nothing beside an unpacked package has the checksum of its former zip file.
    if is_packed {
        let dir = files::directory_of(path);
        if let Some(hashes) = promised(dir, version, platform).map_err(failed)?
            && !package::satisfies(&package, &hashes)
        {
            let why = format!("`{version}.json` beside it has different checksums");
            return Err(refused(why));
        }
        let sums = format!("terraform-provider-{}_{version}_SHA256SUMS", addr.kind());
        let list = read_if_there(&dir.join(&sums)).map_err(failed)?;
        if let Some(list) = list
            && listed(&list, &filename) != Some(archive)
        {
            let why = format!("`{sums}` beside it does not have its checksum");
            return Err(refused(why));
        }
    }
    Ok(Provider {
        addr: addr.clone(),
        version: version.clone(),
        protocols: Vec::new(),
        signed: None,
        packages: vec![package],
    })
}

/// Returns the checksums that Terraform wrote when it made the directory.
fn promised(dir: &Path, version: &Version, platform: &Platform) -> io::Result<Option<Vec<Hash>>> {
    #[derive(Deserialize)]
    struct Index {
        archives: BTreeMap<String, Archive>,
    }
    #[derive(Deserialize)]
    struct Archive {
        #[serde(default)]
        hashes: Vec<Hash>,
    }
    let Some(text) = read_if_there(&dir.join(format!("{version}.json")))? else {
        return Ok(None);
    };
    let mut index: Index = serde_json::from_slice(&text)?;
    let archive = index.archives.remove(&platform.to_string());
    Ok(archive.map(|archive| archive.hashes))
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = Vec::new();
    file.take(MAX_LIST_BYTES + 1).read_to_end(&mut content)?;
    match content.len() as u64 > MAX_LIST_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(Some(content)),
    }
}

/// Finds packages in `HOST/NAMESPACE/TYPE/`, as zip files or in `VERSION/OS_ARCH/`.
fn candidates(dir: &Path) -> io::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for (host, path) in children(dir)? {
        for (namespace, path) in children(&path)? {
            for (kind, path) in children(&path)? {
                let text = format!("{host}/{namespace}/{kind}");
                if let Ok(addr) = text.parse::<ProviderAddr>() {
                    of_provider(&addr, &path, &mut found)?;
                }
            }
        }
    }
    Ok(found)
}

fn of_provider(addr: &ProviderAddr, dir: &Path, found: &mut Vec<Candidate>) -> io::Result<()> {
    for (name, path) in children(dir)? {
        if let Some((version, platform)) = packed_name(addr, &name) {
            let addr = addr.clone();
            found.push(Candidate {
                addr,
                version,
                platform,
                path,
            });
            continue;
        }
        let Ok(version) = name.parse::<Version>() else {
            continue;
        };
        for (name, path) in children(&path)? {
            if let Ok(platform) = name.parse()
                && path.is_dir()
            {
                let (addr, version) = (addr.clone(), version.clone());
                found.push(Candidate {
                    addr,
                    version,
                    platform,
                    path,
                });
            }
        }
    }
    Ok(())
}

/// Parses `terraform-provider-TYPE_VERSION_OS_ARCH.zip` into the version and the platform.
fn packed_name(addr: &ProviderAddr, name: &str) -> Option<(Version, Platform)> {
    let name = name.to_lowercase();
    let rest = name.strip_prefix(&format!("terraform-provider-{}_", addr.kind()))?;
    let (version, platform) = rest.strip_suffix(".zip")?.split_once('_')?;
    Some((version.parse().ok()?, platform.parse().ok()?))
}

/// Returns names and paths in a directory, sorted; none if it is not a directory.
fn children(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            children.push((name, entry.path()));
        }
    }
    children.sort();
    Ok(children)
}

/// Packs an unpacked package into a zip file. Equal files give equal bytes.
fn pack(dir: &Path) -> io::Result<File> {
    let mut files = Vec::new();
    walk(dir, "", &mut files)?;
    let mut zip = ZipWriter::new(tempfile::tempfile()?);
    for (name, path) in files {
        let mode = match fs::metadata(&path)?.permissions().mode() & 0o111 {
            0 => 0o644,
            _ => 0o755,
        };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .large_file(fs::metadata(&path)?.len() >= u64::from(u32::MAX))
            .unix_permissions(mode);
        zip.start_file(name, options)?;
        io::copy(&mut File::open(&path)?, &mut zip)?;
    }
    let mut file = zip.finish()?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

fn walk(dir: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for (name, path) in children(dir)? {
        let name = format!("{prefix}{name}");
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() && prefix.matches('/').count() < 32 {
            walk(&path, &format!("{name}/"), files)?;
        } else if kind.is_file() {
            files.push((name, path));
        } else {
            let what = format!("`{}` is neither a file nor a directory", path.display());
            return Err(io::Error::other(what));
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other("the package has more than 10,000 files"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
