//! Files of a template or a module in memory, whatever their source.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::LazyLock,
};

use aho_corasick::AhoCorasick;
use outpost_language::{LoadError, Module};

/// Maximum number of files in a tree; a repository of many modules has some thousand.
const MAX_FILES: usize = 50_000;
/// Maximum size of one file, and of all files.
const MAX_FILE_BYTES: u64 = 32 << 20;
const MAX_TREE_BYTES: u64 = 256 << 20;
/// Memory limit for unpacking xz, because an archive determines its own need: `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;
/// Maximum depth of directories.
const MAX_DEPTH: usize = 32;
/// Maximum number of links that lead to links.
const MAX_LINKS: usize = 8;

/// Patterns in a file that may refer to something outside of its module's directory.
static WAYS_OUT: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let patterns = ["../", "/..", "\"..\"", "dirname("];
    AhoCorasick::new(patterns).expect("a few short patterns")
});

/// Files by their paths, which contain no `.` or `..` and have no slash at either end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Contents of the files by path.
    pub files: BTreeMap<String, TreeFile>,
}

/// A file in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// `true` if the file is executable.
    pub(crate) is_executable: bool,
    /// Bytes of the file.
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
    /// Returns the files of a directory that determine what a template needs: its configuration and its lock file, in
    /// all directories below it that are not hidden.
    ///
    /// # Errors
    /// The system's error, and an error if a limit is exceeded.
    pub fn of_template(dir: &Path) -> io::Result<Self> {
        let mut builder = Builder::default();
        builder.directory(dir, "", 0)?;
        Ok(builder.finish())
    }

    /// Reads a tar archive, as `outpost template push` packs it.
    ///
    /// # Errors
    /// If it is damaged, has paths outside of itself, or exceeds a limit.
    pub(crate) fn of_tar(reader: impl Read) -> io::Result<Self> {
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

    /// Reads a zip archive.
    ///
    /// # Errors
    /// Those of [`of_tar`](Self::of_tar).
    pub(crate) fn of_zip(content: &[u8]) -> io::Result<Self> {
        let mut builder = Builder::default();
        let mut zip = zip::ZipArchive::new(io::Cursor::new(content))?;
        // One more than the limit, so that an archive with too many files is refused and not truncated.
        for index in 0..zip.len().min(MAX_FILES + 1) {
            let mut entry = zip.by_index(index)?;
            let name = clean(&entry.name()?)?;
            if entry.is_dir() {
                continue;
            }
            let mode = entry.unix_mode().unwrap_or_default();
            if entry.is_symlink() {
                let mut target = String::new();
                // In a zip archive the content of a link is its target; the system limits paths to 4096 bytes.
                (&mut entry).take(4096).read_to_string(&mut target)?;
                builder.link(name, &target);
                continue;
            }
            builder.file(name, mode & 0o111 != 0, &mut entry)?;
        }
        Ok(builder.finish())
    }

    /// Reads an archive of the kind that its first bytes indicate.
    ///
    /// # Errors
    /// Those of `of_tar`, and one for unknown kinds.
    pub fn of_archive(content: &[u8]) -> io::Result<Self> {
        match content {
            [0x1f, 0x8b, ..] => {
                let unpacked = flate2::read::MultiGzDecoder::new(content);
                // Headers and padding count here as well, so this limit is larger than that of the files.
                Self::of_tar(unpacked.take(2 * MAX_TREE_BYTES))
            }
            [b'P', b'K', ..] => Self::of_zip(content),
            [b'B', b'Z', b'h', ..] => {
                let unpacked = bzip2::read::MultiBzDecoder::new(content);
                Self::of_tar(unpacked.take(2 * MAX_TREE_BYTES))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                let unpacked = lzma_rust2::XzReader::new_mem_limit(content, true, XZ_MEMORY_KIB);
                Self::of_tar(unpacked.take(2 * MAX_TREE_BYTES))
            }
            _ if content.get(257..262) == Some(b"ustar") => Self::of_tar(content),
            _ => Err(refused(
                "it is neither a zip archive nor a tar, tar.gz, tar.bz2 or tar.xz archive",
            )),
        }
    }

    /// Returns the directory that an address names, in which a `*` stands for the only directory that exists; `None`
    /// if there is no such directory, or several.
    pub fn directory(&self, dir: &str) -> Option<String> {
        let mut found = String::new();
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            let prefix = match found.as_str() {
                "" => String::new(),
                found => format!("{found}/"),
            };
            let part = match part {
                "*" => {
                    let names = self.files.keys();
                    let inner = names.filter_map(|name| name.strip_prefix(&prefix));
                    let mut dirs = inner.filter_map(|name| Some(name.split_once('/')?.0));
                    let first = dirs.next()?;
                    if dirs.any(|other| other != first) {
                        return None;
                    }
                    first
                }
                part => part,
            };
            found = format!("{prefix}{part}");
        }
        self.has_dir(&found).then_some(found)
    }

    /// Returns the files below a directory, with relative names.
    pub fn below(&self, dir: &str) -> Self {
        let prefix = match dir {
            "" => String::new(),
            dir => format!("{dir}/"),
        };
        let of = |(name, file): (&String, &TreeFile)| {
            let name = name.strip_prefix(&prefix)?;
            Some((name.to_owned(), file.clone()))
        };
        Self {
            files: self.files.iter().filter_map(of).collect(),
        }
    }

    /// Returns the tree that a module in `dir` uses, and the module's directory there: all of it if something in the
    /// module leads out of its directory, without outer directories that contain nothing else, as in archives of
    /// forges.
    pub fn package_of(&self, dir: &str) -> (Self, String) {
        if !self.leads_out(dir) {
            return (self.below(dir), String::new());
        }
        let (mut outer, mut inner) = (String::new(), dir);
        while !inner.is_empty() {
            let (part, rest) = inner.split_once('/').unwrap_or((inner, ""));
            let prefix = format!("{outer}{part}/");
            if !self.files.keys().all(|name| name.starts_with(&prefix)) {
                break;
            }
            (outer, inner) = (prefix, rest);
        }
        (self.below(outer.trim_end_matches('/')), inner.to_owned())
    }

    /// Returns whether a file in a directory contains a path with `..`, or splits a path. Documentation is ignored.
    fn leads_out(&self, dir: &str) -> bool {
        let prefix = match dir {
            "" => return true,
            dir => format!("{dir}/"),
        };
        self.files.iter().any(|(name, file)| {
            let is_inside = name.starts_with(&prefix) && !name.ends_with(".md");
            is_inside && WAYS_OUT.is_match(&file.content)
        })
    }

    /// Parses the module in a directory; a directory without files gives an empty one.
    ///
    /// # Errors
    /// [`LoadError`] of the first file that cannot be parsed.
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

    /// Returns whether a directory contains any file.
    pub(crate) fn has_dir(&self, dir: &str) -> bool {
        let prefix = format!("{dir}/");
        dir.is_empty() || self.files.keys().any(|name| name.starts_with(&prefix))
    }

    /// Returns a `tar.gz` of the tree. Equal trees give equal bytes.
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

