//! Presents the built-in `coder` provider to an engine: through a CLI configuration that names a mirror of ours.
//!
//! The operator's configuration stays in force, except that `coder/coder` comes from the mirror and from nowhere
//! else. A template's own files are left alone, but for checksums in the lock file, which ours cannot have.

mod configuration;
mod locked;
mod unavailable;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use async_trait::async_trait;

use crate::{
    job::LogLevel,
    language::cli_config::Engine,
    provision::{LogSink, ProviderPackages, StepFailure},
    terraform::{Attempt, Presented, ProviderPresenter},
};

/// Where `coder/coder` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Always from this program.
    Builtin,
    /// As for any other provider: from a registry, or a mirror of the operator.
    Registry,
    /// From a registry if it can be had there, else from this program.
    Auto,
}

impl Mode {
    /// `builtin`, `registry` or `auto`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Registry => "registry",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word is no [`Mode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown source {0:?} of the coder provider: expected builtin, registry or auto")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Builtin, Self::Registry, Self::Auto]
            .into_iter()
            .find(|mode| mode.as_str() == word)
            .ok_or_else(|| ModeError(word.to_owned()))
    }
}

/// Reads a variable of the environment.
type Environment = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Presents the built-in `coder` provider where the mode asks for it.
#[derive(Clone)]
pub struct CoderProvider {
    mode: Mode,
    engine: Engine,
    packages: Arc<dyn ProviderPackages>,
    environment: Environment,
}

impl CoderProvider {
    /// Presents `packages`. The operator's configuration is found by `environment`, which is the daemon's own.
    pub fn new(
        mode: Mode,
        engine: Engine,
        packages: Arc<dyn ProviderPackages>,
        environment: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
    ) -> Self {
        Self {
            mode,
            engine,
            packages,
            environment: Arc::new(environment),
        }
    }

    fn uses_builtin(&self, attempt: Attempt) -> bool {
        match self.mode {
            Mode::Builtin => true,
            Mode::Registry => false,
            Mode::Auto => attempt == Attempt::Repeat,
        }
    }

    /// Does all that touches files. Returns what the author should know.
    fn present(
        &self,
        dir: &Path,
        private: &Path,
    ) -> Result<(Presented, Option<String>), StepFailure> {
        let hosts = self.packages.hosts();
        let lock = locked::relax(dir, hosts)?;
        let failed = |what, error| StepFailure::new(format!("{what}: {error}"));
        let mirror = self.packages.mirror(lock.version.as_ref());
        let mirror = mirror.map_err(|e| failed("write the built-in coder provider", e))?;
        let file = self.configure(dir, private, &mirror)?;
        let source = mirror.file_name().unwrap_or_default();
        let source = source.to_string_lossy().into_owned();
        let presented = Presented {
            env: vec![("TF_CLI_CONFIG_FILE".into(), file.into_os_string())],
            source,
        };
        Ok((presented, lock.warning))
    }

    fn configure(&self, dir: &Path, private: &Path, mirror: &Path) -> Result<PathBuf, StepFailure> {
        let env = |name: &str| (self.environment)(name);
        let config = configuration::merged(self.engine, env, dir, mirror, self.packages.hosts());
        let written = config.and_then(|config| configuration::write(private, &config));
        written.map_err(|error| StepFailure::new(format!("write a CLI configuration: {error}")))
    }
}

#[async_trait]
impl ProviderPresenter for CoderProvider {
    async fn prepare(
        &self,
        dir: &Path,
        private: &Path,
        attempt: Attempt,
        log: &dyn LogSink,
    ) -> Result<Presented, StepFailure> {
        if !self.uses_builtin(attempt) {
            return Ok(Presented::default());
        }
        if attempt == Attempt::Repeat {
            let text = "coder/coder is not available; using the built-in provider instead";
            log.log(LogLevel::Warn, text.to_owned());
        }
        let (this, dir, private) = (self.clone(), dir.to_owned(), private.to_owned());
        let presented = tokio::task::spawn_blocking(move || this.present(&dir, &private)).await;
        let presented = presented.map_err(|error| StepFailure::new(error.to_string()))?;
        let (presented, warning) = presented?;
        if let Some(warning) = warning {
            log.log(LogLevel::Warn, warning);
        }
        Ok(presented)
    }

    fn should_repeat(&self, output: &str) -> bool {
        self.mode == Mode::Auto && unavailable::is_unavailable(output)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io, os::unix::fs::PermissionsExt, sync::Mutex};

    use semver::Version;

    use super::*;

    struct FakePackages(PathBuf);

