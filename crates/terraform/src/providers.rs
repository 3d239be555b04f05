//! Presentation of the built-in `coder` provider and of a mirror to an engine, by a CLI configuration that names our
//! directories.
//!
//! The operator's configuration stays in force, except that `coder/coder` comes from the mirror and from nowhere
//! else. A template's own files are unchanged, except for checksums in the lock file, which the built-in provider
//! cannot have.

mod configuration;
mod lock_file;
mod repositories;
mod unavailable;

pub(super) use self::lock_file::MAX_BYTES as MAX_LOCK_BYTES;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt, io,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use self::configuration::Additions;
use crate::{Attempt, FailedInit, Presented, ProviderPresenter};
use async_trait::async_trait;
use outpost_base::{
    error_chain::error_chain,
    job::LogLevel,
    registry::{DEFAULT_HOST, OPENTOFU_HOST, ProviderAddr},
};
use outpost_files::beneath::{Dir, within};
use outpost_language::{self as language, cli_config::Engine};
use outpost_provision::{
    InitProxy, LogSink, ProviderPackages, ProviderStore, ProviderView, Services, StepFailure,
    UnmetTemplate, WantedProvider,
};
use tokio::time::timeout;
use tracing::warn;

/// Source of the provider `coder/coder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Always the provider in this program.
    Builtin,
    /// The same sources as for any other provider: a registry, or a mirror of the operator.
    Registry,
    /// A registry if it has the provider, else this program.
    Auto,
}

