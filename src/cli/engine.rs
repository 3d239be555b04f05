//! Options about Terraform, and the engine that they make.

use std::{
    ffi::OsString,
    fs::{File, Permissions},
    io::{Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use url::Url;

use super::{
    exit::UsageError,
    isolation::{self, Guarded},
    remote::secret_file,
    values,
};
use crate::{
    language::cli_config::{self, CliConfig, locate},
    mirror::{self, Store, builtin::BuiltinPackages, serve::Loopback},
    net::{
        http::{self, bare},
        proxy::Proxies,
        tls, trust,
    },
    process::isolation::{Shown, own_launcher},
    provision::{ProviderStore, Provisioner},
    registry::Platform,
    stop::Stop,
    template::{
        mock::{Mock, MockStore, RealProvider},
        result_cache::appearance,
    },
    terraform::{
        Engine, EngineConfig, Environment,
        binary::{self, Binary},
        bootstrap,
        home::Made,
        install::Installer,
        providers::{self, Mode},
    },
};

/// Source of the provider `coder/coder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum CoderProvider {
    /// From this program, without a download
    Builtin,
    /// Like any other provider, from a registry or a mirror
    Registry,
    /// From a registry if it is available there, or else from this program
    Auto,
}

/// Options about Terraform or OpenTofu.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineArgs {
    /// Executable of Terraform or OpenTofu [default: the first one on PATH, or else a pinned Terraform is downloaded]
    #[arg(long, value_name = "PATH", env = "OUTPOST_ENGINE")]
    engine: Option<PathBuf>,
    /// Cache directory [default: $CACHE_DIRECTORY or ~/.cache/outpost]
    #[arg(long, short, value_name = "DIR", env = "CODER_CACHE_DIRECTORY")]
    cache_dir: Option<PathBuf>,
    /// Mirror of providers and modules: a directory, or the URL of `outpost mirror serve`
    ///
    /// What the mirror has is taken from there and from nowhere else; a directory also provides the engine if none is
    /// installed.
    #[arg(long, value_name = "DIR|URL", env = "OUTPOST_MIRROR")]
    mirror: Option<Mirror>,
    /// File with the token for the mirror
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_TOKEN_FILE")]
    mirror_token_file: Option<PathBuf>,
    /// Make no outbound connections: no registry, no engine download, no check for newer versions
    #[arg(long, env = "OUTPOST_SEALED")]
    sealed: bool,
    /// Also take module archives that templates reference by https:// address from the mirror's directory
    ///
    /// While providers and modules are installed, a proxy replaces the hosts of those archives, and nothing else can be
    /// reached over HTTPS. Needs --mirror DIR and --sealed.
    #[arg(
        long,
        env = "OUTPOST_MIRROR_ARCHIVES",
        requires = "mirror",
        requires = "sealed"
    )]
    mirror_archives: bool,
    /// Maximum size of the packages that jobs have unpacked in the mirror's directory, such as 10GB
    ///
    /// Beyond it the least recently used ones are removed, except those that a job uses or used within the last hour. The
    /// mirror keeps their archives and unpacks them again for the next job that needs them.
    #[arg(
        long,
        value_name = "SIZE",
        env = "OUTPOST_MIRROR_UNPACKED_MAX_SIZE",
        value_parser = values::bytes,
        requires = "mirror"
    )]
    mirror_unpacked_max_size: Option<u64>,
    /// Directory with bootstrap scripts to use in place of the built-in ones: linux.sh, darwin.sh, windows.ps1, or linux_arm64.sh
    #[arg(long, value_name = "DIR", env = "OUTPOST_BOOTSTRAP_SCRIPTS")]
    bootstrap_scripts: Option<PathBuf>,
    /// Time an interrupted Terraform process has to exit before it is killed
    #[arg(
        long,
        value_name = "DURATION",
        env = "OUTPOST_ENGINE_EXIT_TIMEOUT",
        default_value = "3m"
    )]
    engine_exit_timeout: humantime::Duration,
    /// Isolation of jobs from this program's secrets and state, from each other, and from the providers that they
    /// share
    #[arg(
        long,
        value_name = "MODE",
        env = "OUTPOST_ISOLATION",
        default_value = "auto"
    )]
    isolation: isolation::Wanted,
    /// Handling of a template's background processes at the end of the step that started them [default: end; with
    /// `outpost dev`, keep]
    #[arg(long, value_name = "MODE", env = "OUTPOST_BACKGROUND_PROCESSES")]
    background_processes: Option<isolation::BackgroundProcesses>,
    /// Additional files and directories that a job sees, read-only, with `--isolation fresh-root`
    #[arg(long, value_name = "PATH", env = "OUTPOST_SHOW", value_delimiter = ',')]
    show: Vec<PathBuf>,
}

