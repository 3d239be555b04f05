//! Identity of an agent: whose it is, and at which server.

use std::path::PathBuf;

use anyhow::Context as _;
use url::Url;

use crate::{
    agent::identity::{Cloud, Credential},
    cli::{
        exit::{Hint as _, UsageError},
        remote::{Revoked, secret_file},
        values::Csv,
    },
    net::{headers, http, proxy::Proxies, tls},
    secret::Secret,
};

/// Server of an agent and its helpers, with their credential.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Identity {
    /// URL of the server
    #[arg(long = "agent-url", value_name = "URL", env = "CODER_AGENT_URL")]
    server: Url,
    /// Authentication type: `token`, or `aws-`, `azure-` or `google-instance-identity`
    #[arg(
        long,
        value_name = "KIND",
        env = "CODER_AGENT_AUTH",
        default_value = "token"
    )]
    auth: String,
    /// Token of the agent; prefer a file or the environment, because other users can read the command line
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
    /// Name of the agent, for a machine with several agents
    #[arg(
        long,
        value_name = "NAME",
        env = "CODER_AGENT_NAME",
        default_value = "",
        hide_default_value = true
    )]
    agent_name: String,
    /// URL of the cloud's instance metadata service, if not the usual one
    #[arg(long, value_name = "URL", env = "OUTPOST_AGENT_METADATA_URL")]
    metadata_url: Option<Url>,
    /// Headers of every request, as CSV; repeatable
    #[arg(
        long = "agent-header",
        value_name = "NAME=VALUE",
        env = "CODER_AGENT_HEADER",
        hide_env_values = true
    )]
    header: Vec<Csv>,
    /// Shell command that prints further headers, one `name=value` per line
    #[arg(
        long = "agent-header-command",
        value_name = "COMMAND",
        env = "CODER_AGENT_HEADER_COMMAND"
    )]
    header_command: Option<String>,
    #[command(flatten)]
    revoked: Revoked,
}

impl Identity {
    /// Returns the HTTP settings for the server; nothing is sent yet.
    pub(in crate::cli) fn http(&self) -> anyhow::Result<http::Client> {
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
        Ok(http::Client::new(config)?)
    }

    /// Returns the credential that the agent authenticates with.
    pub(in crate::cli) fn credential(&self) -> anyhow::Result<Credential> {
        if let Some(cloud) = Cloud::named(&self.auth) {
            let address = self.metadata_url.clone();
            return Ok(Credential::Instance {
                cloud,
                address: address.unwrap_or_else(|| cloud.address()),
                agent_name: self.agent_name.clone(),
            });
        }
        if self.auth != "token" {
            let text = format!("`--auth {}` is not an authentication type", self.auth);
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