impl Mode {
    /// Returns `builtin`, `registry` or `auto`.
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

/// Returned if a word is not a [`Mode`].
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

/// Function that returns a variable of the environment.
type Environment = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Time limit for preparing a session's providers. Most of it is for unpacking packages that were never used before.
const DEADLINE: Duration = Duration::from_secs(600);

/// Time limit for finding out what a mirror lacks, while a failed job waits.
const EXPLAIN_DEADLINE: Duration = Duration::from_secs(20);

/// Maximum number of lines about that in a job's log.
const MAX_LACKING: usize = 20;

/// Name of a mirror's view in a session's private directory.
const VIEW: &str = "mirror";

/// Message in a job's log if the operator's own configuration replaces the mirror.
const STEPS_ASIDE: &str = "the mirror is not used for providers: the operator's CLI configuration has a \
                           provider_installation block, which takes precedence";

/// Presents the built-in `coder` provider where the mode requires it, and the contents of a mirror.
#[derive(Clone)]
pub struct Presenter {
    mode: Mode,
    engine: Engine,
    packages: Arc<dyn ProviderPackages>,
    environment: Environment,
    mirror: Option<Arc<dyn ProviderStore>>,
    sealed: bool,
}

impl Presenter {
    /// Returns a presenter of `packages`. `environment` is the daemon's own, and leads to the operator's
    /// configuration.
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
            mirror: None,
            sealed: false,
        }
    }

    /// Adds a mirror, from which alone its providers come, whatever their version.
    #[must_use]
    pub fn with_mirror(mut self, mirror: Option<Arc<dyn ProviderStore>>) -> Self {
        self.mirror = mirror;
        self
    }

    /// Forbids all requests to registries, and checks for a newer engine.
    #[must_use]
    pub fn sealed(mut self, sealed: bool) -> Self {
        self.sealed = sealed;
        self
    }

    fn uses_builtin(&self, attempt: Attempt) -> bool {
        match self.mode {
            Mode::Builtin => true,
            Mode::Registry => false,
            Mode::Auto => attempt == Attempt::Repeat,
        }
    }

    /// Does all work with files. Returns notes for the author.
    fn present(
        &self,
        dir: &Dir,
        private: &Dir,
        attempt: Attempt,
        elsewhere: &BTreeSet<String>,
    ) -> Result<(Presented, Vec<String>), StepFailure> {
        let env = |name: &str| (self.environment)(name);
        let wrong = |error| StepFailure::new(format!("write a CLI configuration: {error}"));
        let config = configuration::operators(self.engine, env).map_err(wrong)?;
        let mut warnings = Vec::new();
        let mut ours: Vec<(PathBuf, Vec<String>)> = Vec::new();
        let mut presented = Presented::default();
        let (mut services, mut repositories) = (Services::new(), BTreeMap::new());
        let (mut token, mut network) = (None, None);
        if let Some(store) = &self.mirror {
            if config.has("provider_installation") {
                warnings.push(STEPS_ASIDE.to_owned());
            } else {
                let wanted = self.wanted(dir);
                let view = self.view(store.as_ref(), &wanted, dir, private)?;
                let providers = view.providers.iter().map(ToString::to_string).collect();
                ours.push((private.path().join(VIEW), providers));
                (services, repositories) = (view.services, view.repositories);
                token = view.token;
                network = match view.network_mirror {
                    Some(url) => Some((url, view.unsigned)),
                    None => {
                        let of_template = |addr: &&ProviderAddr| wanted.contains_key(addr);
                        let unsigned = view.unsigned.iter().filter(of_template);
                        warnings.extend(unsigned.map(|addr| out_of_reach(addr, store.as_ref())));
                        None
                    }
                }
                .filter(|(_, unsigned)| !unsigned.is_empty());
                if let Some(init_proxy) = &view.init_proxy {
                    presented.init_env = proxy_env(init_proxy, private).map_err(|error| {
                        StepFailure::new(format!("write the mirror's authority: {error}"))
                    })?;
                }
                // Providers from a mirror are already shared, so the session needs no shared plugin cache.
                presented.source = None;
                presented.is_mirrored = true;
                presented.hold = Some(view.hold);
            }
        }
        if self.uses_builtin(attempt) {
            let hosts = self.packages.hosts();
            let lock = lock_file::relax(dir, hosts)?;
            let mirror = self.packages.mirror(lock.version.as_ref());
            let mirror = mirror.map_err(|error| {
                StepFailure::new(format!("write the built-in coder provider: {error}"))
            })?;
            let source = mirror.file_name().unwrap_or_default();
            let source = source.to_string_lossy().into_owned();
            presented.source = presented.source.map(|_| source);
            presented.is_coder_builtin = true;
            warnings.extend(lock.warning);
            let coder = hosts.iter().map(|host| format!("{host}/coder/coder"));
            let coder: Vec<_> = coder.collect();
            // The built-in provider replaces the one in the mirror.
            for (_, providers) in &mut ours {
                providers.retain(|provider| !coder.contains(provider));
            }
            ours.push((mirror, coder));
        }
        // An empty list would mean all providers.
        ours.retain(|(_, providers)| !providers.is_empty());
        presented.has_links = !ours.is_empty();
        presented.env = {
            let origin = |address: &str| repositories::origin(address, env);
            repositories::variables(&repositories, elsewhere, origin, token.as_ref(), env)
        };
        presented.repositories = repositories;
        if ours.is_empty() && services.is_empty() && network.is_none() && !self.sealed {
            return Ok((presented, warnings));
        }
        let mirrors = ours
            .iter()
            .map(|(path, providers)| (path.as_path(), providers.clone()));
        let additions = Additions {
            mirrors: mirrors.collect(),
            services,
            network,
            token,
            is_sealed: self.sealed,
        };
        let merged = configuration::merged(config, self.engine, env, dir, additions);
        let (config, replaced) = merged.map_err(wrong)?;
        let file = configuration::write(private, &config).map_err(wrong)?;
        presented.replaced_hosts = replaced;
        presented
            .env
            .push(("TF_CLI_CONFIG_FILE".into(), file.into_os_string()));
        Ok((presented, warnings))
    }

    /// Creates the view of the mirror, and adds its checksums to the session's lock file.
    fn view(
        &self,
        store: &dyn ProviderStore,
        wanted: &BTreeMap<ProviderAddr, WantedProvider>,
        dir: &Dir,
        private: &Dir,
    ) -> Result<ProviderView, StepFailure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let store = store.place();
            StepFailure::new(format!("use the mirror {store}: {}", error_chain(error)))
        };
        // An earlier view exists if init is repeated.
        let made = private
            .remove_dir(VIEW)
            .and_then(|()| private.create_dir(VIEW, 0o700))
            .and_then(|()| private.dir(VIEW));
        let view = made.map_err(|error| failed(&error))?;
        let view = store
            .view(&view, wanted)
            .map_err(|error| failed(error.as_ref()))?;
        lock_file::augment(dir, &view.checksums)?;
        Ok(view)
    }

    fn default_host(&self) -> &'static str {
        match self.engine {
            Engine::Terraform => DEFAULT_HOST,
            Engine::OpenTofu => OPENTOFU_HOST,
        }
    }

    /// Determines what the mirror lacks for a template.
    async fn lacks(
        &self,
        store: &dyn ProviderStore,
        failed: FailedInit<'_>,
    ) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
        let supplied = match failed.presented.is_coder_builtin {
            true => self.packages.hosts(),
            false => &[],
        };
        let supplied = supplied.iter().map(|host| format!("{host}/coder/coder"));
        let lacks = store.lacks(UnmetTemplate {
            archive: failed.archive.clone(),
            engine: match self.engine {
                Engine::Terraform => "terraform",
                Engine::OpenTofu => "tofu",
            },
            version: failed.version.clone(),
            default_host: self.default_host(),
            supplied: supplied.collect(),
        });
        timeout(EXPLAIN_DEADLINE, lacks).await?
    }

    /// Returns the providers that the template requires, as far as that is known before init; the others are only
    /// installed more slowly.
    fn wanted(&self, dir: &Dir) -> BTreeMap<ProviderAddr, WantedProvider> {
        let required = language::required_providers_of_tree(dir, self.default_host());
        let mut wanted: BTreeMap<_, WantedProvider> = BTreeMap::new();
        for (addr, constraint) in required.unwrap_or_default() {
            wanted.entry(addr).or_default().constraint = constraint;
        }
        for (addr, locked) in lock_file::read(dir).unwrap_or_default().providers {
            wanted.entry(addr).or_default().locked = Some(locked.version);
        }
        wanted
    }
}

