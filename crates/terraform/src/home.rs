//! Files of a home from which tools learn what to run, where to load programs from and whom to trust. Jobs share the home
//! of their daemon's user, so none of them may write what the next one's tools read there.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Files. An empty one says the same as none.
const FILES: [&str; 10] = [
    ".terraformrc",
    ".tofurc",
    ".gitconfig",
    ".hgrc",
    ".netrc",
    ".npmrc",
    ".curlrc",
    ".wgetrc",
    ".ssh/config",
    ".ssh/authorized_keys",
];

/// The same below the directory for settings, `~/.config`.
const SETTINGS: [&str; 2] = ["git/config", "pip/pip.conf"];

/// Directories in which engines look for providers and plugins.
const DIRS: [&str; 3] = [
    ".terraform.d",
    ".local/share/terraform",
    ".local/share/opentofu",
];

/// What shells begin with. An empty one could take the place of another one that is read otherwise.
const SHELLS: [&str; 8] = [
    ".profile",
    ".bash_profile",
    ".bash_login",
    ".bashrc",
    ".zshenv",
    ".zprofile",
    ".zshrc",
    ".config/fish/config.fish",
];

/// A home, and where settings lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    dir: PathBuf,
    settings: PathBuf,
}

impl Home {
    /// The home at `dir`, with the settings at `settings` if they are not at the usual place. `None` if it is no directory.
    pub fn new(dir: &Path, settings: Option<PathBuf>) -> Option<Self> {
        let settings = settings.filter(|path| path.is_absolute());
        dir.is_dir().then(|| Self {
            dir: dir.to_owned(),
            settings: settings.unwrap_or_else(|| dir.join(".config")),
        })
    }

    /// What no job may write.
    pub fn guarded(&self) -> Vec<PathBuf> {
        let files = self.files();
        let others = DIRS.iter().chain(&SHELLS).map(|name| self.dir.join(name));
        files.into_iter().chain(others).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = FILES.iter().map(|name| self.dir.join(name));
        let settings = SETTINGS.iter().map(|name| self.settings.join(name));
        files.chain(settings).collect()
    }

    /// Makes those empty that are missing, as what is missing cannot be guarded. Where we cannot make them, jobs cannot
    /// either.
    pub fn make_missing(&self) {
        let mut dirs = DirBuilder::new();
        dirs.recursive(true).mode(0o700);
        for dir in DIRS {
            let _ = dirs.create(self.dir.join(dir));
        }
        for file in self.files() {
            let made = file.parent().map_or(Ok(()), |dir| dirs.create(dir));
            let _ = made.and_then(|()| make_empty(&file));
        }
    }
}

fn make_empty(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(file).map(drop)
}

/// The global settings of git for one job, which may add to them: they begin with the shared ones, whose files are guarded.
pub(super) fn git_config(settings: Option<&Path>) -> String {
    let settings = match settings.filter(|path| path.is_absolute()) {
        Some(path) => path.join("git/config").to_string_lossy().into_owned(),
        None => "~/.config/git/config".to_owned(),
    };
    let settings = settings.replace('\\', "\\\\").replace('"', "\\\"");
    format!("[include]\n\tpath = \"{settings}\"\n\tpath = \"~/.gitconfig\"\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_missing_is_made_empty_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".gitconfig"), "[user]").unwrap();
        let settings = dir.path().join("settings");
        let home = Home::new(dir.path(), Some(settings.clone())).unwrap();

        home.make_missing();

        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read(".gitconfig"), "[user]");
        for name in [
            ".terraformrc",
            ".ssh/authorized_keys",
            "settings/git/config",
        ] {
            assert_eq!(read(name), "");
        }
        let guarded = home.guarded();
        assert!(guarded.contains(&settings.join("git/config")));
        assert!(dir.path().join(".terraform.d").is_dir());
        // One would be read instead of `.profile`.
        assert!(guarded.contains(&dir.path().join(".bash_profile")));
        assert!(!dir.path().join(".bash_profile").exists());
        assert_eq!(Home::new(&dir.path().join("missing"), None), None);
    }
}
