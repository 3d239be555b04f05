//! Terraform and OpenTofu as engines: processes in, resources out.
//!
//! An [`Engine`] opens sessions; a session owns a directory and runs the steps of one job in it, each as a process of
//! its own. Their output becomes log entries, timings and diagnostics; their results become resources. The reference
//! determines the version before every step; we do so once for each binary.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

mod address;
pub mod binary;
pub mod bootstrap;
pub mod configuration;
mod diagnostic;
mod env;
mod go_text;
pub mod graph;
pub mod home;
pub mod install;
mod isolation;
mod leftovers;
pub mod log_stream;
pub mod plan;
mod plugin_cache;
pub mod providers;
pub mod reference_json;
pub mod replacements;
pub mod resources;
mod session;
pub mod state;
pub mod state_file;
pub mod template;
mod timings;
mod variables;

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use outpost_base::{error_chain::error_chain, stop::Stop};
use outpost_files::{beneath::Dir, removal};
use outpost_process::{Limits, Request};
use outpost_provision::{
    self as provision, ApplyObserver, LogSink, Provisioner, Salvaged, SessionConfig, StepFailure,
};
use semver::Version;
use tokio::{sync::Mutex, task::spawn_blocking};
use tracing::{Instrument as _, warn};
use uuid::Uuid;

use self::{
    binary::Binary,
    session::{Files, Session},
};
pub use self::{
    diagnostic::Diagnostic,
    env::Environment,
    isolation::{Isolation, Modes},
};

/// Age at which an untouched session directory counts as left by a daemon that died.
const STALE_SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Configuration of an engine.
#[derive(Clone)]
pub struct EngineConfig {
    /// Path of the engine's executable.
    pub binary: PathBuf,
    /// Directory of all sessions, which is created if it is missing.
    pub work_dir: PathBuf,
    /// Variables of the host for every process of the engine.
    pub environment: Environment,
    /// Time in which a cancelled process must end before its group is killed. Coder gives three minutes.
    pub exit_timeout: Duration,
    /// Directory of providers that sessions share; `None` if they share none.
    pub plugin_cache_dir: Option<PathBuf>,
    /// Plugin caches of the operator, whose providers sessions use. Engines fill them only in sessions without
    /// isolation that get all providers from registries: providers that we present are links that disappear with the
    /// session.
    pub operators_plugin_caches: Vec<PathBuf>,
    /// Scripts that start agents, by platform such as `linux_amd64`.
    pub agent_scripts: BTreeMap<String, String>,
    /// Isolation of jobs from each other and from us; `None` for none.
    pub isolation: Option<Isolation>,
    /// Path of this program, which becomes the parent of applies that outlive us; `None` for no such parent.
    pub shim: Option<PathBuf>,
    /// Presenter that prepares providers for sessions.
    pub providers: Arc<dyn ProviderPresenter>,
}

/// An engine: Terraform or OpenTofu.
pub struct Engine {
    config: Arc<EngineConfig>,
    binary: Mutex<Option<Binary>>,
    sweeping: Arc<Sweeping>,
}

/// State of the removal of leftovers.
#[derive(Debug, Default)]
struct Sweeping {
    is_running: AtomicBool,
    /// `true` once the removal of what was moved aside has been tried again.
    was_run: AtomicBool,
}

/// Number of the init: the first, or a repetition that the presenter requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The first init of the session.
    First,
    /// The repeated init with other providers.
    Repeat,
}

/// Settings with which the processes of a session find providers.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Environment variables for every process.
    pub env: Vec<(OsString, OsString)>,
    /// Environment variables for init only.
    pub(crate) init_env: Vec<(OsString, OsString)>,
    /// Source of the `coder` provider, in the form of one part of a path. Sessions share a plugin cache only if they
    /// have the same source; `None` if this one shares none.
    pub source: Option<String>,
    /// `true` if the `coder` provider is the built-in one, whose checksums no lock file can contain.
    pub(crate) is_coder_builtin: bool,
    /// `true` if some providers come from a directory of ours. An engine puts links to those into its plugin cache.
    pub(crate) has_links: bool,
    /// Hosts that a mirror replaces, in the engine's normal form. The operator's tokens for them must not be sent to
    /// the mirror.
    pub(crate) replaced_hosts: BTreeSet<String>,
    /// Replacements for the addresses of git repositories: the beginning of an address, and what git uses instead of
    /// it.
    pub repositories: BTreeMap<String, String>,
    /// `true` if a mirror is used.
    pub is_mirrored: bool,
    /// Guard that keeps the presented providers in place.
    pub hold: Option<Arc<dyn Any + Send + Sync>>,
}

impl Default for Presented {
    fn default() -> Self {
        Self {
            env: Vec::new(),
            init_env: Vec::new(),
            source: Some("registry".to_owned()),
            is_coder_builtin: false,
            has_links: false,
            replaced_hosts: BTreeSet::new(),
            repositories: BTreeMap::new(),
            is_mirrored: false,
            hold: None,
        }
    }
}

/// An init that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedInit<'a> {
    /// The template: an uncompressed tar archive.
    pub archive: &'a Bytes,
    /// Version of the engine.
    pub version: &'a Version,
    /// Output of the init.
    pub output: &'a str,
    /// Settings that its processes had.
    pub presented: &'a Presented,
}

/// Prepares providers before init, for example those that need no download.
#[async_trait]
pub trait ProviderPresenter: Send + Sync {
    /// Prepares the session whose template is in `dir`. Files that the template must not see are put into `private`.
    /// Repositories in `elsewhere`, such as `HOST/OWNER/REPO`, are fetched from their own hosts.
    async fn prepare(
        &self,
        dir: &Dir,
        private: &Dir,
        attempt: Attempt,
        elsewhere: &BTreeSet<String>,
        log: &dyn LogSink,
    ) -> Result<Presented, StepFailure>;

