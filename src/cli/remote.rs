//! Options of commands that talk to a server, and the connection they make.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;
use url::Url;
use zeroize::Zeroizing;

use super::exit::{Hint, UsageError};
use crate::{
    client::{self, Api},
    connect::Server,
    net::{http, proxy::Proxies, tls},
    secret::Secret,
};

/// Which certificates are good no longer.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Revoked {
    /// PEM file with lists of revoked certificates: a server that shows one of them is refused. It is read again when it changes
    #[arg(
        long,
        alias = "tls-crl-file",
        value_name = "FILE",
        env = "OUTPOST_TLS_CRL_FILE"
    )]
    pub(super) crl_file: Option<PathBuf>,
}

/// Which server, and who asks.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Remote {
    /// URL of the server
    #[arg(
        long,
        value_name = "URL",
        env = "OUTPOST_URL",
        default_value = "http://127.0.0.1:7080"
    )]
    url: Url,
    /// Token of a user; better give it in a file or in the environment, as others see the command line
    #[arg(
        long,
        value_name = "TOKEN",
        env = "OUTPOST_TOKEN",
        hide_env_values = true,
        hide_default_value = true
    )]
    token: Option<Secret>,
    /// File that holds the token
    #[arg(long, value_name = "FILE", env = "OUTPOST_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of further authorities to trust
    #[arg(long, value_name = "FILE", env = "OUTPOST_TLS_CA_FILE")]
    tls_ca_file: Option<PathBuf>,
    #[command(flatten)]
    revoked: Revoked,
    /// Organization, if it is not the default one
    #[arg(
        long = "org",
        short = 'O',
        value_name = "NAME",
        env = "OUTPOST_ORGANIZATION",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) organization: String,
}

impl Remote {
    /// Connects; nothing is sent yet.
    pub(super) fn connect(&self) -> anyhow::Result<Api> {
        let target = client::Target {
            url: self.url.clone(),
            token: self.token()?,
            trust: self.trust(),
        };
        Ok(client::connect(&target)?)
    }

    /// The server as one who goes to an agent sees it; nothing is sent yet.
    pub(super) fn server(&self) -> anyhow::Result<Server> {
        let http = http::Client::new(http::Config {
            trust: self.trust(),
            proxies: Proxies::from_env(),
            ..http::Config::new(self.url.clone())
        })?;
        Ok(Server::new(http, self.token()?))
    }

    fn trust(&self) -> tls::Trust {
        tls::Trust {
            extra: self.tls_ca_file.iter().cloned().collect(),
            revoked: self.revoked.crl_file.clone(),
            ..tls::Trust::default()
        }
    }

    /// Options that lead to the same server, without the token: that is not for command lines.
    pub(super) fn options(&self) -> Vec<String> {
        let mut options = vec!["--url".to_owned(), self.url.to_string()];
        let files = [
            ("--token-file", &self.token_file),
            ("--tls-ca-file", &self.tls_ca_file),
            ("--crl-file", &self.revoked.crl_file),
        ];
        for (option, path) in files {
            if let Some(path) = path {
                // Who reads them later is elsewhere.
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                options.extend([option.to_owned(), path.display().to_string()]);
            }
        }
        options
    }

    fn token(&self) -> anyhow::Result<Secret> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(token.clone()),
            (None, Some(path)) => secret_file(path),
            (None, None) => Err(UsageError("no token is given".into()))
                .hint("set OUTPOST_TOKEN_FILE to the file `admin.token` in the server's data directory, or OUTPOST_TOKEN"),
        }
    }
}

/// The only line of a file that holds one secret.
///
/// # Errors
/// If it cannot be read, or is empty.
pub(super) fn secret_file(path: &Path) -> anyhow::Result<Secret> {
    let mut secrets = secret_lines(path)?;
    Ok(secrets.swap_remove(0))
}

/// The lines of a file that holds secrets.
///
/// # Errors
/// If it cannot be read, or has no line.
pub(super) fn secret_lines(path: &Path) -> anyhow::Result<Vec<Secret>> {
    let text = Zeroizing::new(
        std::fs::read_to_string(path)
            .with_context(|| format!("failed to read the secret in `{}`", path.display()))?,
    );
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Vec<Secret> = lines.map(Secret::new).collect();
    match secrets.is_empty() {
        true => Err(UsageError(format!("`{}` is empty", path.display())).into()),
        false => Ok(secrets),
    }
}

/// A `name=value` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self {
                name: name.into(),
                value: value.into(),
            }),
            _ => Err("expected `name=value`".into()),
        }
    }
}
