//! Packs a template's directory for the server.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{ArchiveError, TEMPLATE_LIMIT_BYTES, Writer};

/// Packs a template into a tar archive smaller than `TEMPLATE_LIMIT_BYTES`.
///
/// Hidden files and directories except `.terraform.lock.hcl`, states (`*.tfstate*`) and values of variables
/// (`terraform.tfvars`, `*.auto.tfvars` and their JSON forms) are left out. Symbolic links are stored and never
/// followed. Equal directories give equal bytes: entries are sorted, and have neither times nor owners. The stream
/// has no end-of-archive blocks, so that exactly as much fits as with Coder's command.
///
/// # Errors
/// [`ArchiveError::NoTemplate`] without a `.tf` or `.tf.json` file in the directory itself,
/// [`ArchiveError::PackedTooBig`], and the errors of reading files.
///
/// # Source
/// coder `provisionersdk/archive.go`, `Tar`.
pub fn pack_template(dir: &Path) -> Result<Bytes, ArchiveError> {
    pack_template_within(dir, TEMPLATE_LIMIT_BYTES)
}

/// Does the same as [`pack_template`] with another limit, in bytes.
///
/// # Errors
/// Those of [`pack_template`].
pub fn pack_template_within(dir: &Path, limit: u64) -> Result<Bytes, ArchiveError> {
    if !has_template(dir)? {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        return Err(ArchiveError::NoTemplate { dir });
    }
    let mut packer = Packer {
        writer: Writer::new(0),
        limit,
    };
    packer.directory(dir, "")?;
    Ok(packer.writer.into_open_bytes().into())
}

fn has_template(dir: &Path) -> Result<bool, ArchiveError> {
    let is_template = |(name, path): &(String, PathBuf)| {
        (name.ends_with(".tf") || name.ends_with(".tf.json")) && !path.is_dir()
    };
    Ok(children(dir)?.iter().any(is_template))
}

