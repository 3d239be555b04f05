//! What a job's processes are kept from: our files, those of other jobs, and providers that all jobs run.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::isolation::{Access, Confinement, Denied, Mechanism, Policy};

/// How jobs are kept apart.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// By what means.
    pub mechanism: Mechanism,
    /// This program, which starts the engine.
    pub launcher: PathBuf,
    /// What no job may see: our secrets and what we remember. Directories of sessions are hidden anyway.
    pub hidden: Vec<PathBuf>,
    /// What all jobs run and none may change: engines, mirrors.
    pub stores: Vec<PathBuf>,
    /// Where init puts what it downloads for all jobs; nothing of a template runs during init.
    pub plugin_caches: Vec<PathBuf>,
}

/// Which processes of a session are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Those that install.
    Init,
    /// Those in which providers and provisioners run.
    Other,
}

impl Isolation {
    /// What a process of the session that has the directories `own` is held to.
    pub(super) fn confine(&self, work_dir: &Path, own: &[&Path], step: Step) -> Confinement {
        let mut policy = Policy::default();
        let caches = match step {
            Step::Init => Access::Open,
            Step::Other => Access::ReadOnly,
        };
        let hidden = self.hidden.iter().map(PathBuf::as_path).chain([work_dir]);
        hidden.for_each(|path| policy.set(path, Access::Hidden));
        self.stores
            .iter()
            .for_each(|path| policy.set(path, Access::ReadOnly));
        self.plugin_caches
            .iter()
            .for_each(|path| policy.set(path, caches));
        own.iter().for_each(|path| policy.set(*path, Access::Open));
        Confinement {
            mechanism: self.mechanism,
            launcher: self.launcher.clone(),
            policy,
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
        if confinement.mechanism == Mechanism::Namespaces {
            return Ok(None);
        }
        let real = shared.canonicalize().map_err(failed)?;
        if !confinement.policy.resolve()?.divides(&real) {
            return Ok(None);
        }
        TempDir::with_prefix_in("job-", real)
            .map(Some)
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_init_writes_where_all_jobs_read() {
        let isolation = Isolation {
            mechanism: Mechanism::Namespaces,
            launcher: PathBuf::new(),
            hidden: vec!["/state".into(), "/etc/psk".into()],
            stores: vec!["/cache".into()],
            plugin_caches: vec!["/cache/plugins".into()],
        };
        let own = [
            Path::new("/state/sessions/1"),
            Path::new("/state/sessions/1.private"),
        ];
        for (step, of_cache) in [(Step::Init, Access::Open), (Step::Other, Access::ReadOnly)] {
            let policy = isolation
                .confine(Path::new("/state/sessions"), &own, step)
                .policy;

            for (path, expected) in [
                ("/cache/plugins/x", of_cache),
                ("/cache/engines/terraform", Access::ReadOnly),
                ("/state/lost", Access::Hidden),
                ("/state/sessions/2/main.tf", Access::Hidden),
                ("/state/sessions/1/main.tf", Access::Open),
                ("/etc/psk", Access::Hidden),
                ("/home/me/.aws/credentials", Access::Open),
            ] {
                assert_eq!(
                    policy.access(Path::new(path)),
                    expected,
                    "{path} at {step:?}"
                );
            }
        }
    }

    #[test]
    fn temporary_files_get_a_place_where_landlock_leaves_none() {
        let shared = tempfile::tempdir().unwrap();
        let state = shared.path().join("state");
        std::fs::create_dir(&state).unwrap();
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
            };

            let made = Isolation::temporary_dir(&confinement, shared.path()).unwrap();

            assert_eq!(made.is_some(), expected, "{mechanism} with {hidden:?}");
        }
    }
}