/// Location of a mirror.
#[derive(Clone, Debug)]
enum Mirror {
    Directory(PathBuf),
    Served(Url),
}

impl FromStr for Mirror {
    type Err = url::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_served = ["http://", "https://"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        match is_served {
            true => text.parse().map(Self::Served),
            false => Ok(Self::Directory(text.into())),
        }
    }
}

/// A mirror that can be asked what it has.
pub(super) enum NamedMirror {
    Directory(Store),
    Served(Box<mirror::Remote>),
}

/// Places that an engine takes providers from.
pub(super) enum Providers {
    /// The operator's: registries, or the mirror of the options.
    Operators,
    /// Mocks in the place of all but `coder`.
    Mocks(Mocks),
    /// A store alone, or the mirror of the options.
    Named(Option<Arc<dyn ProviderStore>>),
}

/// Mocks, and what is not mocked beside them.
#[derive(Default)]
pub(super) struct Mocks {
    pub(super) mocks: Vec<Mock>,
    /// Providers that are not mocked and not built in.
    pub(super) real: Vec<RealProvider>,
    /// Modules come from their sources if the mirror does not have them.
    pub(super) is_online: bool,
}

/// An engine that is ready for use.
pub(super) struct Found {
    pub(super) provisioner: Arc<dyn Provisioner>,
    pub(super) binary: Binary,
    /// Isolation of its jobs; `None` if they are not isolated.
    pub(super) isolation: Option<isolation::Report>,
    /// Files that its jobs' isolation made in the home directory, which go when this is dropped.
    pub(super) home: Option<Made>,
}

/// Error if there is no engine, and none may be downloaded.
#[derive(Debug, thiserror::Error)]
#[error(
    "no engine found, and --sealed forbids downloading one: install Terraform or OpenTofu, name it with --engine, or mirror one"
)]
struct NoEngine;

impl EngineArgs {
    /// Finds the engine and asks it for its version. Its sessions get directories below `work_dir`, and see nothing
    /// that is `guarded`. Programs that the engine starts trust the further authorities of `trust` as well; engines
    /// do not support lists of revoked certificates, so those are for the mirror alone.
    ///
    /// # Errors
    /// If there is no engine, or none that works, and if a file of `trust` cannot be read.
    pub(super) async fn provisioner(
        &self,
        coder_provider: CoderProvider,
        work_dir: PathBuf,
        guarded: Guarded,
        trust: &tls::Trust,
        stop: &Stop,
    ) -> anyhow::Result<Arc<dyn Provisioner>> {
        let found = self.find(coder_provider, work_dir, guarded, trust, stop);
        Ok(found.await?.provisioner)
    }

    /// Finds the engine as [`Self::provisioner`] does, and returns it with its binary.
    ///
    /// # Errors
    /// As [`Self::provisioner`].
    pub(super) async fn find(
        &self,
        coder_provider: CoderProvider,
        work_dir: PathBuf,
        guarded: Guarded,
        trust: &tls::Trust,
        stop: &Stop,
    ) -> anyhow::Result<Found> {
        let providers = Providers::Operators;
        self.build(coder_provider, providers, work_dir, guarded, trust, stop)
            .await
    }

    /// Finds the engine, and uses mocks in place of all other providers, for plans that change nothing. No registry is asked unless
    /// `is_online`, and the operator's CLI configuration does not count.
    ///
    /// # Errors
    /// As [`Self::provisioner`].
    pub(super) async fn mocked(
        &self,
        work_dir: PathBuf,
        trust: &tls::Trust,
        mocks: Vec<Mock>,
        is_online: bool,
        stop: &Stop,
    ) -> anyhow::Result<Found> {
        let mocks = Mocks {
            mocks,
            is_online,
            ..Mocks::default()
        };
        self.mocked_with(work_dir, trust, mocks, stop).await
    }

