//! What a job's processes are kept from: our files, those of other jobs, and providers that all jobs run.

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

/// How jobs are kept apart.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// By what means.
    pub mechanism: Mechanism,
    /// This program, which starts the engine.
    pub launcher: PathBuf,
    /// What no job may see: our secrets and what we remember. Directories of sessions are hidden anyway.
    pub hidden: Vec<PathBuf>,
    /// Modes of those hidden files that are there at start, which Landlock lets a job of their owner change.
    pub modes: Modes,
    /// What all jobs run and none may change: engines, mirrors.
    pub stores: Vec<PathBuf>,
    /// What a job sees beside all that with a root of its own.
    pub shown: Shown,
    /// What becomes of processes that a step of a job leaves behind.
    pub background: Background,
    /// Where jobs get control groups, if this machine gives us any.
    pub control_groups: Option<Hierarchy>,
}

/// Modes of files, by path.
#[derive(Clone, Debug, Default)]
pub struct Modes(Vec<(PathBuf, u32)>);

impl Modes {
    /// Those that files and directories have now. What is missing has none.
    pub fn of(paths: &[PathBuf]) -> Self {
        let mode =
            |path: &PathBuf| Some((path.clone(), fs::metadata(path).ok()?.permissions().mode()));
        Self(paths.iter().filter_map(mode).collect())
    }

    /// Gives back what somebody has changed, such as a job that made a key unreadable for its daemon or readable for
    /// others.
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
    /// Makes the control group of a job, whose processes may have so many bytes of `memory` together. There is none
    /// where processes live on: they would count for no job.
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

    /// Ends what is left of a job whose daemon died.
    pub(super) fn end_control_group(&self, session: &str) {
        if let Some(groups) = &self.control_groups {
            groups.end(session);
        }
    }

    /// What a process of the session that has the directories `own` is held to.
    pub(super) fn confine(&self, work_dir: &Path, own: &[&Path]) -> Confinement {
        let mut policy = Policy::default();
        let hidden = self.hidden.iter().map(PathBuf::as_path).chain([work_dir]);
        hidden.for_each(|path| policy.set(path, Access::Hidden));
        let stores = self.stores.iter();
        stores.for_each(|path| policy.set(path, Access::ReadOnly));
        // Who could write there could leave the group. In a root of its own there are none.
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

    /// A directory for temporary files, if none can be made in `shared` by who is held to `confinement`.
    ///
    /// It lies in `shared` itself: the engine makes sockets there, whose paths must be short.
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
        // The directory around it is everybody's.
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