/// Returns the message for a job's log about a provider that the mirror has and the engine will not find there.
fn out_of_reach(addr: &ProviderAddr, store: &dyn ProviderStore) -> String {
    format!(
        "the mirror {} has {addr} without a publisher's signature, and engines accept such a package only from a network \
         mirror over https://: its operator can serve it with a certificate",
        store.place()
    )
}

/// Name of the file with the authority of the mirror's proxy, in a session's private directory.
const AUTHORITY: &str = "mirror-ca.pem";

/// Returns variables with which init uses a proxy. Servers on this machine are reached directly.
fn proxy_env(init_proxy: &InitProxy, private: &Dir) -> io::Result<Vec<(OsString, OsString)>> {
    private.write_private(AUTHORITY, init_proxy.authority.as_bytes())?;
    let file = private.path().join(AUTHORITY);
    let set = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
    // Programs differ in the form that they read.
    let mut all: Vec<_> = ["HTTPS_PROXY", "https_proxy"]
        .map(|name| set(name, init_proxy.url.as_str().trim_end_matches('/')))
        .into();
    all.extend(["NO_PROXY", "no_proxy"].map(|name| set(name, "localhost,127.0.0.1,::1")));
    all.push(("SSL_CERT_FILE".into(), file.into_os_string()));
    Ok(all)
}