    /// Finds the engine as [`Self::mocked`] does, with providers beside the mocks that are real.
    ///
    /// # Errors
    /// As [`Self::provisioner`].
    pub(super) async fn mocked_with(
        &self,
        work_dir: PathBuf,
        trust: &tls::Trust,
        mocks: Mocks,
        stop: &Stop,
    ) -> anyhow::Result<Found> {
        let guarded = Guarded {
            jobs: 1,
            are_foreign: false,
            hidden: Vec::new(),
        };
        let providers = Providers::Mocks(mocks);
        self.with(providers, work_dir, guarded, trust, stop).await
    }

    /// Finds the engine, with providers from these places, and the built-in one for `coder` unless it is among them.
    ///
    /// # Errors
    /// As [`Self::provisioner`].
    pub(super) async fn with(
        &self,
        providers: Providers,
        work_dir: PathBuf,
        guarded: Guarded,
        trust: &tls::Trust,
        stop: &Stop,
    ) -> anyhow::Result<Found> {
        let coder_provider = match &providers {
            Providers::Mocks(mocks) if !mocks.real.is_empty() => CoderProvider::Registry,
            _ => CoderProvider::Builtin,
        };
        self.build(coder_provider, providers, work_dir, guarded, trust, stop)
            .await
    }

    async fn build(
        &self,
        coder_provider: CoderProvider,
        providers: Providers,
        work_dir: PathBuf,
        guarded: Guarded,
        trust: &tls::Trust,
        stop: &Stop,
    ) -> anyhow::Result<Found> {
        let mut environment = host_environment();
        if !trust.extra.is_empty() {
            environment.trust(&self.trust_bundle(&trust.extra)?);
        }
        let binary = self.probe(&environment, stop).await?;
        let packages = BuiltinPackages {
            dir: self.cache_dir()?.join("builtin-provider"),
            executable: std::env::current_exe()
                .context("failed to find the path of this program")?,
        };
        let kind = match binary.kind {
            binary::Kind::Terraform => cli_config::Engine::Terraform,
            binary::Kind::OpenTofu => cli_config::Engine::OpenTofu,
        };
        let host = |name: &str| readable_variable(name);
        let mut stores = isolation::operators_stores(kind, host);
        stores.fixed.push(self.cache_dir()?);
        let operators = host("TF_PLUGIN_CACHE_DIR").map(PathBuf::from);
        stores
            .caches
            .extend(operators.filter(|it| it.is_absolute()));
        let operators_plugin_caches = stores.caches.clone();
        let mirror = self.mirror(trust).await?;
        let is_operators = matches!(providers, Providers::Operators);
        let is_online = match &providers {
            Providers::Operators => true,
            Providers::Mocks(mocks) => mocks.is_online,
            Providers::Named(_) => false,
        };
        let mirror = match providers {
            Providers::Operators => mirror,
            Providers::Named(store) => store.or(mirror),
            Providers::Mocks(mocks) => {
                let dir = self.cache_dir()?.join("mocks");
                let store = MockStore::new(mocks.mocks, dir, std::env::current_exe()?, mirror)
                    .with_real(mocks.real);
                Some(Arc::new(store) as Arc<dyn ProviderStore>)
            }
        };
        // A job that can read a file can hold a lock on it, which would block others.
        stores
            .hidden
            .push(self.cache_dir()?.join("engines/engine.lock"));
        if let Some(Mirror::Directory(dir)) = &self.mirror {
            let dir = std::path::absolute(dir)?;
            stores
                .hidden
                .extend(mirror::PRIVATE.map(|name| dir.join(name)));
            stores.fixed.push(dir);
        }
        stores.shown = self.shown(&binary, &environment)?;
        let background = self.background_processes;
        let isolation = self
            .isolation
            .prepare(background, guarded, stores, &work_dir);
        let (isolation, report, home) = match isolation.await? {
            Some(it) => (Some(it.isolation), Some(it.report), it.home),
            None => (None, None, None),
        };
        let mode = match coder_provider {
            CoderProvider::Builtin => Mode::Builtin,
            CoderProvider::Registry => Mode::Registry,
            CoderProvider::Auto => Mode::Auto,
        };
        // What an operator has arranged for providers would step before ours.
        let configuration = move |name: &str| match is_operators {
            true => readable_variable(name),
            false => None,
        };
        let providers = providers::Presenter::new(mode, kind, Arc::new(packages), configuration)
            .with_mirror(mirror)
            .sealed(self.sealed || !is_online);
        let engine = Engine::new(EngineConfig {
            binary: binary.path.clone(),
            work_dir,
            environment,
            exit_timeout: Duration::from(self.engine_exit_timeout),
            plugin_cache_dir: Some(self.cache_dir()?.join("plugins")),
            operators_plugin_caches,
            agent_scripts: bootstrap::scripts(self.bootstrap_scripts.as_deref())?,
            isolation,
            shim: Some(own_launcher()),
            providers: Arc::new(providers),
        });
        engine.clean().await;
        Ok(Found {
            provisioner: Arc::new(engine),
            binary,
            isolation: report,
            home,
        })
    }

