//! The CLI configuration of a session: the operator's, with `coder/coder` from our mirror.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use outpost_base::{registry::ProviderAddr, secret::Secret};
use outpost_files::beneath::{Dir, Kind};
use outpost_language::cli_config::{
    CliConfig, CliConfigError, Engine, Installation, Method, MethodKind, host_for_comparison,
    locate,
};
use outpost_provision::Services;
use url::Url;

/// Name of the file in a session's private directory.
const FILE_NAME: &str = "cli.tfrc";

/// Reason why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigurationError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", .path.display())]
    Operator {
        path: PathBuf,
        source: CliConfigError,
    },
    #[error("the operator's configuration: {0}")]
    Installation(#[from] CliConfigError),
    #[error("the path {} is not valid UTF-8", .0.display())]
    Path(PathBuf),
}

/// A filesystem mirror of ours, and the addresses that come only from it.
pub(super) type Ours<'a> = (&'a Path, Vec<String>);

/// Reads the configuration that the engine would read, according to `env`.
pub(super) fn operators(
    engine: Engine,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<CliConfig, ConfigurationError> {
    let mut config = CliConfig::default();
    for path in locate(engine, &env).files {
        config.append(read(&path)?);
    }
    Ok(config)
}

/// Settings that are added to the operator's configuration.
#[derive(Default)]
pub(super) struct Additions<'a> {
    /// Filesystem mirrors; the last one has the highest priority.
    pub(super) mirrors: Vec<Ours<'a>>,
    /// Services that replace those of registries.
    pub(super) services: Services,
    /// A network mirror, and the providers that no other source offers.
    pub(super) network: Option<(Url, Vec<ProviderAddr>)>,
    /// Token that the replacing servers require.
    pub(super) token: Option<Secret>,
    /// `true` if no registry may be asked that is not replaced.
    pub(super) is_sealed: bool,
}

/// Adds our settings to the operator's configuration. Returns it with the hosts that are replaced, in the engine's
/// normal form: the operator's tokens for those are not meant for the replacement.
///
/// `dir` is the engine's working directory, in which it searches for plugins unless a configuration names other
/// places.
pub(super) fn merged(
    mut config: CliConfig,
    engine: Engine,
    env: impl Fn(&str) -> Option<OsString>,
    dir: &Dir,
    ours: Additions<'_>,
) -> Result<(CliConfig, BTreeSet<String>), ConfigurationError> {
    let mut installation = match config.installation()? {
        Some(installation) => installation,
        None => implied(dir, &plugin_dirs(engine, env)),
    };
    if ours.is_sealed {
        // Direct installation stays possible only for registries that are replaced.
        let is_direct = |method: &Method| matches!(method.kind, MethodKind::Direct);
        installation.methods.retain(|method| !is_direct(method));
        let offering = ours
            .services
            .iter()
            .filter(|(_, services)| services.contains_key("providers.v1"));
        let stood_in_for: Vec<_> = offering.map(|(host, _)| format!("{host}/*/*")).collect();
        if !stood_in_for.is_empty() {
            installation.methods.push(Method::direct(stood_in_for));
        }
        config.set_bool("disable_checkpoint", true);
    }
    let token = ours.token.as_ref().map(Secret::expose);
    if let Some((url, providers)) = &ours.network {
        add_network_mirror(&mut installation, url, providers, &ours.services);
        if let (Some(host), Some(token)) = (authority(url), token) {
            config.set_token(&host, Some(token));
        }
    }
    if !ours.mirrors.is_empty() {
        // An engine would put links into it that dangle after the session.
        config.remove("plugin_cache_dir");
    }
    for (mirror, providers) in ours.mirrors {
        installation.prefer(Method::filesystem_mirror(text(mirror)?, providers));
    }
    let mut replaced = BTreeSet::new();
    for (host, services) in &ours.services {
        // A `host` block of the operator has priority, and then the operator's token is meant for it.
        if config.set_services(host, services) {
            config.set_token(host, token);
            replaced.extend(host_for_comparison(host));
        }
    }
    config.set_installation(&installation);
    Ok((config, replaced))
}

