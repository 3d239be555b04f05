//! Files of a template or a module in memory, from wherever they come.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use crate::language::{LoadError, Module};

/// Files in a tree; a repository of many modules has some thousand.
const MAX_FILES: usize = 50_000;
/// Bytes of one file, and of all.
const MAX_FILE_BYTES: u64 = 32 << 20;
const MAX_TREE_BYTES: u64 = 256 << 20;
/// Directories within each other.
const MAX_DEPTH: usize = 32;
/// Links that lead to links.
const MAX_LINKS: usize = 8;

/// Files by their paths, which have neither dots nor a slash at either end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// What they are.
    pub files: BTreeMap<String, TreeFile>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Whether it can be run.
    pub is_executable: bool,
    /// What it has.
    pub content: Vec<u8>,
}

/// Collects a tree, within limits.
#[derive(Default)]
struct Builder {
    tree: Tree,
    links: BTreeMap<String, String>,
    bytes: u64,
}

impl Tree {
    /// What of a directory says what a template needs: its configuration and its lock file, in all directories below
    /// it that are not hidden.
    ///
    /// # Errors
    /// The system's reason, and if there is too much.
    pub fn of_template(dir: &Path) -> io::Result<Self> {
        let mut builder = Builder::default();
        builder.directory(dir, "", 0)?;
        Ok(builder.finish())
    }

    /// A tar archive, as `outpost template push` packs it.
    ///
    /// # Errors
    /// If it is damaged, leads out of itself, or is too large.
    pub fn of_tar(reader: impl Read) -> io::Result<Self> {
        let mut builder = Builder::default();
        for entry in tar::Archive::new(reader).entries()? {
            let mut entry = entry?;
            let name = String::from_utf8(entry.path_bytes().into_owned());
            let name = clean(&name.map_err(|_| refused("a file name is not UTF-8"))?)?;
            let is_executable = entry.header().mode()? & 0o111 != 0;
            let kind = entry.header().entry_type();
            if kind.is_symlink() {
                if let Some(target) = entry.link_name_bytes() {
                    builder.link(name, &String::from_utf8_lossy(&target));
                }
            } else if kind.is_file() || kind.is_contiguous() {
                builder.file(name, is_executable, &mut entry)?;
            }
        }
        Ok(builder.finish())
    }

    /// A zip archive.
    ///
    /// # Errors
    /// As [`of_tar`](Self::of_tar).
    pub fn of_zip(content: &[u8]) -> io::Result<Self> {
        let mut builder = Builder::default();
        let mut zip = zip::ZipArchive::new(io::Cursor::new(content))?;
        for index in 0..zip.len().min(MAX_FILES + 1) {
            let mut entry = zip.by_index(index)?;
            let name = clean(&entry.name()?)?;
            if entry.is_dir() {
                continue;
            }
            let mode = entry.unix_mode().unwrap_or_default();
            if entry.is_symlink() {
                let mut target = String::new();
                (&mut entry).take(4096).read_to_string(&mut target)?;
                builder.link(name, &target);
                continue;
            }
            builder.file(name, mode & 0o111 != 0, &mut entry)?;
        }
        Ok(builder.finish())
    }

    /// An archive of whatever kind its first bytes say.
    ///
    /// # Errors
    /// As [`of_tar`](Self::of_tar), and if it is of a kind that we do not know.
    pub fn of_archive(content: &[u8]) -> io::Result<Self> {
        match content {
            [0x1f, 0x8b, ..] => {
                let unpacked = flate2::read::MultiGzDecoder::new(content);
                Self::of_tar(unpacked.take(2 * MAX_TREE_BYTES))
            }
            [b'P', b'K', ..] => Self::of_zip(content),
            _ if content.get(257..262) == Some(b"ustar") => Self::of_tar(content),
            _ => Err(refused("it is neither a zip nor a tar.gz archive")),
        }
    }

    /// The files below a directory, with names from there. A `*` stands for the only directory there is.
    pub fn below(&self, dir: &str) -> Self {
        let mut prefix = String::new();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            match part {
                "*" => {
                    let inner = self
                        .files
                        .keys()
                        .filter_map(|name| name.strip_prefix(&prefix));
                    let first = inner.filter_map(|name| name.split_once('/')).next();
                    prefix.push_str(first.map_or("*", |(first, _)| first));
                }
                part => prefix.push_str(part),
            }
            prefix.push('/');
        }
        let of = |(name, file): (&String, &TreeFile)| {
            let name = name.strip_prefix(&prefix)?;
            Some((name.to_owned(), file.clone()))
        };
        Self {
            files: self.files.iter().filter_map(of).collect(),
        }
    }

    /// The module in a directory; one without files is empty.
    ///
    /// # Errors
    /// [`LoadError`] of what cannot be parsed.
    pub fn module(&self, dir: &str) -> Result<Module, LoadError> {
        let here = self.files.iter().filter_map(|(path, file)| {
            let name = match dir {
                "" => path.as_str(),
                dir => path.strip_prefix(dir)?.strip_prefix('/')?,
            };
            let is_template = (name.ends_with(".tf") || name.ends_with(".tf.json"))
                && !name.contains('/')
                && !name.starts_with('.');
            is_template.then_some((name, std::str::from_utf8(&file.content).ok()?))
        });
        Module::parse(here)
    }

    /// Whether a directory has anything.
    pub fn has_dir(&self, dir: &str) -> bool {
        let prefix = format!("{dir}/");
        dir.is_empty() || self.files.keys().any(|name| name.starts_with(&prefix))
    }

    /// A `tar.gz` of it. Equal trees give equal bytes.
    ///
    /// # Errors
    /// If a name cannot be stored.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let encoder = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
        let mut tar = tar::Builder::new(encoder);
        for (name, file) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(file.content.len() as u64);
            header.set_mode(if file.is_executable { 0o755 } else { 0o644 });
            header.set_mtime(0);
            header.set_entry_type(tar::EntryType::Regular);
            tar.append_data(&mut header, name, file.content.as_slice())?;
        }
        tar.into_inner()?.finish()
    }
}