#[async_trait]
impl ProviderPresenter for Presenter {
    async fn prepare(
        &self,
        dir: &Dir,
        private: &Dir,
        attempt: Attempt,
        elsewhere: &BTreeSet<String>,
        log: &dyn LogSink,
    ) -> Result<Presented, StepFailure> {
        if attempt == Attempt::Repeat && self.uses_builtin(attempt) {
            let text = "coder/coder is not available; using the built-in provider instead";
            log.log(LogLevel::Warn, text.to_owned());
        }
        let (this, dir, private) = (self.clone(), dir.clone(), private.clone());
        let elsewhere = elsewhere.clone();
        let present = move || this.present(&dir, &private, attempt, &elsewhere);
        let presented = within(DEADLINE, present).await;
        let presented = presented.map_err(|error| StepFailure::new(error.to_string()))?;
        let (presented, warnings) = presented?;
        warnings
            .into_iter()
            .for_each(|warning| log.log(LogLevel::Warn, warning));
        Ok(presented)
    }

    fn should_repeat(&self, output: &str) -> bool {
        self.mode == Mode::Auto && unavailable::is_unavailable(output)
    }

    fn misdirected_repositories(&self, output: &str, presented: &Presented) -> BTreeSet<String> {
        // Registries must not be asked for them then.
        match self.sealed {
            true => BTreeSet::new(),
            false => repositories::misdirected_repositories(output, &presented.repositories),
        }
    }

    async fn explain(&self, failed: FailedInit<'_>, log: &dyn LogSink) {
        let Some(store) = self
            .mirror
            .as_ref()
            .filter(|_| failed.presented.is_mirrored)
        else {
            return;
        };
        if !unavailable::is_something_unavailable(failed.output) {
            return;
        }
        let place = store.place();
        match self.lacks(store.as_ref(), failed).await {
            Ok(lacks) => {
                for lacking in lacks.iter().take(MAX_LACKING) {
                    let text = format!("the mirror {place} does not have {lacking}");
                    log.log(LogLevel::Error, text);
                }
            }
            // The job has failed in any case, for reasons that are in its log.
            Err(error) => {
                warn!(mirror = place, %error, "cannot find out what the template lacks");
            }
        }
    }

    fn remedy(&self, output: &str) -> Option<String> {
        let place = self.mirror.as_ref().map(|mirror| mirror.place());
        match (unavailable::is_unavailable(output), place) {
            (true, None) => Some(
                "coder/coder is not available from a registry here: the daemon's operator can start the daemon with \
                 `--coder-provider builtin`, or with `--mirror DIR|URL` for this and other providers"
                    .to_owned(),
            ),
            (true, Some(place)) => Some(format!(
                "the mirror {place} has no coder/coder for this template: its operator can add it, or start the daemon with \
                 `--coder-provider builtin`"
            )),
            (false, None) if unavailable::is_any_unavailable(output) => Some(
                "providers are not available from a registry here: the daemon's operator can start the daemon with \
                 `--mirror DIR|URL` and a mirror that has them (`outpost mirror sync` makes one)"
                    .to_owned(),
            ),
            (false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, sync::Mutex};

    use outpost_provision::LinkSink;
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
        mirror: Option<Arc<dyn ProviderStore>>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("session")).unwrap();
            Self {
                dir,
                lines: Lines::default(),
                mirror: None,
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
            let presenter = Presenter::new(mode, Engine::Terraform, packages, environment)
                .with_mirror(self.mirror.clone());
            let prepared = presenter
                .prepare(
                    &Dir::open(&self.session()).unwrap(),
                    &Dir::open(self.dir.path()).unwrap(),
                    attempt,
                    &BTreeSet::new(),
                    &self.lines,
                )
                .await;
            prepared.unwrap()
        }

        fn log(&self) -> Vec<String> {
            self.lines.0.lock().unwrap().clone()
        }
    }

    #[derive(Default)]
    struct FakeStore {
        providers: Vec<ProviderAddr>,
        repositories: BTreeMap<String, String>,
    }

    impl ProviderStore for FakeStore {
        fn place(&self) -> String {
            "/mirror".to_owned()
        }

