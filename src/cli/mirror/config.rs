//! `outpost mirror config`: configuration of engines that use a mirror.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use url::Url;

use crate::{
    cli::{
        exit::{ChecksFailed, UsageError},
        output::{self, Output, Row},
        remote::{secret_file, trust},
    },
    language::cli_config::{CliConfig, Engine},
    mirror::{
        Offer, Remote,
        setup::{self, Mode, Setup},
    },
    net::{http, proxy::Proxies},
};

/// Print configuration that points engines at a mirror, or check theirs
///
/// The mirror is asked which hosts it has. If it cannot be reached, the command says so and prints the usual hosts.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Config {
    /// URL of the mirror
    #[arg(required_unless_present = "check")]
    url: Option<Url>,
    /// Form of the output
    #[arg(long = "for", value_name = "FORM", default_value = "rc")]
    form: Form,
    /// Engine whose defaults apply
    #[arg(long, value_name = "ENGINE", default_value = "terraform")]
    engine: EngineName,
    /// Protocol between engines and the mirror
    #[arg(long, value_name = "MODE", default_value = "registry")]
    mode: Mode,
    /// Registry that the mirror replaces; repeatable [default: those that the mirror reports, the engine's own, and
    /// registry.coder.com]
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Host of git repositories in the mirror; repeatable [default: those that the mirror reports]
    #[arg(long, value_name = "HOST")]
    git_host: Vec<String>,
    /// Do not ask the mirror
    #[arg(long)]
    offline: bool,
    /// File with the token for the mirror; it is not printed
    #[arg(long, value_name = "FILE", env = "OUTPOST_MIRROR_TOKEN_FILE")]
    mirror_token_file: Option<PathBuf>,
    /// PEM file of certificate authorities for the mirror; its content is included in the output
    #[arg(long, value_name = "FILE", env = "OUTPOST_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Path of the CLI configuration, for `--for env`
    #[arg(long, value_name = "FILE", default_value = setup::RC_FILE)]
    rc_file: String,
    /// Check this CLI configuration instead
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    check: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    /// A CLI configuration: the content of TF_CLI_CONFIG_FILE
    Rc,
    /// Environment variables, for a shell
    Env,
    /// Lines for a Dockerfile
    Dockerfile,
    /// Values for Coder's provisioner chart
    Helm,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum EngineName {
    Terraform,
    Tofu,
}

#[derive(Serialize)]
struct Printed {
    text: String,
}

#[derive(Serialize)]
struct Complaint {
    problem: String,
}

impl Row for Complaint {
    const COLUMNS: &'static [&'static str] = &["Problem"];

    fn cells(&self) -> Vec<String> {
        vec![self.problem.clone()]
    }
}

impl Config {
    pub(in crate::cli) async fn exec(mut self, output: Output) -> anyhow::Result<()> {
        if let Some(path) = self.check {
            return check(path, output);
        }
        let engine = match self.engine {
            EngineName::Terraform => Engine::Terraform,
            EngineName::Tofu => Engine::OpenTofu,
        };
        let has_hosts = !self.host.is_empty();
        if !has_hosts {
            self.host = setup::default_hosts(engine);
        }
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path);
            text.with_context(|| format!("failed to read `{}`", path.display()))
        };
        let authorities = self.ca_file.clone().map(read).transpose()?;
        let url = self
            .url
            .ok_or_else(|| UsageError("no mirror address is given".to_owned()))?;
        let mut setup = Setup::new(&url, self.mode, self.host, self.git_host, authorities)
            .map_err(|error| UsageError(error.to_string()))?;
        let is_told = has_hosts && setup.has_repositories();
        if !(self.offline || is_told) {
            match ask(&url, self.ca_file, self.mirror_token_file.as_deref()).await {
                Ok(offer) => setup.learn(&offer, !has_hosts),
                Err(error) => output::note(&format!(
                    "the mirror was not asked which hosts it has ({error:#}): the usual ones are printed; name others with \
                     --host and --git-host"
                )),
            }
        }
        for limit in setup.limits() {
            output::note(&limit);
        }
        let text = match self.form {
            Form::Rc => setup.rc(),
            Form::Env => setup.env(&self.rc_file),
            Form::Dockerfile => setup.dockerfile(),
            Form::Helm => setup.helm(),
        };
        output.item(&Printed { text }, |it| it.text.trim_end().to_owned())?;
        Ok(())
    }
}

/// Asks the mirror what it has.
async fn ask(
    url: &Url,
    ca_file: Option<PathBuf>,
    token_file: Option<&Path>,
) -> anyhow::Result<Offer> {
    let mut config = http::Config::new(url.clone());
    config.proxies = Proxies::from_env();
    config.trust = trust(ca_file, None);
    let token = token_file.map(secret_file).transpose()?;
    let remote = Remote::new(http::Client::new(config)?, token);
    Ok(remote.hosts().await?)
}

fn check(path: PathBuf, output: Output) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("failed to read `{}`", path.display()))?;
    let config = CliConfig::parse(&text).with_context(|| format!("`{}`", path.display()))?;
    let is_there = |path: &str| std::path::Path::new(path).is_dir();
    let found: Vec<_> = setup::complaints(&config, is_there)
        .into_iter()
        .map(|problem| Complaint { problem })
        .collect();
    output.list(&found)?;
    match found.len() {
        0 => Ok(()),
        count => Err(ChecksFailed(count).into()),
    }
}
