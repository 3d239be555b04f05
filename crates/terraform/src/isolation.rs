//! Protection from a job's processes: of our own files, those of other jobs, and providers that all jobs run.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use outpost_process::{
    control_group::{ControlGroup, Hierarchy, Limits},
    isolation::{Access, Background, Confinement, Denied, Mechanism, Policy, Shown},
};
use tempfile::TempDir;
use tracing::warn;

/// Isolation of jobs from each other.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// Mechanism of the isolation.
    pub mechanism: Mechanism,
    /// Path of this program, which starts the engine.
    pub launcher: PathBuf,
    /// Files that no job may see: our secrets and records. Directories of sessions are hidden in any case.
    pub hidden: Vec<PathBuf>,
    /// Modes at start of the hidden files, which Landlock lets a job of their owner change.
    pub modes: Modes,
    /// Directories of engines and mirrors, which all jobs run and none may change.
    pub stores: Vec<PathBuf>,
    /// Additional paths that a job sees in a root directory of its own.
    pub shown: Shown,
    /// Treatment of processes that a step of a job leaves behind.
    pub background: Background,
    /// Control groups for jobs, if this machine permits any.
    pub control_groups: Option<Hierarchy>,
}

/// Modes of files, by path.
#[derive(Clone, Debug, Default)]
pub struct Modes(Vec<(PathBuf, u32)>);

impl Modes {
    /// Returns the present modes of files and directories. Missing ones are left out.
    pub fn of(paths: &[PathBuf]) -> Self {
        let mode =
            |path: &PathBuf| Some((path.clone(), fs::metadata(path).ok()?.permissions().mode()));
        Self(paths.iter().filter_map(mode).collect())
    }

    /// Restores modes that were changed, for example by a job that made a key unreadable for its daemon or readable
    /// for others.
    pub(super) fn restore(&self) {
        for (path, mode) in &self.0 {
            let found = fs::metadata(path).map(|found| found.permissions().mode());
            if found.is_ok_and(|found| found != *mode) {
                warn!(path = %path.display(), "restoring the permissions of a file that jobs must not read");
                let restored = fs::set_permissions(path, Permissions::from_mode(*mode));
                if let Err(error) = restored {
                    warn!(%error, path = %path.display(), "failed to restore the permissions");
                }
            }
        }
    }
}

impl Isolation {
    /// Creates the control group of a job, whose processes together may use `memory` bytes. There is none where
    /// background processes are kept: they would not count for any job.
    pub(super) fn control_group(
        &self,
        session: &str,
        memory: Option<u64>,
    ) -> io::Result<Option<Arc<ControlGroup>>> {
        let groups = self.control_groups.as_ref();
        let groups = groups.filter(|_| self.background == Background::Ends);
        let made = groups.map(|groups| groups.create(session, &Limits::of_job(memory)));
        Ok(made.transpose()?.map(Arc::new))
    }

    /// Ends the remaining processes of a job whose daemon died.
    pub(super) fn end_control_group(&self, session: &str) {
        if let Some(groups) = &self.control_groups {
            groups.end(session);
        }
    }

    /// Returns the policy for processes of the session that has the directories `own`.
    pub(super) fn confine(&self, work_dir: &Path, own: &[&Path]) -> Confinement {
        let mut policy = Policy::default();
        let hidden = self.hidden.iter().map(PathBuf::as_path).chain([work_dir]);
        hidden.for_each(|path| policy.set(path, Access::Hidden));
        let stores = self.stores.iter();
        stores.for_each(|path| policy.set(path, Access::ReadOnly));
        // A job that can write there could leave its group. A root directory of its own contains none of them.
        let groups = self.control_groups.iter().flat_map(Hierarchy::mounts);
        let groups = groups.filter(|_| self.mechanism != Mechanism::FreshRoot);
        groups.for_each(|path| policy.set(path, Access::ReadOnly));
        own.iter().for_each(|path| policy.set(*path, Access::Open));
        Confinement {
            mechanism: self.mechanism,
            launcher: self.launcher.clone(),
            policy,
            shown: self.shown.clone(),
            background: self.background,
            control_group: None,
        }
    }

    /// Returns a directory for temporary files, if a process under `confinement` can make none in `shared`.
    ///
    /// It is directly in `shared`, because the engine creates sockets there, whose paths must be short.
    pub(super) fn temporary_dir(
        confinement: &Confinement,
        shared: &Path,
    ) -> Result<Option<TempDir>, Denied> {
        let failed = |source| Denied::Kernel {
            what: format!("make a directory in {}", shared.display()),
            source,
        };
        if confinement.mechanism != Mechanism::Landlock {
            return Ok(None);
        }
        let real = shared.canonicalize().map_err(failed)?;
        if !confinement.policy.resolve()?.divides(&real) {
            return Ok(None);
        }
        // The directory around it is writable for everybody.
        tempfile::Builder::new()
            .prefix("job-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(real)
            .map(Some)
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_where_all_jobs_read() {
        let isolation = Isolation {
            mechanism: Mechanism::Namespaces,
            launcher: PathBuf::new(),
            hidden: vec!["/state".into(), "/etc/psk".into()],
            modes: Modes::default(),
            stores: vec!["/cache".into(), "/operators/plugins".into()],
            shown: Shown::default(),
            background: Background::Ends,
            control_groups: None,
        };
        let own = [
            Path::new("/state/sessions/1"),
            Path::new("/state/sessions/1.private"),
        ];

        let policy = isolation.confine(Path::new("/state/sessions"), &own).policy;

        for (path, expected) in [
            ("/cache/plugins/x", Access::ReadOnly),
            ("/operators/plugins/x", Access::ReadOnly),
            ("/cache/engines/terraform", Access::ReadOnly),
            ("/state/lost", Access::Hidden),
            ("/state/sessions/2/main.tf", Access::Hidden),
            ("/state/sessions/1/main.tf", Access::Open),
            ("/etc/psk", Access::Hidden),
            ("/home/me/.aws/credentials", Access::Open),
        ] {
            assert_eq!(policy.access(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_mode_that_somebody_changed_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        fs::write(&key, "x").unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let modes = Modes::of(&[key.clone(), dir.path().join("missing")]);

        for changed in [0o000, 0o644] {
            fs::set_permissions(&key, Permissions::from_mode(changed)).unwrap();
            modes.restore();

            let mode = fs::metadata(&key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn temporary_files_get_a_place_where_landlock_leaves_none() {
        let shared = tempfile::tempdir().unwrap();
        let state = shared.path().join("state");
        fs::create_dir(&state).unwrap();
        for (mechanism, hidden, expected) in [
            (Mechanism::Landlock, &state, true),
            (Mechanism::Landlock, &PathBuf::from("/no/such/state"), false),
            (Mechanism::Namespaces, &state, false),
        ] {
            let mut policy = Policy::default();
            policy.set(hidden, Access::Hidden);
            let confinement = Confinement {
                mechanism,
                launcher: PathBuf::new(),
                policy,
                shown: Shown::default(),
                background: Background::Ends,
                control_group: None,
            };

            let made = Isolation::temporary_dir(&confinement, shared.path()).unwrap();

            assert_eq!(made.is_some(), expected, "{mechanism} with {hidden:?}");
            let mode = made.map(|dir| fs::metadata(dir.path()).unwrap().permissions().mode());
            assert!(mode.is_none_or(|mode| mode & 0o777 == 0o700), "{mode:?}");
        }
    }
}