impl Builder {
    fn directory(&mut self, dir: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let (path, kind) = (entry.path(), entry.file_type()?);
            let is_wanted = name.ends_with(".tf")
                || name.ends_with(".tf.json")
                || name == crate::language::lock::FILE_NAME;
            let name_here = format!("{prefix}{name}");
            if kind.is_dir() && !name.starts_with('.') && depth < MAX_DEPTH {
                self.directory(&path, &format!("{name_here}/"), depth + 1)?;
            } else if is_wanted && path.is_file() {
                self.file(name_here, false, &mut File::open(&path)?)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        name: String,
        is_executable: bool,
        reader: &mut impl Read,
    ) -> io::Result<()> {
        let left = (MAX_TREE_BYTES - self.bytes).min(MAX_FILE_BYTES);
        let mut content = Vec::new();
        reader.take(left + 1).read_to_end(&mut content)?;
        if content.len() as u64 > left || self.tree.files.len() >= MAX_FILES {
            return Err(refused("it unpacks to too much"));
        }
        self.bytes += content.len() as u64;
        let file = TreeFile {
            is_executable,
            content,
        };
        self.tree.files.insert(name, file);
        Ok(())
    }

    fn link(&mut self, name: String, target: &str) {
        let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
        // What leads out of the tree is nothing that a module could use.
        if let Some(target) = join(dir, target)
            && self.links.len() < MAX_FILES
        {
            self.links.insert(name, target);
        }
    }

    /// Links to files become those files.
    fn finish(mut self) -> Tree {
        for (name, target) in &self.links {
            let mut target = target;
            for _ in 0..MAX_LINKS {
                match self.links.get(target) {
                    Some(next) => target = next,
                    None => break,
                }
            }
            let Some(file) = self.tree.files.get(target) else {
                continue;
            };
            self.bytes += file.content.len() as u64;
            if self.bytes <= MAX_TREE_BYTES {
                let file = file.clone();
                self.tree.files.entry(name.clone()).or_insert(file);
            }
        }
        self.tree
    }
}

/// `path` seen from the directory `dir`; `None` if it leads out of the tree.
pub fn join(dir: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    if path.starts_with('/') {
        return None;
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A name in an archive, as it stands in a tree.
fn clean(name: &str) -> io::Result<String> {
    let is_good = |part: &str| !part.chars().any(|c| c.is_control() || c == '\\') && part != "..";
    match join("", name) {
        Some(clean) if name.split('/').all(is_good) => Ok(clean),
        _ => Err(refused(&format!(
            "{name:?} is no name for a file in a module"
        ))),
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let file = |(name, text): &(&str, &str)| {
            let content = text.as_bytes().to_vec();
            let is_executable = name.ends_with(".sh");
            (
                (*name).to_owned(),
                TreeFile {
                    is_executable,
                    content,
                },
            )
        };
        Tree {
            files: files.iter().map(file).collect(),
        }
    }

    #[test]
    fn a_tree_survives_being_packed_and_equal_trees_are_equal_bytes() {
        let tree = tree(&[
            ("main.tf", "x"),
            ("scripts/run.sh", "#!/bin/sh"),
            ("a/b/c.tf", ""),
        ]);

        let packed = tree.pack().unwrap();

        assert_eq!(Tree::of_archive(&packed).unwrap(), tree);
        assert_eq!(tree.clone().pack().unwrap(), packed);
    }

    #[test]
    fn a_directory_below_is_taken_by_name_or_as_the_only_one() {
        let tree = tree(&[("mods-1.0/vpc/main.tf", "x"), ("mods-1.0/README", "")]);

        assert!(tree.below("mods-1.0/vpc").files.contains_key("main.tf"));
        assert!(tree.below("*").files.contains_key("vpc/main.tf"));
        assert!(tree.below("*/vpc").files.contains_key("main.tf"));
        assert!(tree.below("vpc").files.is_empty());
    }

    #[test]
    fn a_hostile_archive_is_refused_and_links_never_lead_out() {
        let archive = |name: &str, target: Option<&str>| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            if let Some(target) = target {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(target).unwrap();
            }
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
            Tree::of_tar(tar.into_inner().unwrap().as_slice())
        };

        for name in ["../x.tf", "/etc/x.tf", "a/../../x.tf", "a\\b.tf"] {
            assert!(archive(name, None).is_err(), "{name}");
        }
        let link = archive("main.tf", Some("../../etc/passwd")).unwrap();
        assert!(link.files.is_empty());
        assert!(Tree::of_archive(b"rubbish").is_err());
    }
}
