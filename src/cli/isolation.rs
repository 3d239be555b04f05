//! `--isolation`: protection of everything else from jobs, with the means of this machine.

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
    process::{
        control_group::Hierarchy,
        isolation::{Background, Held, Mechanism, Probed, Shown, own_launcher, probe},
    },
    terraform::{
        Isolation, Modes,
        home::{Home, Made},
    },
};

/// File in the user's directory of settings with what daemons made in the home directory.
const MADE_IN_HOME: &str = "made-in-home";

/// Isolation of jobs from the daemon's files and from each other
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Wanted {
    /// The best that this machine supports; if none, one job at a time runs, with a warning
    Auto,
    /// Landlock; needs Linux 6.2
    Landlock,
    /// A user and a mount namespace
    Namespaces,
    /// Namespaces with a root file system that has only what a job needs: no home directory, nothing of other jobs
    FreshRoot,
    /// No isolation of jobs
    None,
}

/// Handling of processes that a template starts in the background
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum BackgroundProcesses {
    /// End them with the job step that started them
    End,
    /// Keep them running, for workspaces that are processes on this machine
    Keep,
}

/// Requirements of a service for the isolation of its jobs.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    /// Number of jobs that may run at the same time.
    pub(super) jobs: usize,
    /// Set if the templates are other people's, as a daemon's are.
    pub(super) are_foreign: bool,
    /// Directories and files that belong to the service alone.
    pub(super) hidden: Vec<PathBuf>,
}

impl Guarded {
    /// Returns the handling of background processes, by default depending on the templates: processes of one's own
    /// template may be the workspace.
    fn background(&self, wanted: Option<BackgroundProcesses>) -> Background {
        match wanted {
            Some(BackgroundProcesses::End) => Background::Ends,
            Some(BackgroundProcesses::Keep) => Background::LivesOn,
            None if self.are_foreign => Background::Ends,
            None => Background::LivesOn,
        }
    }
}

/// Directories of providers that more than one job runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Stores {
    /// Paths that nobody writes while a job runs.
    pub(super) fixed: Vec<PathBuf>,
    /// Caches that `init` fills.
    pub(super) caches: Vec<PathBuf>,
    /// Paths inside them that jobs need not see, such as locks.
    pub(super) hidden: Vec<PathBuf>,
    /// Further paths that a job with a root file system of its own needs.
    pub(super) shown: Shown,
}

/// Isolation that works on this machine.
pub(super) struct Prepared {
    pub(super) isolation: Isolation,
    pub(super) report: Report,
    /// Files that were made in the home directory; `None` if none had to be.
    pub(super) home: Option<Made>,
}

impl Wanted {
    /// Probes the requested means and logs once which of them works. Sessions will be in `work_dir`.
    ///
    /// # Errors
    /// If a mechanism that was requested by name does not work, or several jobs would run without isolation from each
    /// other.
    pub(super) async fn prepare(
        self,
        background: Option<BackgroundProcesses>,
        guarded: Guarded,
        stores: Stores,
        work_dir: &Path,
    ) -> anyhow::Result<Option<Prepared>> {
        let candidates = match self {
            Self::Auto => &Mechanism::OPEN[..],
            Self::Namespaces => &[Mechanism::Namespaces],
            Self::Landlock => &[Mechanism::Landlock],
            Self::FreshRoot => &[Mechanism::FreshRoot],
            Self::None => {
                if guarded.jobs > 1 {
                    let jobs = guarded.jobs;
                    warn!(jobs, "jobs are not isolated from each other, as configured");
                }
                return Ok(None);
            }
        };
        files::create_private_dir(work_dir)
            .with_context(|| format!("failed to make `{}`", work_dir.display()))?;
        let background = guarded.background(background);
        let mut denied = Vec::new();
        for mechanism in candidates {
            let probed = probe(&own_launcher(), *mechanism, background, work_dir).await;
            match probed.result {
                Ok(held) => {
                    let groups = control_groups(background);
                    let report = Report::new(*mechanism, held, &groups, &denied);
                    report.tell(guarded.are_foreign);
                    let (isolation, home) =
                        isolation(*mechanism, background, guarded, stores, work_dir)?;
                    let isolation = Isolation {
                        control_groups: groups.ok(),
                        ..isolation
                    };
                    return Ok(Some(Prepared {
                        isolation,
                        report,
                        home,
                    }));
                }
                Err(_) => denied.push(probed),
            }
        }
        self.go_without(&guarded, &denied)?;
        Ok(None)
    }

