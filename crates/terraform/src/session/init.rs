//! Installation of what a template needs, in steps with different rights.
//!
//! Fetching modules can run code of the template, such as hooks of a version control system; so can the
//! initialization of some backends. Installing providers runs none, and only its results are shared with other
//! sessions. So these are separate processes, and each has ended, with all processes that it started, before the next
//! one begins.

use std::{fs, io, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use outpost_base::{job::LogLevel, stop::Stop};
use outpost_files::beneath::{DEADLINE, within};
use outpost_language::{
    self as language,
    lock::{self, Lock},
};
use outpost_provision::{LogSink, StepFailure};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{
    Session,
    run::{IgnoredLockEntries, StepOutput},
};
use crate::{Attempt, binary, plugin_cache::Shared, timings::Timings};

/// Maximum number of repetitions of init for repositories that a mirror's rules matched by mistake: one round may
/// find only those at one depth of modules.
const MAX_ASTRAY: usize = 8;

/// Needs of a template other than providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    modules: bool,
    /// `true` if a backend is configured. A job's state is always local, but an engine plans nothing before its
    /// backend is initialized.
    backend: bool,
}

impl Session {
    async fn run_init(
        &mut self,
        attempt: Attempt,
        log: &Arc<dyn LogSink>,
        stop: &Stop,
        timings: &mut Timings,
    ) -> Result<StepOutput, StepFailure> {
        let providers = Arc::clone(&self.engine.providers);
        let (dir, private) = (&self.files.dir, &self.files.private);
        let prepared = providers.prepare(dir, private, attempt, &self.elsewhere, log.as_ref());
        self.presented = prepared.await?;
        if self.only_modules {
            timings.begin_modules(Timestamp::now());
            return self.install(&["get"], log, stop, timings).await;
        }
        let Some(shared) = self.shared() else {
            self.own_cache = self.cache_of_nobody_else().await?;
            return self.install(&["init"], log, stop, timings).await;
        };
        let needs = self.needs().await;
        if needs.modules {
            timings.begin_modules(Timestamp::now());
            let ran = self.install(&["get"], log, stop, timings).await?;
            if !ran.exit.is_success() {
                return Ok(ran);
            }
        }
        // The lock file decides what is shared, so only the engine may have written it.
        self.remove_lock().await?;
        let own = self.lay_out(&shared).await?;
        self.own_cache = Some(own.clone());
        let providers = ["init", "-backend=false", "-get=false"];
        let ran = self.install(&providers, log, stop, timings).await?;
        if !ran.exit.is_success() {
            return Ok(ran);
        }
        self.share(shared, own).await;
        match needs.backend {
            true => {
                self.install(&["init", "-get=false"], log, stop, timings)
                    .await
            }
            false => Ok(ran),
        }
    }

    /// Runs init, and repeats it where that helps.
    pub(super) async fn init_providers(
        &mut self,
        log: &Arc<dyn LogSink>,
        stop: &Stop,
        timings: &mut Timings,
    ) -> Result<StepOutput, StepFailure> {
        let mut ran = self.run_init(Attempt::First, log, stop, timings).await?;
        for _ in 0..MAX_ASTRAY {
            if ran.exit.is_success() || stop.is_cancelled() {
                return Ok(ran);
            }
            let misdirected_repositories =
                (self.engine.providers).misdirected_repositories(&ran.output, &self.presented);
            // Without a new repository the next round would end the same way.
            if misdirected_repositories.is_subset(&self.elsewhere) {
                break;
            }
            for place in &misdirected_repositories {
                let text = format!(
                    "the mirror does not have the repository {place}; git asks its own host for it"
                );
                log.log(LogLevel::Info, text);
            }
            self.elsewhere.extend(misdirected_repositories);
            ran = self.run_init(Attempt::First, log, stop, timings).await?;
        }
        if ran.exit.is_success() || stop.is_cancelled() {
            return Ok(ran);
        }
        if self.engine.providers.should_repeat(&ran.output) {
            return self.run_init(Attempt::Repeat, log, stop, timings).await;
        }
        if ran.output.contains("text file busy") {
            log.log(
                LogLevel::Warn,
                "a provider was started while it was still being written; retrying once".to_owned(),
            );
            return self.run_init(Attempt::First, log, stop, timings).await;
        }
        Ok(ran)
    }

