//! Terraform and OpenTofu as engines: processes in, resources out.
//!
//! An [`Engine`] opens sessions; a session owns a directory and runs the steps of one job in it, each as a process
//! of its own. What they print becomes log entries, timings and diagnostics; what they leave behind becomes
//! resources. The reference asks for the version before every step; we ask once for each binary.

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
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use outpost_base::{error_chain::error_chain, stop::Stop};
use outpost_files::{beneath::Dir, removal};
use outpost_process::Limits;
use outpost_provision::{
    self as provision, ApplyObserver, LogSink, Provisioner, Salvaged, SessionConfig, StepFailure,
};
use semver::Version;
use tokio::{sync::Mutex, task::spawn_blocking};
use tracing::warn;
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

/// Directories that nobody has touched for so long belong to daemons that died.
const STALE_SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// What an engine runs with.
#[derive(Clone)]
pub struct EngineConfig {
    /// The engine's executable.
    pub binary: PathBuf,
    /// Where sessions have their directories; made if it is missing.
    pub work_dir: PathBuf,
    /// What every process of the engine gets of the host's environment.
    pub environment: Environment,
    /// Time a cancelled process has to end by itself, before its group is killed. Coder gives three minutes.
    pub exit_timeout: Duration,
    /// Where the providers are that sessions share; `None` if they share none.
    pub plugin_cache_dir: Option<PathBuf>,
    /// Plugin caches of the operator's. Sessions run what is there. Only one that is not isolated and has all of its
    /// providers from registries fills them, as engines do elsewhere: what we present is a link to what goes with the session.
    pub operators_plugin_caches: Vec<PathBuf>,
    /// The scripts that bring agents up, by platform such as `linux_amd64`.
    pub agent_scripts: BTreeMap<String, String>,
    /// What keeps jobs from each other and from us; `None` for nothing.
    pub isolation: Option<Isolation>,
    /// This program, as the parent of applies that outlive us; `None` for none.
    pub shim: Option<PathBuf>,
    /// Who makes providers ready.
    pub providers: Arc<dyn ProviderPresenter>,
}

/// Terraform or OpenTofu.
pub struct Engine {
    config: Arc<EngineConfig>,
    binary: Mutex<Option<Binary>>,
    sweeping: Arc<Sweeping>,
}

/// Whether somebody removes what is left over.
#[derive(Debug, Default)]
struct Sweeping {
    is_running: AtomicBool,
    /// What was put aside has had another try.
    was_run: AtomicBool,
}

/// Whether init runs for the first time, or again after the presenter asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The first time.
    First,
    /// Again.
    Repeat,
}

/// What the processes of a session get so that they find providers.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Variables for every process.
    pub env: Vec<(OsString, OsString)>,
    /// Variables for init alone.
    pub init_env: Vec<(OsString, OsString)>,
    /// Names where the `coder` provider comes from, as one part of a path. Sessions share a plugin cache only if they
    /// agree on it; `None` if this one shares none.
    pub source: Option<String>,
    /// The `coder` provider is the one inside this program, whose checksums no lock file can have.
    pub is_coder_builtin: bool,
    /// Whether some providers come from a directory of ours. An engine puts links to those into its plugin cache.
    pub has_links: bool,
    /// Hosts that a mirror stands in for, as engines compare them. What the operator's tokens for them are for is not there.
    pub replaced_hosts: BTreeSet<String>,
    /// Beginnings of the addresses of git repositories, and what git takes in their place.
    pub repositories: BTreeMap<String, String>,
    /// Whether a mirror is used.
    pub is_mirrored: bool,
    /// Keeps what is presented where it is.
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
    /// The engine's version.
    pub version: &'a Version,
    /// What it said.
    pub output: &'a str,
    /// What its processes got.
    pub presented: &'a Presented,
}

/// Makes providers ready before init, such as those that need no download.
#[async_trait]
pub trait ProviderPresenter: Send + Sync {
    /// Prepares the session whose template lies in `dir`. Files that the template must not see go to `private`. Git takes
    /// the repositories `elsewhere`, such as `HOST/OWNER/REPO`, from their own hosts.
    async fn prepare(
        &self,
        dir: &Dir,
        private: &Dir,
        attempt: Attempt,
        elsewhere: &BTreeSet<String>,
        log: &dyn LogSink,
    ) -> Result<Presented, StepFailure>;

    /// Whether init should run once more with other providers, after it failed with this output.
    fn should_repeat(&self, output: &str) -> bool;

    /// Repositories that git looked for in the place of `presented.repositories` by mistake, according to the output of an
    /// init that failed.
    fn astray(&self, output: &str, presented: &Presented) -> BTreeSet<String> {
        let _ = (output, presented);
        BTreeSet::new()
    }

    /// Finds out what was not there for a template whose init failed with this output, and says so in the job's log and
    /// to whoever can bring it. Takes a limited time, and never fails.
    async fn explain(&self, failed: FailedInit<'_>, log: &dyn LogSink) {
        let _ = (failed, log);
    }

    /// What the operator can do about an init that failed with this output, if providers are out of reach.
    fn remedy(&self, output: &str) -> Option<String> {
        let _ = output;
        None
    }
}

/// Leaves everything to the engine and the operator's own configuration.
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
    /// An engine that has not been asked who it is yet.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config: Arc::new(config),
            binary: Mutex::new(None),
            sweeping: Arc::default(),
        }
    }

    /// Asks the engine who it is, unless it was asked before and has not been replaced since.
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

    /// Removes the values of variables that daemons left behind when they died, and begins to remove all else.
    pub async fn clean(&self) {
        let work_dir = self.config.work_dir.clone();
        let swept = spawn_blocking(move || leftovers::sweep(&work_dir, SystemTime::now()));
        // What panics in there is left for the next time.
        let _ = swept.await;
        self.sweep();
    }

    /// Begins to remove what daemons left behind that died long ago, and what did not go at once.
    fn sweep(&self) {
        let sweeping = Arc::clone(&self.sweeping);
        if sweeping.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_first = !sweeping.was_run.swap(true, Ordering::AcqRel);
        let work_dir = self.config.work_dir.clone();
        tokio::spawn(async move {
            removal::sweep(&work_dir, session::PREFIX, STALE_SESSION, is_first).await;
            sweeping.is_running.store(false, Ordering::Release);
        });
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
        // A success without its state would be one that the next build undoes.
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

/// The limits of short processes whose answer is all that counts.
fn run_limits() -> Limits {
    limits(Duration::from_secs(10))
}

fn limits(exit_timeout: Duration) -> Limits {
    Limits {
        exit_timeout,
        pipe_grace: Duration::from_secs(5),
        line_bytes: 1 << 20,
        precious_bytes: state_file::MAX_BYTES + (1 << 20),
        is_precious: log_stream::is_precious,
    }
}
