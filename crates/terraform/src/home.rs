//! Files in a home directory that tell tools what to run, where to load programs from and whom to trust. Jobs share
//! the home directory of their daemon's user, so none of them may write what the tools of the next one read there.

mod made;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use self::made::Made;

/// Configuration files. An empty one is equivalent to a missing one.
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

/// Configuration files below `~/.config`.
const SETTINGS: [&str; 2] = ["git/config", "pip/pip.conf"];

/// Directories in which engines search for providers and plugins.
const DIRS: [&str; 3] = [
    ".terraform.d",
    ".local/share/terraform",
    ".local/share/opentofu",
];

/// Startup files of shells. They are not created, because an empty one could be read in place of another.
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

/// A home directory, with the directory for settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    dir: PathBuf,
    settings: PathBuf,
}

impl Home {
    /// Returns the home directory `dir`, with `settings` in place of the default directory for settings. `None` if
    /// `dir` is not a directory.
    pub fn new(dir: &Path, settings: Option<PathBuf>) -> Option<Self> {
        let settings = settings.filter(|path| path.is_absolute());
        dir.is_dir().then(|| Self {
            dir: dir.to_owned(),
            settings: settings.unwrap_or_else(|| dir.join(".config")),
        })
    }

    /// Returns the paths that no job may write.
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

    /// Creates missing files and directories, because only existing ones can be protected. Where we lack the
    /// permission, jobs lack it too. What was created is noted in the file `record`, and goes with the last daemon;
    /// `work_dir` is where this daemon's jobs work.
    ///
    /// # Errors
    /// The system's error if the record cannot be used; nothing was created then.
    pub fn make_missing(&self, record: PathBuf, work_dir: &Path) -> io::Result<Made> {
        let made = Made::open(record, work_dir.to_owned())?;
        for dir in DIRS {
            let _ = made.dir(&self.dir.join(dir));
        }
        for file in self.files() {
            let _ = made.file(&file);
        }
        Ok(made)
    }
}

/// Returns a global git configuration for one job, which the job may extend: it includes the shared ones, whose files
/// are protected.
pub(super) fn git_config(settings: Option<&Path>) -> String {
    let settings = match settings.filter(|path| path.is_absolute()) {
        Some(path) => path.join("git/config").to_string_lossy().into_owned(),
        None => "~/.config/git/config".to_owned(),
    };
    let settings = settings.replace('\\', "\\\\").replace('"', "\\\"");
    // In git's own order, in which `~/.gitconfig` has priority.
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

        let made = home.make_missing(dir.path().join("record"), dir.path());
        let made = made.unwrap();

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
        // An empty one would be read instead of `.profile`.
        assert!(guarded.contains(&dir.path().join(".bash_profile")));
        assert!(!dir.path().join(".bash_profile").exists());
        assert_eq!(Home::new(&dir.path().join("missing"), None), None);
        drop(made);
        assert_eq!(read(".gitconfig"), "[user]");
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "everything else went with the daemon");
    }
}
