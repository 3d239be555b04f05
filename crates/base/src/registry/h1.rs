//! The `h1:` checksum of a package, computed from a directory or a zip file, and the `zh:` checksum of a file.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};

use super::Hash;

/// Maximum number of files of a package; the largest provider has some hundred.
const MAX_FILES: usize = 100_000;
/// Maximum depth of a package's directories.
const MAX_DEPTH: usize = 64;

/// Combines the digests of a package's files into its `h1:` hash.
///
/// `files` are names with `/` between their parts and the SHA-256 of the contents, in any order.
///
/// # Errors
/// [`H1Error::Name`] for a name with a line feed, as two different lists could then have one hash.
///
/// # Source
/// Go `golang.org/x/mod/sumdb/dirhash`, `Hash1`.
pub fn h1_of_names(mut files: Vec<(String, [u8; 32])>) -> Result<Hash, H1Error> {
    files.sort();
    let mut summary = Context::new(&SHA256);
    for (name, digest) in files {
        if name.contains('\n') {
            return Err(H1Error::Name { name });
        }
        summary.update(format!("{}  {name}\n", hex::encode(digest)).as_bytes());
    }
    Ok(Hash::H1(finish(summary)))
}

/// Hashes an unpacked package. `dir` itself may be a symbolic link, as in a filesystem mirror.
///
/// # Errors
/// [`H1Error`] if a file cannot be read, or the tree is out of bounds.
pub fn h1_of_dir(dir: &Path) -> Result<Hash, H1Error> {
    let mut files = Vec::new();
    walk(dir, "", 0, &mut files)?;
    h1_of_names(files)
}

fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, [u8; 32])>,
) -> Result<(), H1Error> {
    let failed = |source| H1Error::Read {
        path: dir.to_owned(),
        source,
    };
    if depth > MAX_DEPTH {
        return Err(H1Error::TooMany {
            path: dir.to_owned(),
        });
    }
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| H1Error::Name {
            name: name.to_string_lossy().into_owned(),
        })?;
        let name = format!("{prefix}{name}");
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), depth + 1, files)?;
        } else {
            files.push((name, digest_of_file(&entry.path())?));
        }
        if files.len() > MAX_FILES {
            return Err(H1Error::TooMany {
                path: dir.to_owned(),
            });
        }
    }
    Ok(())
}

/// Hashes a packed package: every entry counts, including those of directories.
///
/// # Errors
/// [`H1Error`] if it is not a zip file, or an entry is damaged.
pub fn h1_of_zip(file: impl Read + Seek) -> Result<Hash, H1Error> {
    let mut archive = zip::ZipArchive::new(file).map_err(H1Error::Zip)?;
    if archive.len() > MAX_FILES {
        return Err(H1Error::TooMany {
            path: PathBuf::from("zip file"),
        });
    }
    let mut files = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(H1Error::Zip)?;
        let name = entry.name().map_err(H1Error::Zip)?.into_owned();
        let digest = digest(&mut entry).map_err(|source| H1Error::Read {
            path: PathBuf::from(&name),
            source,
        })?;
        files.push((name, digest));
    }
    h1_of_names(files)
}

fn digest_of_file(path: &Path) -> Result<[u8; 32], H1Error> {
    let digest = File::open(path).and_then(|mut file| digest(&mut file));
    digest.map_err(|source| H1Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn digest(reader: &mut impl Read) -> io::Result<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(finish(context)),
            length => context.update(&buffer[..length]),
        }
    }
}

fn finish(context: Context) -> [u8; 32] {
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Reason why a package has no checksum.
#[derive(Debug, thiserror::Error)]
pub enum H1Error {
    /// A file or directory cannot be read.
    #[error("failed to read `{}`", .path.display())]
    Read {
        /// Path of the file or directory.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The zip file is damaged, or the file is not a zip file.
    #[error("failed to read the zip file")]
    Zip(#[source] zip::result::ZipError),
    /// A file's name has a line feed or is not UTF-8.
    #[error("file name {name:?} cannot be hashed: it must be UTF-8 without line feeds")]
    Name {
        /// Name of the file in the package.
        name: String,
    },
    /// The package has more files or deeper directories than a provider has.
    #[error("`{}` has more than {MAX_FILES} files or {MAX_DEPTH} levels of directories", .path.display())]
    TooMany {
        /// Path at which the limit was exceeded.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    const EMPTY: &str = "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn packed(entries: &[(&str, &str)]) -> Cursor<Vec<u8>> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            if name.ends_with('/') {
                zip.add_directory(*name, SimpleFileOptions::default())
                    .unwrap();
            } else {
                zip.start_file(*name, SimpleFileOptions::default()).unwrap();
                zip.write_all(content.as_bytes()).unwrap();
            }
        }
        zip.finish().unwrap()
    }

    fn unpacked(entries: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in entries {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn an_empty_package_has_the_hash_of_nothing() {
        assert_eq!(h1_of_names(Vec::new()).unwrap().to_string(), EMPTY);
        assert_eq!(h1_of_dir(unpacked(&[]).path()).unwrap().to_string(), EMPTY);
    }

    #[test]
    fn a_tree_and_its_zip_file_have_the_same_hash() {
        let entries = [("b/x", "2"), ("a", "1"), ("b.txt", "3")];

        let tree = h1_of_dir(unpacked(&entries).path()).unwrap();

        assert_eq!(h1_of_zip(packed(&entries)).unwrap(), tree);
        // Computed with `sha256sum a b.txt b/x | sha256sum`, in byte order of the names.
        assert_eq!(
            tree.to_string(),
            "h1:uOj1ndZCpdS/tqqJAFIlxEwEG+Qf3BeyKHFUnzRrBHI="
        );
    }

    #[test]
    fn a_zip_file_with_directory_entries_has_another_hash_than_its_tree() {
        let with_dir = h1_of_zip(packed(&[("b/", ""), ("b/x", "2")])).unwrap();

        assert_ne!(
            with_dir,
            h1_of_dir(unpacked(&[("b/x", "2")]).path()).unwrap()
        );
    }

    #[test]
    fn the_package_directory_may_be_a_symbolic_link() {
        let dir = unpacked(&[("real/x", "1")]);
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();

        let (real, link) = (dir.path().join("real"), dir.path().join("link"));

        assert_eq!(h1_of_dir(&link).unwrap(), h1_of_dir(&real).unwrap());
    }

    #[test]
    fn a_name_with_a_line_feed_is_refused() {
        let refused = h1_of_names(vec![("a\nb".to_owned(), [0; 32])]);

        assert!(matches!(refused, Err(H1Error::Name { name }) if name == "a\nb"));
    }

    #[test]
    fn what_is_no_zip_file_is_an_error() {
        assert!(matches!(
            h1_of_zip(Cursor::new(b"no zip")),
            Err(H1Error::Zip(_))
        ));
    }
}