/// Makes an engine use a network mirror for these providers as well. Registries that are replaced are asked first;
/// for all others the mirror is the only source.
fn add_network_mirror(
    installation: &mut Installation,
    url: &Url,
    providers: &[ProviderAddr],
    services: &Services,
) {
    let has_registry = |addr: &&ProviderAddr| {
        let services = services.get(addr.host());
        services.is_some_and(|services| services.contains_key("providers.v1"))
    };
    let alone = providers.iter().filter(|addr| !has_registry(addr));
    let alone: Vec<_> = alone.map(ToString::to_string).collect();
    let is_direct = |method: &&mut Method| matches!(method.kind, MethodKind::Direct);
    for direct in installation.methods.iter_mut().filter(is_direct) {
        direct.exclude.extend(alone.iter().cloned());
    }
    let include = providers.iter().map(ToString::to_string).collect();
    let method = Method::network_mirror(url.to_string(), include);
    installation.methods.push(method);
}

/// Returns the host of an address, with its port if that is not the default one.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

fn read(path: &Path) -> Result<CliConfig, ConfigurationError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigurationError::Io {
        path: path.to_owned(),
        source,
    })?;
    CliConfig::parse(&text).map_err(|source| ConfigurationError::Operator {
        path: path.to_owned(),
        source,
    })
}

/// Writes the configuration to a file that only its owner can read, because it may contain tokens.
pub(super) fn write(dir: &Dir, config: &CliConfig) -> Result<PathBuf, ConfigurationError> {
    let path = dir.path().join(FILE_NAME);
    match dir.write_private(FILE_NAME, config.to_string().as_bytes()) {
        Ok(()) => Ok(path),
        Err(source) => Err(ConfigurationError::Io { path, source }),
    }
}

/// Directory of plugins in a template.
const TEMPLATES_PLUGINS: &str = "terraform.d/plugins";

/// Returns the directories in which an engine searches for plugins by default, in its order, after
/// [`TEMPLATES_PLUGINS`].
///
/// # Source
/// <https://developer.hashicorp.com/terraform/cli/config/config-file#implied-local-mirror-directories>
fn plugin_dirs(engine: Engine, env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let var = |name| env(name).filter(|value| !value.is_empty());
    let home = var("HOME").map(PathBuf::from);
    let data_home = var("XDG_DATA_HOME").map(PathBuf::from);
    let data_home = data_home.or_else(|| Some(home.as_ref()?.join(".local/share")));
    let data_dirs = var("XDG_DATA_DIRS").unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    let name = match engine {
        Engine::Terraform => "terraform/plugins",
        Engine::OpenTofu => "opentofu/plugins",
    };
    let data_dirs = data_home
        .into_iter()
        .chain(std::env::split_paths(&data_dirs));
    let mut dirs = Vec::new();
    dirs.extend(home.map(|home| home.join(".terraform.d/plugins")));
    dirs.extend(data_dirs.map(|dir| dir.join(name)));
    dirs
}

/// Returns an engine's default installation methods: providers in one of `dirs` come from there, all others from
/// registries.
fn implied(template: &Dir, dirs: &[PathBuf]) -> Installation {
    let mut methods = Vec::new();
    let mut local = BTreeSet::new();
    let own = Path::new(TEMPLATES_PLUGINS);
    let of_template = providers_in(own, |dir| template_directories(template, dir));
    let found = dirs
        .iter()
        .map(|dir| (dir.clone(), providers_in(dir, directories)));
    for (dir, providers) in [(template.path().join(own), of_template)]
        .into_iter()
        .chain(found)
    {
        if let (Some(path), false) = (dir.to_str(), providers.is_empty()) {
            local.extend(providers.iter().cloned());
            methods.push(Method::filesystem_mirror(path, providers));
        }
    }
    methods.push(Method::direct_except(local.into_iter().collect()));
    Installation { methods }
}

/// Returns the addresses of the providers in a mirror: the names of its directories, three levels deep.
fn providers_in(dir: &Path, directories: impl Fn(&Path) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for host in directories(dir) {
        for namespace in directories(&dir.join(&host)) {
            for kind in directories(&dir.join(&host).join(&namespace)) {
                found.push(format!("{host}/{namespace}/{kind}"));
            }
        }
    }
    // A name that is not an address would make the whole configuration invalid.
    found.retain(|addr| addr.parse::<outpost_base::registry::ProviderAddr>().is_ok());
    found
}