        fn view(
            &self,
            _: &dyn LinkSink,
            _: &BTreeMap<ProviderAddr, WantedProvider>,
        ) -> Result<ProviderView, Box<dyn std::error::Error + Send + Sync>> {
            Ok(ProviderView {
                init_proxy: None,
                providers: self.providers.clone(),
                services: Services::new(),
                unsigned: Vec::new(),
                network_mirror: None,
                repositories: self.repositories.clone(),
                token: None,
                checksums: BTreeMap::new(),
                hold: Arc::new(()),
            })
        }
    }

    #[tokio::test]
    async fn a_mirror_of_repositories_alone_is_used_as_well() {
        let mut bench = Bench::new();
        let to = "http://127.0.0.1:1/git/git.example/acme/mods".to_owned();
        bench.mirror = Some(Arc::new(FakeStore {
            repositories: [("https://git.example/acme/mods".to_owned(), to)].into(),
            ..FakeStore::default()
        }));

        let presented = bench.prepare(Mode::Registry, Attempt::First).await;

        let shown: Vec<_> = presented
            .env
            .iter()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect();
        assert_eq!(
            shown,
            [
                "GIT_CONFIG_COUNT=2",
                "GIT_CONFIG_KEY_0=url.http://127.0.0.1:1/git/git.example/acme/mods.insteadOf",
                "GIT_CONFIG_VALUE_0=https://git.example/acme/mods",
                "GIT_CONFIG_KEY_1=http.http://127.0.0.1:1.proxy",
                "GIT_CONFIG_VALUE_1=",
            ]
        );
    }

    #[tokio::test]
    async fn what_a_mirror_has_comes_from_there_unless_the_operator_says_otherwise() {
        let mut bench = Bench::new();
        bench.mirror = Some(Arc::new(FakeStore {
            providers: vec!["registry.terraform.io/acme/demo".parse().unwrap()],
            ..FakeStore::default()
        }));
        let home = bench.dir.path().join("home");
        fs::create_dir(&home).unwrap();

        let presented = bench.prepare(Mode::Registry, Attempt::First).await;
        let text = fs::read_to_string(&presented.env[0].1).unwrap();
        assert!(
            text.contains("include = [\"registry.terraform.io/acme/demo\"]"),
            "{text}"
        );
        assert!(bench.log().is_empty());

        let operators = "provider_installation {\n  direct {}\n}\n";
        fs::write(home.join(".terraformrc"), operators).unwrap();
        let presented = bench.prepare(Mode::Registry, Attempt::First).await;
        assert!(presented.env.is_empty());
        assert!(
            bench.log()[0].contains("provider_installation"),
            "{:?}",
            bench.log()
        );
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
        assert_eq!(presented.source.as_deref(), Some("any"));
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
            let presenter = Presenter::new(mode, Engine::Terraform, packages, |_| None);
            assert_eq!(presenter.should_repeat(output), repeats);
        }
    }

    #[test]
    fn who_cannot_reach_a_registry_is_told_of_the_options() {
        let presenter = |mode| {
            let packages = Arc::new(FakePackages(PathBuf::new()));
            Presenter::new(mode, Engine::Terraform, packages, |_| None)
        };
        let missing = |name: &str| {
            format!(
                "Error: Failed to query available provider packages\n\nCould not retrieve the list of available \
                 versions for provider {name}: could not connect"
            )
        };

        let coder = presenter(Mode::Registry)
            .remedy(&missing("coder/coder"))
            .unwrap();
        let other = presenter(Mode::Builtin)
            .remedy(&missing("hashicorp/aws"))
            .unwrap();

        assert!(
            coder.contains("`--coder-provider builtin`") && coder.contains("`--mirror DIR|URL`")
        );
        assert!(!other.contains("--coder-provider") && other.contains("`--mirror DIR|URL`"));
        assert_eq!(
            presenter(Mode::Registry).remedy("Error: Invalid block"),
            None
        );
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