impl Tree {
    /// Returns the files that a link adds, with names below the link's.
    fn linked(&self, name: &str, target: &str) -> Vec<(String, TreeFile)> {
        if let Some(file) = self.files.get(target) {
            return match self.files.contains_key(name) {
                true => Vec::new(),
                false => vec![(name.to_owned(), file.clone())],
            };
        }
        let prefix = match target {
            "" => String::new(),
            target => format!("{target}/"),
        };
        // A directory that contains itself has no end.
        if name.starts_with(&prefix) {
            return Vec::new();
        }
        let behind = |(path, file): (&String, &TreeFile)| {
            let path = format!("{name}/{}", path.strip_prefix(&prefix)?);
            (!self.files.contains_key(&path)).then(|| (path, file.clone()))
        };
        self.files.iter().filter_map(behind).collect()
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
                || name == outpost_language::lock::FILE_NAME;
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
        // A module cannot use what is outside of the tree.
        if let Some(target) = join(dir, target)
            && self.links.len() < MAX_FILES
        {
            self.links.insert(name, target);
        }
    }

    /// Replaces links by their targets: a file, or all files of a directory. Links behind links need another round.
    fn finish(mut self) -> Tree {
        for _ in 0..MAX_LINKS {
            let before = self.tree.files.len();
            for (name, target) in &self.links {
                let found = self.tree.linked(name, target);
                for (name, file) in found {
                    let bytes = file.content.len() as u64;
                    let fits = self.tree.files.len() < MAX_FILES
                        && self.bytes.saturating_add(bytes) <= MAX_TREE_BYTES;
                    if fits {
                        self.bytes += bytes;
                        self.tree.files.insert(name, file);
                    }
                }
            }
            if self.tree.files.len() == before {
                break;
            }
        }
        self.tree
    }
}