/// Returns names and paths of a directory's entries, in byte order.
fn children(dir: &Path) -> Result<Vec<(String, PathBuf)>, ArchiveError> {
    let mut children = Vec::new();
    for entry in fs::read_dir(dir).map_err(ArchiveError::read(dir))? {
        let path = entry.map_err(ArchiveError::read(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        match name {
            Some(name) => children.push((name.to_owned(), path)),
            None => return Err(ArchiveError::Name { path }),
        }
    }
    children.sort();
    Ok(children)
}

struct Packer {
    writer: Writer,
    limit: u64,
}

impl Packer {
    fn directory(&mut self, dir: &Path, prefix: &str) -> Result<(), ArchiveError> {
        for (base, path) in children(dir)? {
            let name = format!("{prefix}{base}");
            if !is_left_out(&name, &base) {
                self.entry(&name, &path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, path: &Path) -> Result<(), ArchiveError> {
        let metadata = fs::symlink_metadata(path).map_err(ArchiveError::read(path))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.writer.directory(name, 0o755);
            self.check_limit(name, 0)?;
            self.directory(path, &format!("{name}/"))?;
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(ArchiveError::read(path))?;
            let target = target.to_str().ok_or_else(|| ArchiveError::Name {
                path: target.clone(),
            })?;
            self.writer.symlink(name, target);
        } else if kind.is_file() {
            self.check_limit(name, metadata.len())?;
            let content = self.read(path)?;
            self.writer.file(name, mode(&metadata), &content);
        }
        self.check_limit(name, 0)
    }

    /// Reads no more than could fit, even if the file grows meanwhile.
    fn read(&self, path: &Path) -> Result<Vec<u8>, ArchiveError> {
        let mut content = Vec::new();
        let file = fs::File::open(path).map_err(ArchiveError::read(path))?;
        let mut file = file.take(self.limit);
        file.read_to_end(&mut content)
            .map_err(ArchiveError::read(path))?;
        Ok(content)
    }

    fn check_limit(&self, name: &str, more: u64) -> Result<(), ArchiveError> {
        if self.writer.len().saturating_add(more) >= self.limit {
            return Err(ArchiveError::PackedTooBig {
                name: name.to_owned(),
                limit: self.limit,
            });
        }
        Ok(())
    }
}

/// Returns the mode of a file. Only its permission to execute is part of a template; the rest depends on the
/// checkout.
fn mode(metadata: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    match metadata.permissions().mode() & 0o111 {
        0 => 0o644,
        _ => 0o755,
    }
}

fn is_left_out(name: &str, base: &str) -> bool {
    let is_hidden =
        (name.starts_with('.') || base.starts_with('.')) && base != ".terraform.lock.hcl";
    let is_values = matches!(name, "terraform.tfvars" | "terraform.tfvars.json")
        || base.ends_with(".auto.tfvars")
        || base.ends_with(".auto.tfvars.json");
    is_hidden || is_values || name.contains(".tfstate")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        dir
    }

    fn names(archive: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        let name = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            entry.unwrap().path().unwrap().display().to_string()
        };
        entries.map(name).collect()
    }

    #[test]
    fn hidden_files_states_and_values_are_left_out() {
        let dir = directory(&[
            "main.tf",
            "file1",
            ".file2",
            ".git/config",
            ".terraform/x",
            ".terraform.lock.hcl",
            "dir/.hidden",
            "dir/shown",
            "dir/.hidden_dir/x",
            "dir/.terraform.lock.hcl",
            "terraform.tfstate",
            "terraform.tfstate.backup",
            "dir/x.tfstate",
            "a.tfstate.d/x",
            "terraform.tfvars",
            "terraform.tfvars.json",
            "dir/terraform.tfvars",
            "x.auto.tfvars",
            "dir/x.auto.tfvars.json",
            "other.tfvars",
        ]);

        let packed = pack_template(dir.path()).unwrap();

        assert_eq!(
            names(&packed),
            [
                ".terraform.lock.hcl",
                "dir/",
                "dir/.terraform.lock.hcl",
                "dir/shown",
                "dir/terraform.tfvars",
                "file1",
                "main.tf",
                "other.tfvars",
            ]
        );
    }

    #[test]
    fn a_directory_without_a_template_is_refused_by_name() {
        let dir = directory(&["module/main.tf", "README.md"]);

        let error = pack_template(dir.path()).unwrap_err();

        let expected = " is not a valid template since it has no [.tf .tf.json] files";
        assert_eq!(
            error.to_string(),
            format!("{}{expected}", dir.path().display())
        );
    }

    #[test]
    fn a_template_in_json_is_one() {
        assert!(pack_template(directory(&["main.tf.json"]).path()).is_ok());
    }

    #[test]
    fn a_directory_named_like_a_template_is_none() {
        assert!(pack_template(directory(&["main.tf/x"]).path()).is_err());
    }

    #[test]
    fn the_limit_itself_is_already_too_much() {
        let dir = directory(&["main.tf"]);
        // One header and one block of content.
        assert_eq!(pack_template_within(dir.path(), 1025).unwrap().len(), 1024);

        let error = pack_template_within(dir.path(), 1024).unwrap_err();

        assert_eq!(error.to_string(), "Archive too big. Must be <= 1024 bytes");
    }

    #[test]
    fn a_large_file_is_refused_before_it_is_read() {
        let dir = directory(&["main.tf"]);
        let sparse = fs::File::create(dir.path().join("large")).unwrap();
        sparse.set_len(1 << 40).unwrap();

        let error = pack_template(dir.path()).unwrap_err();

        assert!(
            matches!(error, ArchiveError::PackedTooBig { .. }),
            "{error}"
        );
    }

    #[test]
    fn symbolic_links_are_stored_and_not_followed() {
        let dir = directory(&["main.tf"]);
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();

        let packed = pack_template(dir.path()).unwrap();

        assert_eq!(names(&packed), ["link", "main.tf"]);
    }

    #[test]
    fn equal_directories_give_equal_bytes() {
        let files = ["main.tf", "b", "a/x"];

        let (first, second) = (directory(&files), directory(&files));

        assert_eq!(
            pack_template(first.path()).unwrap(),
            pack_template(second.path()).unwrap()
        );
    }
}