    /// Returns the paths that a job needs besides providers and its own directory: the engine, this program, which is
    /// also a provider, and the trusted authorities; and the directories that it finds empty: its home, and the one
    /// for temporary files.
    fn shown(&self, binary: &Binary, environment: &Environment) -> anyhow::Result<Shown> {
        let trust = ["SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"];
        let trust = trust.into_iter().filter_map(|name| environment.get(name));
        let mut paths = vec![binary.path.clone(), std::env::current_exe()?];
        paths.extend(self.show.iter().cloned());
        paths.extend(trust.map(PathBuf::from));
        let paths = paths.into_iter().map(std::path::absolute);
        let empty = ["HOME", "TMPDIR"].into_iter();
        let empty = empty.filter_map(|name| environment.get(name).map(PathBuf::from));
        Ok(Shown {
            paths: paths.collect::<Result<_, _>>()?,
            empty: empty.filter(|path| path.is_absolute()).collect(),
        })
    }

    /// Writes a file with the system's authorities and those in `files`. It is no secret, and jobs must be able to
    /// read it.
    fn trust_bundle(&self, files: &[PathBuf]) -> anyhow::Result<PathBuf> {
        let text = system_and(files)?;
        let directory = self.cache_dir()?;
        let path = directory.join("trust.pem");
        let failed = || format!("failed to write `{}`", path.display());
        std::fs::create_dir_all(&directory).with_context(failed)?;
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&directory)
            .with_context(failed)?;
        file.write_all(&text).with_context(failed)?;
        file.persist(&path).with_context(failed)?;
        Ok(path)
    }

    /// Returns the installed engine; `None` if one would have to be downloaded.
    ///
    /// # Errors
    /// If it does not work.
    pub(super) async fn installed(&self, stop: &Stop) -> anyhow::Result<Option<Binary>> {
        let Some(path) = self.installed_path() else {
            return Ok(None);
        };
        let environment = host_environment().to_vec();
        Ok(Some(Binary::probe(&path, environment, stop).await?))
    }

    /// What results of this engine depend on besides a template: the engine itself, variables that it reads, and what is in the
    /// mirror. `None` if that cannot be told without asking somebody.
    pub(super) async fn identity(&self, stop: &Stop) -> Option<Vec<Vec<u8>>> {
        // Rarely used, and then often edited.
        if self.bootstrap_scripts.is_some() {
            return None;
        }
        let mut parts = vec![vec![u8::from(self.sealed)]];
        match &self.mirror {
            None => {}
            Some(Mirror::Served(_)) => return None,
            Some(Mirror::Directory(_)) => {
                let (number, generation) = self.store().ok()??.newest().ok()?;
                parts.push(number.to_le_bytes().to_vec());
                parts.push(serde_json::to_vec(&generation).ok()?);
            }
        }
        if let Some(path) = self.installed_path() {
            parts.push(appearance(&path).ok()?.into_bytes());
            // The engine behind a version manager's script may be another one next time.
            if is_script(&path) {
                let binary = self.installed(stop).await.ok()??;
                parts.push(format!("{:?} {}", binary.kind, binary.version).into_bytes());
            }
        } else if self.mirror.is_some() {
            return None;
        }
        let environment = host_environment().to_vec().into_iter();
        let read = environment.filter(|(name, _)| {
            let name = name.as_encoded_bytes();
            name.starts_with(b"TF_") || name.starts_with(b"TOFU_")
        });
        parts.extend(read.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()));
        Some(parts)
    }

    fn installed_path(&self) -> Option<PathBuf> {
        let found = || binary::find(&std::env::var_os("PATH").unwrap_or_default()).ok();
        self.engine.clone().or_else(found)
    }

    /// The same options with the mirror in a directory, unless another one is named.
    pub(super) fn or_mirror(&self, dir: Option<PathBuf>) -> Self {
        let mut args = self.clone();
        args.mirror = args.mirror.or_else(|| dir.map(Mirror::Directory));
        args
    }

    /// Opens the mirror for questions about what it has, if one is named.
    ///
    /// # Errors
    /// If there is none in its directory, or no authorities to trust.
    pub(super) fn named_mirror(&self, trust: &tls::Trust) -> anyhow::Result<Option<NamedMirror>> {
        Ok(match &self.mirror {
            None => None,
            Some(Mirror::Served(url)) => {
                Some(NamedMirror::Served(Box::new(self.remote(url, trust)?)))
            }
            Some(Mirror::Directory(_)) => self.store()?.map(NamedMirror::Directory),
        })
    }

    /// The options for each engine of `--engine A,B`; these themselves if there is one at most.
    pub(super) fn each(&self) -> Vec<Self> {
        let text = self.engine.as_deref().and_then(Path::to_str);
        let Some(list) = text.filter(|text| text.contains(',') && !Path::new(text).exists()) else {
            return vec![self.clone()];
        };
        let engines = list.split(',').filter(|path| !path.is_empty());
        let with = |path: &str| Self {
            engine: Some(path.into()),
            ..self.clone()
        };
        engines.map(with).collect()
    }

    /// Location of the mirror, if one is named.
    pub(super) fn mirror_place(&self) -> Option<String> {
        Some(match self.mirror.as_ref()? {
            Mirror::Directory(dir) => dir.display().to_string(),
            Mirror::Served(url) => bare(url).to_string(),
        })
    }

    /// Returns the operator's file that configures how the engine installs providers, if there is one.
    pub(super) fn operators_installation(&self) -> Option<PathBuf> {
        let files = locate(cli_config::Engine::Terraform, |name| {
            readable_variable(name)
        })
        .files;
        files.into_iter().find(|file| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let config = CliConfig::parse(&text).ok();
            config.is_some_and(|config| config.installation().is_ok_and(|it| it.is_some()))
        })
    }

    /// Returns whether outbound connections are forbidden.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Opens the mirror, if one is named.
    ///
    /// # Errors
    /// If there is none in its directory, or no authorities to trust.
    pub(super) async fn mirror(
        &self,
        trust: &tls::Trust,
    ) -> anyhow::Result<Option<Arc<dyn ProviderStore>>> {
        if let Some(Mirror::Served(url)) = &self.mirror {
            if self.mirror_archives {
                let text = "--mirror-archives needs a mirror's directory: a served one has a proxy of its own, see `outpost mirror serve --help`";
                return Err(UsageError(text.to_owned()).into());
            }
            return Ok(Some(Arc::new(self.remote(url, trust)?)));
        }
        let Some(store) = self.store()? else {
            return Ok(None);
        };
        Ok(Some(Arc::new(mirror::Packages {
            server: Some(Arc::new(match self.mirror_archives {
                true => Loopback::with_proxy(store.clone()).await?,
                false => Loopback::start(store.clone()).await?,
            })),
            store,
            platform: Platform::current(),
            max_unpacked_bytes: self.mirror_unpacked_max_size,
            is_sealed: self.sealed,
        })))
    }

    fn remote(&self, url: &Url, trust: &tls::Trust) -> anyhow::Result<mirror::Remote> {
        let mut config = http::Config::new(url.clone());
        config.proxies = Proxies::from_env();
        config.trust = trust.clone();
        let token = self.mirror_token_file.as_deref().map(secret_file);
        let client = http::Client::new(config)?;
        let remote = mirror::Remote::new(client, token.transpose()?);
        Ok(remote.with_fetcher(super::mirror::pull::fetcher(trust)?))
    }

    fn store(&self) -> anyhow::Result<Option<Store>> {
        let Some(Mirror::Directory(dir)) = &self.mirror else {
            return Ok(None);
        };
        Store::existing(dir)
            .map(Some)
            .context("--mirror does not name a mirror")
    }

    /// Returns the newest engine in the mirror, Terraform before OpenTofu.
    fn mirrored(&self) -> anyhow::Result<Option<PathBuf>> {
        let Some(store) = self.store()? else {
            return Ok(None);
        };
        let (_lease, generation) = store.lease_newest()?;
        let platform = Platform::current();
        for name in ["terraform", "tofu"] {
            if let Some(tool) = generation.newest_tool(name, &platform) {
                return Ok(Some(store.tool(tool)?.join(name)));
            }
        }
        Ok(None)
    }

    async fn probe(&self, environment: &Environment, stop: &Stop) -> anyhow::Result<Binary> {
        let path = match (
            &self.engine,
            binary::find(&std::env::var_os("PATH").unwrap_or_default()),
        ) {
            (Some(path), _) => path.clone(),
            (None, Ok(path)) => path,
            (None, Err(_)) if let Some(path) = self.mirrored()? => path,
            (None, Err(_)) if self.sealed => return Err(NoEngine.into()),
            (None, Err(_)) => {
                let client = reqwest::Client::builder().build()?;
                let installer = Installer::from_publisher(self.cache_dir()?.join("engines"));
                installer.install(&client, stop).await?
            }
        };
        Ok(Binary::probe(&path, environment.to_vec(), stop).await?)
    }

    /// Directory of everything that can be downloaded or generated again.
    ///
    /// # Errors
    /// If there is no home directory.
    pub(super) fn cache_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.cache_dir {
            Some(path) => Ok(std::path::absolute(path)?),
            None => own_dir("CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache"),
        }
    }
}

