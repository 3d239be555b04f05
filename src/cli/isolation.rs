//! `--isolation`: what a job is kept from, and by what means on this machine.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tracing::{info, warn};

use super::exit::{Hint, UsageError};
use crate::{
    config, files,
    language::cli_config::{CliConfig, Engine, MethodKind, locate},
    process::isolation::{Mechanism, Probed, own_launcher, probe},
    terraform::Isolation,
};

/// How jobs are kept from our files and from each other
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Wanted {
    /// The best that this machine supports; if none, one job at a time runs, with a warning
    Auto,
    /// Landlock; needs Linux 6.2
    Landlock,
    /// A user and a mount namespace
    Namespaces,
    /// No isolation
    None,
}

/// What a service asks of the isolation of its jobs.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    /// How many jobs may run at a time.
    pub(super) jobs: usize,
    /// Whether the templates are other people's, as a daemon's are.
    pub(super) are_foreign: bool,
    /// Directories and files that belong to the service alone.
    pub(super) hidden: Vec<PathBuf>,
}

/// Where providers lie that more than one job runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Stores {
    /// What nobody writes while a job runs.
    pub(super) fixed: Vec<PathBuf>,
    /// What init fills.
    pub(super) caches: Vec<PathBuf>,
}

impl Wanted {
    /// Tries what is wanted and says once what works. Sessions will lie in `work_dir`.
    ///
    /// # Errors
    /// If what is wanted by name does not work, or several jobs would run without anything between them.
    pub(super) async fn prepare(
        self,
        guarded: Guarded,
        stores: Stores,
        work_dir: &Path,
    ) -> anyhow::Result<Option<Isolation>> {
        let candidates = match self {
            Self::Auto => &Mechanism::ALL[..],
            Self::Namespaces => &[Mechanism::Namespaces],
            Self::Landlock => &[Mechanism::Landlock],
            Self::None => {
                if guarded.jobs > 1 {
                    let jobs = guarded.jobs;
                    warn!(
                        jobs,
                        "jobs are not isolated from each other, as was asked for"
                    );
                }
                return Ok(None);
            }
        };
        files::create_private_dir(work_dir)
            .with_context(|| format!("failed to make `{}`", work_dir.display()))?;
        let mut denied = Vec::new();
        for mechanism in candidates {
            let probed = probe(&own_launcher(), *mechanism, work_dir).await;
            match probed.result {
                Ok(()) => {
                    tell(*mechanism, &denied, guarded.are_foreign);
                    return Ok(Some(isolation(*mechanism, guarded, stores)?));
                }
                Err(_) => denied.push(probed),
            }
        }
        self.go_without(&guarded, &denied)
    }

    fn go_without(self, guarded: &Guarded, denied: &[Probed]) -> anyhow::Result<Option<Isolation>> {
        let denied = Denied(denied);
        if self != Self::Auto {
            let error = anyhow::anyhow!("`--isolation` cannot be had here: {denied}");
            return Err(error).hint("`--isolation auto` uses what works");
        }
        if guarded.jobs > 1 {
            let jobs = guarded.jobs;
            let text =
                format!("{jobs} jobs at a time cannot be kept from each other here: {denied}");
            let hint =
                "`--isolation none` runs them all the same, each able to read what the others have";
            return Err(UsageError(text)).hint(hint);
        }
        warn!(
            %denied,
            "jobs are not isolated: a template can read this daemon's secrets and state"
        );
        Ok(None)
    }
}

/// What did not work, and why.
struct Denied<'a>(&'a [Probed]);

impl fmt::Display for Denied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Probed { mechanism, result }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let reason = result.as_ref().err().map_or("", String::as_str);
            write!(f, "{separator}{mechanism}: {reason}")?;
        }
        Ok(())
    }
}

fn tell(mechanism: Mechanism, denied: &[Probed], are_foreign: bool) {
    match denied {
        [] => info!(by = %mechanism, "jobs are isolated"),
        _ => info!(by = %mechanism, denied = %Denied(denied), "jobs are isolated"),
    }
    if are_foreign && nix::unistd::geteuid().is_root() {
        warn!(
            "this daemon is root: its templates can reach devices and settings of the kernel, and by them what \
             isolation hides; give it a user of its own"
        );
    }
}