/// Resolves `path` relative to the directory `dir`; `None` if it leads out of the tree.
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

/// Converts a name in an archive to a path in a tree.
fn clean(name: &str) -> io::Result<String> {
    let is_good = |part: &str| !part.chars().any(|c| c.is_control() || c == '\\') && part != "..";
    match join("", name) {
        Some(clean) if name.split('/').all(is_good) => Ok(clean),
        _ => Err(refused(&format!(
            "{name:?} is not a valid file name in a module"
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
        let tree = tree(&[
            ("mods-1.0/vpc/main.tf", "x"),
            ("mods-1.0/net/main.tf", "x"),
            ("mods-1.0/README", ""),
        ]);

        assert_eq!(tree.directory("*").as_deref(), Some("mods-1.0"));
        assert_eq!(tree.directory("*/vpc").as_deref(), Some("mods-1.0/vpc"));
        assert_eq!(tree.directory("").as_deref(), Some(""));
        for none in ["vpc", "*/*", "mods-1.0/gone", "mods-1.0/README"] {
            assert_eq!(tree.directory(none), None, "{none}");
        }
        assert!(tree.below("mods-1.0/vpc").files.contains_key("main.tf"));
        assert!(tree.below("vpc").files.is_empty());
    }

    #[test]
    fn a_package_has_what_its_module_uses_and_no_directory_around_it() {
        let with = |vpc: &str, read_me: &str| {
            tree(&[
                ("mods-1.0/modules/vpc/main.tf", vpc),
                ("mods-1.0/modules/vpc/README.md", read_me),
                ("mods-1.0/net.tf", "x"),
            ])
        };
        let names = |tree: &Tree| tree.files.keys().cloned().collect::<Vec<_>>();
        let dir = "mods-1.0/modules/vpc";

        for way_out in [
            "module \"a\" { source = \"../..\" }",
            "file(\"${path.module}/../x\")",
            "file(\"${dirname(path.module)}/x\")",
        ] {
            let (package, inner) = with(way_out, "").package_of(dir);
            assert_eq!(inner, "modules/vpc", "{way_out}");
            assert_eq!(names(&package).last().unwrap(), "net.tf", "{way_out}");
        }
        let (package, inner) = with("x", "see ../../net.tf").package_of(dir);
        assert_eq!(inner, "");
        assert_eq!(names(&package), ["README.md", "main.tf"]);
        let alone = with("../x", "").below("mods-1.0/modules");
        let (package, inner) = alone.package_of("vpc");
        assert_eq!((inner.as_str(), package.files.len()), ("", 2));
        assert_eq!(alone.package_of(""), (alone.clone(), String::new()));
    }

    #[test]
    fn links_to_directories_have_their_files_and_circles_end() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, "shared/net/main.tf", &b"x"[..])
            .unwrap();
        for (name, target) in [
            ("modules/net", "../shared/net"),
            ("again", "modules"),
            ("shared/self", "."),
            ("shared/up", ".."),
            ("one", "two"),
            ("two", "one"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o777);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, name, target).unwrap();
        }

        let tree = Tree::of_tar(tar.into_inner().unwrap().as_slice()).unwrap();

        let names: Vec<_> = tree.files.keys().map(String::as_str).collect();
        let expected = [
            "again/net/main.tf",
            "modules/net/main.tf",
            "shared/net/main.tf",
        ];
        assert_eq!(names, expected);
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
