//! Command `coder`, by which scripts call this program.
//!
//! Bootstrap scripts install it under that name. An agent that was started under another one, as from an image, provides
//! the name among the programs of its scripts.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::Path,
};

use tracing::warn;

/// Name that templates and modules use.
const NAME: &str = "coder";

/// Links the name to `program` in the directory `bin` of scripts, unless the `PATH` has such a program already.
pub(super) fn provide(program: &Path, bin: &Path) {
    if program.file_name().is_some_and(|name| name == NAME) || which::which(NAME).is_ok() {
        return;
    }
    if let Err(error) = link(program, bin) {
        warn!(directory = %bin.display(), %error, "scripts will not find `coder` on their PATH");
    }
}

fn link(program: &Path, bin: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(bin)?;
    let link = bin.join(NAME);
    match fs::symlink_metadata(&link) {
        // An earlier agent may have been a different program.
        Ok(found) if found.is_symlink() => fs::remove_file(&link)?,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(program, link)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_link_is_renewed_and_a_program_of_the_workspace_stays() {
        let directory = TempDir::new().unwrap();
        let bin = directory.path().join("data/bin");
        let target = || fs::read_link(bin.join(NAME)).unwrap();

        link(Path::new("/old/outpost"), &bin).unwrap();
        link(Path::new("/new/outpost"), &bin).unwrap();
        assert_eq!(target(), Path::new("/new/outpost"));

        fs::remove_file(bin.join(NAME)).unwrap();
        fs::write(bin.join(NAME), "own").unwrap();
        link(Path::new("/new/outpost"), &bin).unwrap();
        assert_eq!(fs::read_to_string(bin.join(NAME)).unwrap(), "own");
    }

    #[test]
    fn a_program_of_that_name_needs_no_link() {
        let directory = TempDir::new().unwrap();

        provide(Path::new("/opt/coder"), directory.path());

        assert!(fs::symlink_metadata(directory.path().join(NAME)).is_err());
    }
}