/// Paths become absolute here: the launcher works elsewhere.
fn isolation(mechanism: Mechanism, guarded: Guarded, stores: Stores) -> std::io::Result<Isolation> {
    // Files of every service of ours that may hold secrets: systemd's credentials and the settings.
    let named = ["CREDENTIALS_DIRECTORY", "OUTPOST_CONFIG"];
    let named = named.into_iter().filter_map(std::env::var_os);
    let files = named.map(PathBuf::from).chain(config::default_paths());
    let hidden = guarded.hidden.into_iter().chain(files);
    Ok(Isolation {
        mechanism,
        launcher: own_launcher(),
        hidden: hidden.map(std::path::absolute).collect::<Result<_, _>>()?,
        stores: stores.fixed,
        plugin_caches: stores.caches,
    })
}

/// What the operator's configuration of the engine, found by `env`, shares among jobs.
pub(super) fn operators_stores(engine: Engine, env: impl Fn(&str) -> Option<OsString>) -> Stores {
    let mut stores = Stores::default();
    if let Some(home) = env("HOME").map(PathBuf::from) {
        stores.fixed.extend([home.join(".terraform.d")]);
    }
    for file in locate(engine, &env).files {
        let read = std::fs::read_to_string(&file).ok();
        stores.fixed.push(file);
        // The engine tells better than we could what is wrong with it.
        let Some(config) = read.and_then(|text| CliConfig::parse(&text).ok()) else {
            continue;
        };
        stores
            .caches
            .extend(config.argument("plugin_cache_dir").map(PathBuf::from));
        let installation = config.installation().ok().flatten().unwrap_or_default();
        for method in installation.methods {
            match method.kind {
                MethodKind::FilesystemMirror { path } => stores.fixed.push(path.into()),
                MethodKind::DevOverrides { paths } => {
                    stores
                        .fixed
                        .extend(paths.into_iter().map(|(_, path)| path.into()));
                }
                MethodKind::Direct
                | MethodKind::NetworkMirror { .. }
                | MethodKind::OciMirror { .. } => {}
            }
        }
    }
    for paths in [&mut stores.fixed, &mut stores.caches] {
        paths.retain(|path| path.is_absolute());
    }
    stores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_caches_of_the_operator_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cli.tfrc");
        let text = "plugin_cache_dir = \"/var/cache/plugins\"\n\
                    provider_installation {\n  filesystem_mirror { path = \"/srv/mirror\" }\n  direct {}\n}\n";
        std::fs::write(&file, text).unwrap();
        let env = |name: &str| match name {
            "HOME" => Some("/home/me".into()),
            "TF_CLI_CONFIG_FILE" => Some(file.clone().into_os_string()),
            _ => None,
        };

        let stores = operators_stores(Engine::Terraform, env);

        let expected = [
            Path::new("/home/me/.terraform.d"),
            &file,
            Path::new("/srv/mirror"),
        ];
        assert_eq!(stores.fixed, expected);
        assert_eq!(stores.caches, [Path::new("/var/cache/plugins")]);
    }

    #[test]
    fn several_jobs_without_isolation_need_an_explicit_word() {
        let denied = [Probed {
            mechanism: Mechanism::Landlock,
            result: Err("use Landlock: not there".to_owned()),
        }];
        let guarded = |jobs| Guarded {
            jobs,
            are_foreign: true,
            hidden: Vec::new(),
        };

        assert!(
            Wanted::Auto
                .go_without(&guarded(1), &denied)
                .unwrap()
                .is_none()
        );
        let error = Wanted::Auto.go_without(&guarded(2), &denied).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 jobs at a time cannot be kept from each other here: landlock: use Landlock: not there"
        );
        assert!(Wanted::Landlock.go_without(&guarded(1), &denied).is_err());
    }
}
