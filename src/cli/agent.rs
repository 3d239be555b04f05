//! `outpost agent`.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use url::Url;

use super::{
    exit::{Hint as _, UsageError},
    remote::{Revoked, secret_file},
    values::Csv,
};
use crate::{
    agent::{
        self, Blocks,
        identity::{Cloud, Credential},
    },
    net::{headers, http, proxy::Proxies, tls},
    proto::coder::agent::v2::startup::Subsystem,
    secret::Secret,
    stop::Stop,
};

/// Run in a workspace, and let people in
///
/// Options and variables are those of `coder agent`, so that bootstrap scripts and images keep working.
#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    /// URL of the server
    #[arg(long = "agent-url", value_name = "URL", env = "CODER_AGENT_URL")]
    server: Url,
    /// How to prove who this is: `token`, or `aws-`, `azure-` or `google-instance-identity`
    #[arg(
        long,
        value_name = "KIND",
        env = "CODER_AGENT_AUTH",
        default_value = "token"
    )]
    auth: String,
    /// Token of the agent; better give it in a file or in the environment, as others see the command line
    #[arg(
        long = "agent-token",
        value_name = "TOKEN",
        env = "CODER_AGENT_TOKEN",
        hide_env_values = true
    )]
    token: Option<Secret>,
    /// File that holds the token
    #[arg(
        long = "agent-token-file",
        value_name = "FILE",
        env = "CODER_AGENT_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,
    /// The agent's name, on a machine with several
    #[arg(
        long,
        value_name = "NAME",
        env = "CODER_AGENT_NAME",
        default_value = "",
        hide_default_value = true
    )]
    agent_name: String,
    /// Where the cloud tells what this machine is, if not at its usual address
    #[arg(long, value_name = "URL", env = "OUTPOST_AGENT_METADATA_URL")]
    metadata_url: Option<Url>,
    /// Header of each request to the server, as CSV, any number of times
    #[arg(
        long = "agent-header",
        value_name = "NAME=VALUE",
        env = "CODER_AGENT_HEADER",
        hide_env_values = true
    )]
    header: Vec<Csv>,
    /// Command that prints more of them
    #[arg(
        long = "agent-header-command",
        value_name = "COMMAND",
        env = "CODER_AGENT_HEADER_COMMAND"
    )]
    header_command: Option<String>,
    /// Where logs of scripts go
    #[arg(
        long,
        value_name = "DIR",
        env = "CODER_AGENT_LOG_DIR",
        default_value_os_t = std::env::temp_dir()
    )]
    log_dir: PathBuf,
    /// Where scripts keep their files
    #[arg(
        long,
        value_name = "DIR",
        env = "CODER_AGENT_SCRIPT_DATA_DIR",
        default_value_os_t = std::env::temp_dir()
    )]
    script_data_dir: PathBuf,
    /// A session whose client is silent for so long has ended; 0 for never
    #[arg(
        long,
        value_name = "DURATION",
        env = "CODER_AGENT_SSH_MAX_TIMEOUT",
        default_value = "72h"
    )]
    ssh_max_timeout: humantime::Duration,
    /// Refuse files, both ways
    #[arg(
        long,
        env = "CODER_AGENT_BLOCK_FILE_TRANSFER",
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true"
    )]
    block_file_transfer: bool,
    /// Refuse connections from here to where a client says
    #[arg(
        long,
        env = "CODER_AGENT_BLOCK_LOCAL_PORT_FORWARDING",
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true"
    )]
    block_local_port_forwarding: bool,
    /// What this runs in, as CSV: envbox, envbuilder, exectrace
    #[arg(long = "subsystem", value_name = "NAME", env = "CODER_AGENT_SUBSYSTEM")]
    subsystems: Vec<Csv>,
    /// Ask nobody but the server and the relays that it names: no STUN, no direct connections
    #[arg(long, env = "OUTPOST_SEALED")]
    sealed: bool,
    #[command(flatten)]
    revoked: Revoked,
    /// Do not reap orphans, though this is the first process
    #[arg(long, env = "CODER_AGENT_NO_REAP")]
    no_reap: bool,
}

impl Agent {
    /// Whether a child of ours should do this, as nobody else would reap orphans.
    pub(super) fn wants_reaper(&self) -> bool {
        !self.no_reap && agent::reaper::is_needed()
    }

    pub(super) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let credential = self.credential()?;
        let given = headers::parse(Csv::all(&self.header));
        let given = given.map_err(|error| UsageError(format!("`--agent-header`: {error}")))?;
        let config = http::Config {
            proxies: Proxies::from_env(),
            headers: given,
            header_command: self.header_command.clone(),
            trust: tls::Trust {
                revoked: self.revoked.crl_file.clone(),
                ..tls::Trust::default()
            },
            ..http::Config::new(self.server.clone())
        };
        let subsystems = Csv::all(&self.subsystems);
        let subsystems = subsystems.map(|name| match name {
            "envbox" => Ok(Subsystem::Envbox),
            "envbuilder" => Ok(Subsystem::Envbuilder),
            "exectrace" => Ok(Subsystem::Exectrace),
            other => Err(UsageError(format!("`--subsystem`: `{other}` is none"))),
        });
        let config = agent::Config {
            http: http::Client::new(config)?,
            credential,
            script_data_dir: self.script_data_dir,
            log_dir: self.log_dir,
            blocks: Blocks {
                file_transfer: self.block_file_transfer,
                local_forwarding: self.block_local_port_forwarding,
            },
            is_sealed: self.sealed,
            ssh_max_timeout: Some(*self.ssh_max_timeout)
                .filter(|limit: &Duration| !limit.is_zero()),
            subsystems: subsystems.collect::<Result<_, _>>()?,
        };
        agent::run(config, stop).await;
        Ok(())
    }

    fn credential(&self) -> anyhow::Result<Credential> {
        if let Some(cloud) = Cloud::named(&self.auth) {
            let address = self.metadata_url.clone();
            return Ok(Credential::Instance {
                cloud,
                address: address.unwrap_or_else(|| cloud.address()),
                agent_name: self.agent_name.clone(),
            });
        }
        if self.auth != "token" {
            let text = format!("`--auth {}` is no kind of authentication", self.auth);
            return Err(UsageError(text).into());
        }
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Credential::Token(token.clone())),
            (None, Some(path)) => Ok(Credential::Token(
                secret_file(path).context("failed to read the agent's token")?,
            )),
            (None, None) => Err(UsageError("no token is given".into()))
                .hint("set CODER_AGENT_TOKEN or CODER_AGENT_TOKEN_FILE, as the bootstrap script of a template does"),
        }
    }
}