fn directories(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn template_directories(template: &Dir, dir: &Path) -> Vec<String> {
    let entries = template.list(dir).unwrap_or_default().into_iter();
    let names = entries.filter(|(_, kind)| *kind == Kind::Directory);
    names
        .filter_map(|(name, _)| name.into_string().ok())
        .collect()
}

fn text(path: &Path) -> Result<&str, ConfigurationError> {
    path.to_str()
        .ok_or_else(|| ConfigurationError::Path(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 2] = ["registry.terraform.io", "registry.opentofu.org"];

    fn merged_with(home: &Path) -> Result<String, ConfigurationError> {
        merged_as(home, false)
    }

    fn merged_as(home: &Path, is_sealed: bool) -> Result<String, ConfigurationError> {
        let env = |name: &str| match name {
            "HOME" => Some(home.as_os_str().to_owned()),
            "XDG_DATA_DIRS" => Some("/nowhere".into()),
            _ => None,
        };
        let coder = HOSTS.map(|host| format!("{host}/coder/coder")).to_vec();
        let config = operators(Engine::Terraform, env)?;
        let ours = Additions {
            mirrors: vec![(Path::new("/mirror"), coder)],
            is_sealed,
            ..Additions::default()
        };
        let config = merged(
            config,
            Engine::Terraform,
            env,
            &Dir::open(home).unwrap(),
            ours,
        );
        config.map(|(config, _)| config.to_string())
    }

    #[test]
    fn without_a_configuration_all_else_comes_from_registries() {
        let home = tempfile::tempdir().unwrap();

        let text = merged_with(home.path()).unwrap();

        let addresses =
            "[\"registry.terraform.io/coder/coder\", \"registry.opentofu.org/coder/coder\"]";
        assert!(text.contains(&format!("include = {addresses}")), "{text}");
        assert!(text.contains(&format!("exclude = {addresses}")), "{text}");
        assert!(
            text.contains("filesystem_mirror") && text.contains("direct"),
            "{text}"
        );
    }

    #[test]
    fn a_sealed_engine_asks_no_registry() {
        let home = tempfile::tempdir().unwrap();

        let text = merged_as(home.path(), true).unwrap();

        assert!(
            text.contains("filesystem_mirror") && !text.contains("direct"),
            "{text}"
        );
        assert!(text.contains("disable_checkpoint = true"), "{text}");
    }

    #[test]
    fn plugins_at_home_are_still_found() {
        let home = tempfile::tempdir().unwrap();
        let plugins = home.path().join(".terraform.d/plugins");
        fs::create_dir_all(plugins.join("example.com/me/mine/1.0.0")).unwrap();

        let text = merged_with(home.path()).unwrap();

        assert!(text.contains(plugins.to_str().unwrap()), "{text}");
        assert_eq!(text.matches("example.com/me/mine").count(), 2, "{text}");
    }

    #[test]
    fn the_operators_settings_stay_in_force() {
        let home = tempfile::tempdir().unwrap();
        let operators = "credentials \"example.com\" {\n  token = \"s3cret\"\n}\n\
                         provider_installation {\n  network_mirror {\n    url = \"https://example.com/\"\n  }\n}\n";
        fs::write(home.path().join(".terraformrc"), operators).unwrap();

        let text = merged_with(home.path()).unwrap();

        assert!(
            text.contains("s3cret") && text.contains("https://example.com/"),
            "{text}"
        );
        assert!(!text.contains("direct"), "{text}");
        let (ours, theirs) = (
            text.find("/mirror").unwrap(),
            text.find("network_mirror").unwrap(),
        );
        assert!(ours < theirs, "{text}");
    }

    #[test]
    fn a_broken_configuration_is_named_without_its_text() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".terraformrc"), "credentials s3cret {").unwrap();

        let error = merged_with(home.path()).unwrap_err().to_string();

        assert!(
            error.contains(".terraformrc") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
