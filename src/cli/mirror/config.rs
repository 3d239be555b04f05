//! `outpost mirror config`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;
use url::Url;

use crate::{
    cli::{
        exit::{Unwell, UsageError},
        output::{Output, Row},
    },
    language::cli_config::{CliConfig, Engine},
    mirror::setup::{self, Mode, Setup},
};

/// Print what engines need to come to a mirror, or check what they have
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Config {
    /// Address of the mirror
    #[arg(required_unless_present = "check")]
    url: Option<Url>,
    /// What to print
    #[arg(long = "for", value_name = "FORM", default_value = "rc")]
    form: Form,
    /// Whose defaults count
    #[arg(long, value_name = "ENGINE", default_value = "terraform")]
    engine: EngineName,
    /// How engines speak with the mirror
    #[arg(long, value_name = "MODE", default_value = "registry")]
    mode: Mode,
    /// A registry that the mirror stands in for [default: the engine's own, and registry.coder.com]
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// A host of git repositories that the mirror has
    #[arg(long, value_name = "HOST")]
    git_host: Vec<String>,
    /// PEM file of authorities that vouch for the mirror; its content becomes part of what is printed
    #[arg(long, value_name = "FILE", env = "OUTPOST_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Where the CLI configuration will be, for `--for env`
    #[arg(long, value_name = "FILE", default_value = setup::RC_FILE)]
    rc_file: String,
    /// Say what is wrong with this CLI configuration instead
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    check: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    /// A CLI configuration: the content of TF_CLI_CONFIG_FILE
    Rc,
    /// Variables, for a shell
    Env,
    /// Lines of a Dockerfile
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
    pub(in crate::cli) fn exec(self, output: Output) -> anyhow::Result<()> {
        if let Some(path) = self.check {
            return check(path, output);
        }
        let engine = match self.engine {
            EngineName::Terraform => Engine::Terraform,
            EngineName::Tofu => Engine::OpenTofu,
        };
        let hosts = match self.host {
            none if none.is_empty() => setup::default_hosts(engine),
            hosts => hosts,
        };
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path);
            text.with_context(|| format!("failed to read `{}`", path.display()))
        };
        let authorities = self.ca_file.map(read).transpose()?;
        let url = self
            .url
            .ok_or_else(|| UsageError("no address of a mirror is given".to_owned()))?;
        let setup = Setup::new(&url, self.mode, hosts, self.git_host, authorities)
            .map_err(|error| UsageError(error.to_string()))?;
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
        count => Err(Unwell(count).into()),
    }
}