    fn go_without(self, guarded: &Guarded, denied: &[Probed]) -> anyhow::Result<()> {
        let denied = Denied(denied);
        if self != Self::Auto {
            let error =
                anyhow::anyhow!("the requested `--isolation` is not available here: {denied}");
            return Err(error).hint("`--isolation auto` uses what works");
        }
        if guarded.jobs > 1 {
            let jobs = guarded.jobs;
            let text =
                format!("{jobs} jobs at a time cannot be isolated from each other here: {denied}");
            let hint = "`--isolation none` runs them anyway, and each can read the others' files";
            return Err(UsageError(text)).hint(hint);
        }
        warn!(
            %denied,
            "jobs are not isolated: a template can read this daemon's secrets and state"
        );
        Ok(())
    }
}

/// Means that did not work, with the reasons.
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

/// Returns the control groups that jobs get; `Err` says why there are none.
fn control_groups(background: Background) -> Result<Hierarchy, String> {
    match background {
        Background::Ends => Hierarchy::find(),
        Background::LivesOn => Err("background processes are kept".to_owned()),
    }
}

/// Isolation that holds on this machine, and its gaps.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Report {
    /// Means by which files are kept from a job.
    mechanism: String,
    /// Things that jobs are isolated from.
    holds: Vec<&'static str>,
    /// Things that jobs are not isolated from, with the reason if one is known.
    lacks: Vec<String>,
}

impl Report {
    fn new(
        mechanism: Mechanism,
        held: Held,
        groups: &Result<Hierarchy, String>,
        denied: &[Probed],
    ) -> Self {
        let has_groups = groups.is_ok();
        let guarantees = [
            (true, "files"),
            (held.signals, "signals to other processes"),
            (held.abstract_sockets, "abstract sockets of others"),
            (held.background, "processes that outlive their step"),
            (held.process_list, "the list of processes"),
            (held.task_count || has_groups, "too many processes"),
            (has_groups, "too much memory, counted for all its processes"),
        ];
        let (holds, lacks): (Vec<_>, Vec<_>) = guarantees.into_iter().partition(|(is, _)| *is);
        let mut lacks: Vec<String> = lacks.into_iter().map(|(_, what)| what.to_owned()).collect();
        if let Err(reason) = groups {
            lacks.push(format!("control groups ({reason})"));
        }
        lacks.extend((!denied.is_empty()).then(|| Denied(denied).to_string()));
        Self {
            mechanism: mechanism.to_string(),
            holds: holds.into_iter().map(|(_, what)| what).collect(),
            lacks,
        }
    }

    fn tell(&self, are_foreign: bool) {
        let (by, holds, lacks) = (
            &self.mechanism,
            self.holds.join(", "),
            self.lacks.join(", "),
        );
        info!(%by, holds, lacks, "jobs are isolated");
        if are_foreign && nix::unistd::geteuid().is_root() {
            warn!(
                "this daemon runs as root: templates can use devices and kernel settings to get around the isolation; \
                 run it as a user of its own"
            );
        }
    }
}

/// Assembles the isolation. Paths become absolute, because the launcher works in another directory.
fn isolation(
    mechanism: Mechanism,
    background: Background,
    guarded: Guarded,
    stores: Stores,
    work_dir: &Path,
) -> std::io::Result<(Isolation, Option<Made>)> {
    // Files of all our services that may contain secrets: systemd's credentials, the settings and saved logins.
    let named = ["CREDENTIALS_DIRECTORY", "OUTPOST_CONFIG"];
    let named = named.into_iter().filter_map(std::env::var_os);
    let files = named.map(PathBuf::from).chain(config::default_paths());
    let hidden = guarded.hidden.into_iter().chain(stores.hidden).chain(files);
    let own = config::user_dir();
    let hidden = hidden.chain(own.clone()).map(std::path::absolute);
    let hidden: Vec<PathBuf> = hidden.collect::<Result<_, _>>()?;
    let (fixed, made) = home(
        mechanism,
        guarded.are_foreign,
        &hidden,
        &stores.fixed,
        work_dir,
    );
    // A missing file cannot be hidden, and a job that created it would write the settings of the next daemon, so
    // create it here. Under Landlock nothing can be created beside a hidden file anyway, so a job could do that
    // only where nothing else is hidden.
    if let Some(own) = own.filter(|_| mechanism != Mechanism::Landlock && guarded.are_foreign) {
        let _ = files::create_private_dir(&own);
    }
    // Links are resolved before the first job, which could replace them.
    let real: Vec<PathBuf> = hidden
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let isolation = Isolation {
        mechanism,
        launcher: own_launcher(),
        modes: Modes::of(&real),
        hidden: hidden.into_iter().chain(real).collect(),
        stores: stores.fixed.into_iter().chain(fixed).collect(),
        shown: stores.shown,
        background,
        control_groups: None,
    };
    Ok((isolation, made))
}