    impl ProviderPackages for FakePackages {
        fn hosts(&self) -> &[&'static str] {
            &["registry.terraform.io"]
        }

        fn mirror(&self, locked: Option<&Version>) -> io::Result<PathBuf> {
            Ok(self
                .0
                .join(locked.map_or("any".to_owned(), Version::to_string)))
        }
    }

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl LogSink for Lines {
        fn log(&self, _: LogLevel, output: String) {
            self.0.lock().unwrap().push(output);
        }
    }

    const LOCK: &str = "provider \"registry.terraform.io/coder/coder\" {\n  version = \"2.1.0\"\n  \
                        hashes = [\n    \"zh:0000000000000000000000000000000000000000000000000000000000000000\",\n  ]\n}\n";

    struct Bench {
        dir: tempfile::TempDir,
        lines: Lines,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("session")).unwrap();
            Self {
                dir,
                lines: Lines::default(),
            }
        }

        fn session(&self) -> PathBuf {
            self.dir.path().join("session")
        }

        async fn prepare(&self, mode: Mode, attempt: Attempt) -> Presented {
            let home = self.dir.path().join("home");
            let packages = Arc::new(FakePackages(self.dir.path().join("packages")));
            let environment =
                move |name: &str| (name == "HOME").then(|| home.clone().into_os_string());
            let presenter = CoderProvider::new(mode, Engine::Terraform, packages, environment);
            let prepared = presenter
                .prepare(&self.session(), self.dir.path(), attempt, &self.lines)
                .await;
            prepared.unwrap()
        }

        fn log(&self) -> Vec<String> {
            self.lines.0.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn what_comes_from_a_registry_needs_nothing_from_us() {
        let bench = Bench::new();
        fs::write(bench.session().join(".terraform.lock.hcl"), LOCK).unwrap();

        for (mode, attempt) in [
            (Mode::Registry, Attempt::First),
            (Mode::Registry, Attempt::Repeat),
            (Mode::Auto, Attempt::First),
        ] {
            assert!(bench.prepare(mode, attempt).await.env.is_empty());
        }

        assert_eq!(fs::read_dir(bench.session()).unwrap().count(), 1);
        assert!(bench.log().is_empty());
    }

    #[tokio::test]
    async fn the_built_in_one_comes_with_a_configuration_for_our_eyes_only() {
        let bench = Bench::new();

        let presented = bench.prepare(Mode::Builtin, Attempt::First).await;

        let (name, path) = &presented.env[0];
        assert_eq!(name, "TF_CLI_CONFIG_FILE");
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("packages/any"), "{text}");
        assert_eq!(presented.source, "any");
        assert!(bench.log().is_empty());
    }

    #[tokio::test]
    async fn checksums_of_the_author_are_not_ignored_in_silence() {
        let bench = Bench::new();
        let lock = bench.session().join(".terraform.lock.hcl");
        fs::write(&lock, LOCK).unwrap();

        let presented = bench.prepare(Mode::Builtin, Attempt::First).await;

        let text = fs::read_to_string(&presented.env[0].1).unwrap();
        assert!(text.contains("packages/2.1.0"), "{text}");
        let lock = fs::read_to_string(lock).unwrap();
        assert!(lock.contains("2.1.0") && !lock.contains("zh:"), "{lock}");
        assert!(bench.log()[0].contains("checksums"), "{:?}", bench.log());
    }

    #[tokio::test]
    async fn a_repeat_says_what_it_is() {
        let bench = Bench::new();

        let presented = bench.prepare(Mode::Auto, Attempt::Repeat).await;

        assert_eq!(presented.env.len(), 1);
        assert!(bench.log()[0].contains("built-in"));
    }

    #[test]
    fn only_auto_repeats_and_only_if_the_provider_is_missing() {
        let output = "Error: Failed to query available provider packages\n\nCould not retrieve the list of available \
                      versions for provider coder/coder: no network";
        for (mode, output, repeats) in [
            (Mode::Auto, output, true),
            (Mode::Auto, "Error: Invalid block", false),
            (Mode::Registry, output, false),
            (Mode::Builtin, output, false),
        ] {
            let packages = Arc::new(FakePackages(PathBuf::new()));
            let presenter = CoderProvider::new(mode, Engine::Terraform, packages, |_| None);
            assert_eq!(presenter.should_repeat(output), repeats);
        }
    }

    #[test]
    fn a_mode_reads_back_from_its_name() {
        for mode in [Mode::Builtin, Mode::Registry, Mode::Auto] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!(
            "other"
                .parse::<Mode>()
                .unwrap_err()
                .to_string()
                .contains("\"other\"")
        );
    }
}