    /// Runs one command that installs something.
    async fn install(
        &mut self,
        command: &[&str],
        log: &Arc<dyn LogSink>,
        stop: &Stop,
        timings: &mut Timings,
    ) -> Result<StepOutput, StepFailure> {
        let mut args = command.to_vec();
        args.push("-no-color");
        if command[0] == "init" {
            args.push("-input=false");
            if self.binary.version >= binary::INIT_JSON {
                args.push("-json");
            }
        }
        let mut environment = self.environment();
        for (name, value) in &self.presented.init_env {
            environment.set(name, value);
        }
        let runner = self.runner(environment, Arc::clone(log));
        let runner = runner.ignoring_lock_entries(
            match (self.has_own_lock, self.presented.is_coder_builtin) {
                (false, _) => IgnoredLockEntries::All,
                (true, true) => IgnoredLockEntries::OfCoder,
                (true, false) => IgnoredLockEntries::None,
            },
        );
        let ran = runner.stream(&args, stop, timings).await?;
        self.engine_time += ran.took;
        Ok(ran)
    }

    /// Returns whether the engine may fill the operator's plugin cache: that requires that isolation does not prevent
    /// it, and that no links of ours would get into it.
    fn fills_operators_cache(&self) -> bool {
        let operators = &self.engine.operators_plugin_caches;
        !operators.is_empty() && self.engine.isolation.is_none() && !self.presented.has_links
    }

    /// Returns the providers that this session shares with others; `None` if all come from a mirror, or if the
    /// template has a lock file, whose own checksums must be checked.
    fn shared(&self) -> Option<Shared> {
        if self.fills_operators_cache() {
            return None;
        }
        let caches = self.engine.plugin_cache_dir.as_ref();
        let caches = caches.filter(|_| !self.has_own_lock)?;
        Some(Shared::new(caches, self.presented.source.as_ref()?))
    }

    /// Creates an empty plugin cache in place of the operator's, unless the engine may fill that.
    async fn cache_of_nobody_else(&self) -> Result<Option<PathBuf>, StepFailure> {
        if self.engine.operators_plugin_caches.is_empty() || self.fills_operators_cache() {
            return Ok(None);
        }
        let own = self.fresh_cache();
        let made = own.clone();
        let made = spawn_blocking(move || outpost_files::create_private_dir(&made)).await;
        flat(made).map_err(cache_failed)?;
        Ok(Some(own))
    }

    /// Creates a plugin cache with the shared providers, after all processes of the template have ended that could
    /// have waited for it.
    async fn lay_out(&self, shared: &Shared) -> Result<PathBuf, StepFailure> {
        let (shared, own) = (shared.clone(), self.fresh_cache());
        let further = self.engine.operators_plugin_caches.clone();
        let (place, is_coder_builtin) = (own.clone(), self.presented.is_coder_builtin);
        let lay_out = move || shared.lay_out(&place, &further, is_coder_builtin);
        let laid_out = spawn_blocking(lay_out).await;
        flat(laid_out).map_err(cache_failed)?;
        Ok(own)
    }

    fn fresh_cache(&self) -> PathBuf {
        let private = self.files.private.path();
        private.join(format!("plugins-{}", Uuid::new_v4()))
    }

    /// Shares with other sessions what init got from registries.
    async fn share(&self, shared: Shared, own: PathBuf) {
        let text = self.files.lock().await.unwrap_or_default();
        let shared = spawn_blocking(move || {
            let lock = Lock::parse(&String::from_utf8_lossy(&text)).unwrap_or_default();
            shared.take_in(&own, &lock)
        });
        // A provider that is not shared is installed again.
        let _ = shared.await;
    }

    async fn needs(&self) -> Needs {
        let dir = self.files.dir.clone();
        let loaded = within(DEADLINE, move || language::load(&dir)).await;
        let all = Needs {
            modules: true,
            backend: true,
        };
        // The engine may be able to read what we cannot.
        loaded.ok().and_then(Result::ok).map_or(all, |module| {
            let places = ["backend", "cloud"];
            let has_place = |it: &language::Located<'_>| {
                places.iter().any(|place| it.block.body.has_blocks(place))
            };
            Needs {
                modules: module.blocks("module").next().is_some(),
                backend: module.blocks("terraform").any(|it| has_place(&it)),
            }
        })
    }

    async fn remove_lock(&self) -> Result<(), StepFailure> {
        let path = self.dir().join(lock::FILE_NAME);
        let removed = spawn_blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        flat(removed.await)
            .map_err(|error| StepFailure::new(format!("remove {}: {error}", lock::FILE_NAME)))
    }
}

fn flat<T>(done: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

fn cache_failed(error: io::Error) -> StepFailure {
    StepFailure::new(format!("prepare the plugin cache of the session: {error}"))
}