/// Files in the home directory that jobs share and that their tools read. Under Landlock nothing new can be created
/// in a directory that contains a guarded path: so they are guarded only where that is the case anyway.
fn home(
    mechanism: Mechanism,
    are_foreign: bool,
    hidden: &[PathBuf],
    stores: &[PathBuf],
    work_dir: &Path,
) -> (Vec<PathBuf>, Option<Made>) {
    let dir = std::env::var_os("HOME").map(PathBuf::from);
    let settings = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let dir = dir.filter(|dir| are_foreign && dir.is_absolute());
    let Some(home) = dir.as_ref().and_then(|dir| Home::new(dir, settings)) else {
        return (Vec::new(), None);
    };
    let is_within = |path: &PathBuf| dir.as_ref().is_some_and(|dir| path.starts_with(dir));
    let mut others = hidden.iter().chain(stores);
    match mechanism {
        Mechanism::Namespaces => {
            let record = config::user_dir().map(|dir| dir.join(MADE_IN_HOME));
            let made = record.map(|record| home.make_missing(record, work_dir));
            let made = made.transpose().unwrap_or_else(|error| {
                warn!(%error, "what the home directory lacks of tools' settings is not protected from jobs");
                None
            });
            (home.guarded(), made)
        }
        Mechanism::Landlock if others.any(|path| is_within(path) && path.exists()) => {
            (home.guarded(), None)
        }
        Mechanism::Landlock | Mechanism::FreshRoot => (Vec::new(), None),
    }
}

/// Returns the paths that the operator's configuration of the engine, found by `env`, shares among jobs.
pub(super) fn operators_stores(engine: Engine, env: impl Fn(&str) -> Option<OsString>) -> Stores {
    let mut stores = Stores::default();
    if let Some(home) = env("HOME").map(PathBuf::from) {
        stores.fixed.extend([home.join(".terraform.d")]);
    }
    for file in locate(engine, &env).files {
        let read = std::fs::read_to_string(&file).ok();
        stores.fixed.push(file);
        // The engine explains an invalid file better than we could.
        let Some(config) = read.and_then(|text| CliConfig::parse(&text).ok()) else {
            continue;
        };
        let cache = config.argument("plugin_cache_dir");
        let cache = cache.map(|text| PathBuf::from(expanded(text, &env)));
        stores.caches.extend(cache);
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

/// Replaces `$NAME` and `${NAME}` by their values, as engines do in the directory of their plugin cache. Undefined
/// names become empty.
fn expanded(text: &str, env: impl Fn(&str) -> Option<OsString>) -> OsString {
    let mut all = OsString::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        all.push(before);
        let braced = after.strip_prefix('{').and_then(|it| it.split_once('}'));
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
        let (name, behind) = braced.unwrap_or_else(|| after.split_at(end));
        all.push(env(name).unwrap_or_default());
        rest = behind;
    }
    all.push(rest);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_the_directory_of_a_plugin_cache_count() {
        let env = |name: &str| (name == "HOME").then(|| "/home/me".into());
        for (text, expected) in [
            (
                "$HOME/.terraform.d/plugin-cache",
                "/home/me/.terraform.d/plugin-cache",
            ),
            ("${HOME}_x/$NONE/y", "/home/me_x//y"),
            ("/var/cache", "/var/cache"),
            ("", ""),
        ] {
            assert_eq!(expanded(text, env), expected, "{text}");
        }
    }

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

        assert!(Wanted::Auto.go_without(&guarded(1), &denied).is_ok());
        let error = Wanted::Auto.go_without(&guarded(2), &denied).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 jobs at a time cannot be isolated from each other here: landlock: use Landlock: not there"
        );
        assert!(Wanted::Landlock.go_without(&guarded(1), &denied).is_err());
    }
}