/// Returns the system's authorities and those in `files`, in PEM, for programs that read a single file.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn system_and(files: &[PathBuf]) -> anyhow::Result<Vec<u8>> {
    let mut further = Vec::new();
    for file in files {
        let read = std::fs::read(file);
        further.extend(read.with_context(|| format!("failed to read `{}`", file.display()))?);
        if !further.ends_with(b"\n") {
            further.push(b'\n');
        }
    }
    Ok(trust::bundle(&further))
}

/// Returns the environment variables that the engine inherits: none of our own, and none that names a missing file.
pub(super) fn host_environment() -> Environment {
    let is_ours = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("OUTPOST_") || SYSTEMD.contains(&name.as_ref())
    };
    let ours: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(is_ours)
        .collect();
    let host = std::env::vars_os()
        .filter(|(name, _)| name != CLI_CONFIG || readable_variable(CLI_CONFIG).is_some());
    Environment::of_host(host, &ours)
}

/// Variables that systemd sets for us alone. A job that could write to its socket could report that we are well.
const SYSTEMD: [&str; 4] = [
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// Variable that names the operator's own CLI configuration.
const CLI_CONFIG: &str = "TF_CLI_CONFIG_FILE";

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_err() || start == *b"#!"
}

/// Returns a variable. One that names a CLI configuration counts only if the file exists, because engines warn at
/// each command.
fn readable_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| name != CLI_CONFIG || Path::new(value).exists())
}

/// Returns `outpost` below the directory that systemd gives, the one of the desktop's variable, or the default in the
/// home directory.
///
/// # Errors
/// If there is neither of them.
pub(super) fn own_dir(systemd: &str, desktop: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(given) = absolute(systemd) {
        return Ok(given);
    }
    absolute(desktop)
        .or_else(|| std::env::home_dir().map(|home| home.join(below_home)))
        .map(|base| base.join("outpost"))
        .ok_or_else(|| UsageError(format!("there is no home directory: set {desktop}")).into())
}
