//! Access of a child to paths. Pure, but for [`Policy::resolve`].

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::Denied;

/// Access to a path and everything below it, in order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Everything that the user may do.
    #[default]
    Open,
    /// Only reading and executing files.
    ReadOnly,
    /// No access at all.
    Hidden,
}

/// Rules for paths. The rule that is closest above a path decides; without one the path is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy(BTreeMap<PathBuf, Access>);

impl Policy {
    /// Sets the rule for a path, which need not exist.
    pub fn set(&mut self, path: impl Into<PathBuf>, access: Access) {
        self.0.insert(path.into(), access);
    }

    /// Returns the access to `path`.
    pub fn access(&self, path: &Path) -> Access {
        let mut above = path.ancestors();
        let rule = above.find_map(|path| self.0.get(path));
        rule.copied().unwrap_or_default()
    }

    /// Returns the access to the directory that contains `path`.
    pub(super) fn access_around(&self, path: &Path) -> Access {
        path.parent()
            .map_or_else(Access::default, |it| self.access(it))
    }

    /// Returns whether something below `path` has a rule of its own.
    pub fn divides(&self, path: &Path) -> bool {
        let mut below = self.0.keys();
        below.any(|rule| rule != path && rule.starts_with(path))
    }

    /// Returns whether something below `path` is hidden.
    pub(super) fn hides_below(&self, path: &Path) -> bool {
        let mut below = self.0.iter();
        below.any(|(rule, access)| {
            *access == Access::Hidden && rule.starts_with(path) && rule != path
        })
    }

    /// Returns the rules, those of directories before those of their content.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&Path, Access)> {
        self.0
            .iter()
            .map(|(path, access)| (path.as_path(), *access))
    }

    /// Returns the policy without rules that change nothing.
    fn reduced(&self) -> Self {
        let mut reduced = Self::default();
        for (path, access) in self.rules() {
            if reduced.access(path) != access {
                reduced.set(path, access);
            }
        }
        reduced
    }

    /// Returns the policy for the files that exist now, with links followed. Unreachable paths need no rule.
    ///
    /// A file that is hidden in a volume of Kubernetes takes the whole volume along: another version of it appears
    /// beside it when a secret is rotated.
    ///
    /// # Errors
    /// [`Denied`] names a path that cannot be followed.
    pub fn resolve(&self) -> Result<Self, Denied> {
        let mut resolved = Self::default();
        for (path, access) in self.rules() {
            let volume = path.parent().filter(|dir| {
                access == Access::Hidden && fs::symlink_metadata(dir.join("..data")).is_ok()
            });
            for path in [Some(path), volume].into_iter().flatten() {
                match fs::canonicalize(path) {
                    Ok(real) => {
                        let rule = resolved.0.entry(real).or_default();
                        *rule = access.max(*rule);
                    }
                    Err(error) if is_out_of_reach(&error) => {}
                    Err(error) => return Err(Denied::kernel(path.display().to_string(), error)),
                }
            }
        }
        Ok(resolved.reduced())
    }
}

fn is_out_of_reach(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn policy(rules: &[(&str, Access)]) -> Policy {
        let mut policy = Policy::default();
        for (path, access) in rules {
            policy.set(*path, *access);
        }
        policy
    }

    #[test]
    fn the_closest_rule_decides() {
        let policy = policy(&[
            ("/state", Access::Hidden),
            ("/state/sessions/one", Access::Open),
            ("/state/sessions/one/store", Access::ReadOnly),
        ]);

        for (path, expected) in [
            ("/", Access::Open),
            ("/stateful", Access::Open),
            ("/state", Access::Hidden),
            ("/state/sessions/two", Access::Hidden),
            ("/state/sessions/one/main.tf", Access::Open),
            ("/state/sessions/one/store/x", Access::ReadOnly),
        ] {
            assert_eq!(policy.access(Path::new(path)), expected, "{path}");
        }
        assert!(policy.divides(Path::new("/state/sessions")));
        assert!(!policy.divides(Path::new("/state/sessions/two")));
    }

    #[test]
    fn links_lead_to_what_they_hide_and_missing_files_need_no_rule() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir(real.join("data")).unwrap();
        symlink(real.join("data"), real.join("link")).unwrap();
        let mut policy = Policy::default();
        policy.set(real.join("link"), Access::Hidden);
        policy.set(real.join("missing"), Access::Hidden);

        let resolved = policy.resolve().unwrap();

        assert_eq!(resolved.0, [(real.join("data"), Access::Hidden)].into());
    }

    #[test]
    fn a_secret_in_a_volume_of_kubernetes_hides_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap();
        fs::create_dir(volume.join("..2026_11_23")).unwrap();
        fs::write(volume.join("..2026_11_23/psk"), "x").unwrap();
        symlink("..2026_11_23", volume.join("..data")).unwrap();
        symlink("..data/psk", volume.join("psk")).unwrap();
        let mut policy = Policy::default();
        policy.set(volume.join("psk"), Access::Hidden);

        let resolved = policy.resolve().unwrap();

        assert_eq!(resolved.0, [(volume, Access::Hidden)].into());
    }
}