    /// Returns whether init should run once more with other providers, after it failed with this output.
    fn should_repeat(&self, output: &str) -> bool;

    /// Returns repositories that git requested from the replacements in `presented.repositories` by mistake,
    /// according to the output of a failed init.
    fn misdirected_repositories(&self, output: &str, presented: &Presented) -> BTreeSet<String> {
        let _ = (output, presented);
        BTreeSet::new()
    }

    /// Determines what was missing for a template whose init failed with this output, and reports it in the job's log
    /// and to those who can provide it. Takes a limited time, and never fails.
    async fn explain(&self, failed: FailedInit<'_>, log: &dyn LogSink) {
        let _ = (failed, log);
    }

    /// Returns a suggestion for the operator if an init failed with this output because providers are out of reach.
    fn remedy(&self, output: &str) -> Option<String> {
        let _ = output;
        None
    }
}

/// Leaves all providers to the engine and the operator's own configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registry;

#[async_trait]
impl ProviderPresenter for Registry {
    async fn prepare(
        &self,
        _: &Dir,
        _: &Dir,
        _: Attempt,
        _: &BTreeSet<String>,
        _: &dyn LogSink,
    ) -> Result<Presented, StepFailure> {
        Ok(Presented::default())
    }

    fn should_repeat(&self, _: &str) -> bool {
        false
    }
}

impl Engine {
    /// Returns an engine whose version is not known yet.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config: Arc::new(config),
            binary: Mutex::new(None),
            sweeping: Arc::default(),
        }
    }

    /// Determines product and version of the engine, unless they are known and the executable has not been replaced.
    ///
    /// # Errors
    /// [`binary::BinaryError`].
    pub async fn probe(&self, stop: &Stop) -> Result<Binary, binary::BinaryError> {
        let mut known = self.binary.lock().await;
        if let Some(binary) = known.as_ref().filter(|binary| binary.is_current()) {
            return Ok(binary.clone());
        }
        let binary =
            Binary::probe(&self.config.binary, self.config.environment.to_vec(), stop).await?;
        *known = Some(binary.clone());
        Ok(binary)
    }

    /// Removes the values of variables that daemons left behind when they died, and begins to remove everything else.
    pub async fn clean(&self) {
        let work_dir = self.config.work_dir.clone();
        let swept =
            spawn_blocking(move || leftovers::sweep(&work_dir, removal::clock_of(&work_dir)));
        // If it panics, the next run tries again.
        let _ = swept.await;
        self.sweep();
    }

    /// Begins to remove leftovers of daemons that died long ago, and directories that could not be removed at once.
    fn sweep(&self) {
        let sweeping = Arc::clone(&self.sweeping);
        if sweeping.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_first = !sweeping.was_run.swap(true, Ordering::AcqRel);
        let work_dir = self.config.work_dir.clone();
        let sweep = async move {
            removal::sweep(&work_dir, session::PREFIX, STALE_SESSION, is_first).await;
            sweeping.is_running.store(false, Ordering::Release);
        };
        // Detached: no job waits for it, and what it does not finish is left for the next sweep.
        tokio::spawn(sweep.in_current_span());
    }
}

#[async_trait]
impl Provisioner for Engine {
    async fn open(
        &self,
        config: SessionConfig,
    ) -> Result<Box<dyn provision::Session>, StepFailure> {
        let binary = self.probe(&Stop::new()).await.map_err(|error| {
            let hint = error
                .hint()
                .map(|hint| format!(" ({hint})"))
                .unwrap_or_default();
            StepFailure::new(format!("{}{hint}", error_chain(&error)))
        })?;
        self.clean().await;
        let name = format!("{}{}", session::PREFIX, Uuid::new_v4());
        let session = Session::create(Arc::clone(&self.config), binary, config, &name);
        Ok(Box::new(session.await.map_err(|error| {
            let dir = self.config.work_dir.display();
            StepFailure::new(format!("create a session directory in {dir}: {error}"))
        })?))
    }

    async fn salvage(
        &self,
        dirs: &[PathBuf],
        observer: Arc<dyn ApplyObserver>,
        stop: &Stop,
    ) -> Salvaged {
        let [dir, private] = dirs else {
            return Salvaged::Ended { problem: None };
        };
        let files = Files::open(dir, private).await;
        let problem = session::salvage(&self.config, dir, &files, observer.as_ref(), stop).await;
        // Reporting success without the state would make the next build undo the changes.
        let files = match files {
            Ok(files) if problem.is_none() && files.ended_well().await => files,
            _ => return Salvaged::Ended { problem },
        };
        let made = async {
            let binary = self
                .probe(stop)
                .await
                .map_err(|error| StepFailure::new(error_chain(&error)))?;
            session::made(Arc::clone(&self.config), binary, files, stop).await
        };
        match made.await {
            Ok(made) => Salvaged::Succeeded(made),
            Err(error) => {
                warn!(%error, "an apply whose daemon had died succeeded, but its result cannot be determined");
                Salvaged::Ended { problem: None }
            }
        }
    }
}

/// Returns the limits of short processes whose output is an answer.
fn run_limits() -> Limits {
    limits(Duration::from_secs(10))
}

fn limits(exit_timeout: Duration) -> Limits {
    Limits {
        request: Request::Interrupt,
        exit_timeout,
        // Background processes of a template may keep the pipes open after the engine has ended.
        pipe_grace: Duration::from_secs(5),
        line_bytes: 1 << 20,
        precious_bytes: state_file::MAX_BYTES + (1 << 20),
        must_keep_whole: log_stream::must_keep_whole,
    }
}
