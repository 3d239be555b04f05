//! Options of commands that talk to a server, and the connection they make.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;
use url::Url;
use zeroize::Zeroizing;

use super::{
    complete,
    exit::{Hint, UsageError},
    headers::Headers,
};
use crate::{
    client::{
        self, Api,
        coder::{self, Coder},
    },
    config::contexts::{Context as Saved, ContextError, Contexts},
    connect::Server,
    net::{http, proxy::Proxies, tls},
    secret::Secret,
};

/// Lists of revoked certificates.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Revoked {
    /// PEM file with certificate revocation lists; read again when it changes
    #[arg(
        long,
        alias = "tls-crl-file",
        value_name = "FILE",
        env = "OUTPOST_TLS_CRL_FILE"
    )]
    pub(super) crl_file: Option<PathBuf>,
}

/// Authorities that are trusted beside the system's.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Authorities {
    /// PEM file of certificate authorities to trust in addition to the system's
    #[arg(
        long,
        alias = "tls-ca-file",
        value_name = "FILE",
        env = "OUTPOST_TLS_CA_FILE"
    )]
    pub(super) ca_file: Option<PathBuf>,
}

/// Certificate authorities for an engine and its mirror, as `outpost provisioner start` has them.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineTrust {
    #[command(flatten)]
    authorities: Authorities,
    #[command(flatten)]
    revoked: Revoked,
}

impl EngineTrust {
    /// Returns trust in the system's authorities and those, but in nothing that is revoked.
    pub(super) fn trust(&self) -> tls::Trust {
        trust(
            self.authorities.ca_file.clone(),
            self.revoked.crl_file.clone(),
        )
    }
}

/// Variable with a user's token for a coderd; Coder's own.
pub(super) const SESSION_TOKEN: &str = "CODER_SESSION_TOKEN";

/// URL of the server if none is configured.
const DEFAULT_URL: &str = "http://127.0.0.1:7080";

/// Server to call, with the caller's credential.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Remote {
    /// URL of the server [default: that of the last `outpost login`, else http://127.0.0.1:7080]
    #[arg(long, value_name = "URL", env = "OUTPOST_URL")]
    url: Option<Url>,
    /// Saved login to use, if not the current one; `outpost context list` shows them
    #[arg(
        long,
        conflicts_with = "url",
        value_name = "NAME",
        env = "OUTPOST_CONTEXT",
        add = complete::contexts()
    )]
    context: Option<String>,
    /// API token; prefer a file or the environment, because other users can read the command line
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
    #[command(flatten)]
    authorities: Authorities,
    #[command(flatten)]
    revoked: Revoked,
    /// Organization, if not the default one
    #[arg(
        long = "org",
        short = 'O',
        value_name = "NAME",
        env = "OUTPOST_ORGANIZATION",
        default_value = "",
        hide_default_value = true,
        add = complete::organizations()
    )]
    pub(super) organization: String,
}

/// Selected server, and the saved login for it, with its name, if there is one.
struct Meant {
    url: Url,
    saved: Option<(Saved, String)>,
}

/// Selects the server. A saved login counts only for its own server, so that its token goes nowhere else.
fn meant(url: Option<&Url>, context: Option<&str>) -> anyhow::Result<Meant> {
    let Ok(contexts) = Contexts::of_user() else {
        let url = url.cloned().unwrap_or_else(default_url);
        return Ok(Meant { url, saved: None });
    };
    let load = |name: String| Ok::<_, ContextError>((contexts.load(&name)?, name));
    let saved = match (context, url) {
        (Some(name), _) => Some(load(name.to_owned())?),
        (None, Some(url)) => contexts.of_server(url)?,
        (None, None) => contexts.current()?.map(load).transpose()?,
    };
    let of_saved = saved.as_ref().map(|(context, _)| &context.url);
    let url = of_saved.or(url).cloned().unwrap_or_else(default_url);
    Ok(Meant { url, saved })
}

/// URL of the server if none is configured.
pub(super) fn default_url() -> Url {
    DEFAULT_URL.parse().expect("the constant is a URL")
}

/// Returns the server that a command with these arguments talks to, if it talks to one.
pub(super) fn server_of(matches: &clap::ArgMatches) -> Option<Url> {
    let url = matches.try_get_one::<Url>("url").ok()?;
    match matches.try_get_one::<String>("context") {
        Ok(context) => Some(meant(url, context.map(String::as_str)).ok()?.url),
        Err(_) => url.cloned(),
    }
}

impl Remote {
    /// Prepares the connection; nothing is sent yet.
    pub(super) fn connect(&self) -> anyhow::Result<Api> {
        let meant = self.meant()?;
        let target = client::Target {
            token: self.token(&meant)?,
            trust: self.trust(&meant),
            url: meant.url,
        };
        Ok(client::connect(&target)?)
    }

    /// Returns a client of the server if it is a coderd, and not one of ours. `CODER_SESSION_TOKEN` is its token if no other
    /// one is given.
    ///
    /// # Errors
    /// If there is no token for it.
    pub(super) async fn coderd(&self) -> anyhow::Result<Option<Coder>> {
        let meant = self.meant()?;
        let client = http_client(&self.trust(&meant))?;
        if !coder::is_coderd(&client, &meant.url).await {
            return Ok(None);
        }
        let token = match (self.token(&meant), std::env::var(SESSION_TOKEN)) {
            (Err(_), Ok(token)) => Secret::new(token),
            (token, _) => token?,
        };
        Ok(Some(Coder::new(client, meant.url, token)))
    }

    /// Returns a client of the server's HTTP API, which leads to agents; nothing is sent yet.
    pub(super) fn server(&self, headers: &Headers) -> anyhow::Result<Server> {
        let meant = self.meant()?;
        let http = http::Client::new(headers.apply(http::Config {
            trust: self.trust(&meant),
            proxies: Proxies::from_env(),
            ..http::Config::new(meant.url.clone())
        })?)?;
        Ok(Server::new(http, self.token(&meant)?))
    }

    /// Returns the saved login, if its token is used.
    pub(super) fn saved(&self) -> anyhow::Result<Option<(Saved, String)>> {
        let is_told = self.token.is_some() || self.token_file.is_some();
        Ok(self.meant()?.saved.filter(|_| !is_told))
    }

    /// Returns the URL of the server.
    pub(super) fn url(&self) -> anyhow::Result<Url> {
        Ok(self.meant()?.url)
    }

    fn meant(&self) -> anyhow::Result<Meant> {
        meant(self.url.as_ref(), self.context.as_deref())
    }

    fn trust(&self, meant: &Meant) -> tls::Trust {
        let saved = meant.saved.as_ref().map(|(context, _)| context);
        let saved_ca = saved.and_then(|it| it.ca_file.clone());
        let saved_crl = saved.and_then(|it| it.crl_file.clone());
        let ca_file = self.authorities.ca_file.clone().or(saved_ca);
        trust(ca_file, self.revoked.crl_file.clone().or(saved_crl))
    }

    /// Returns options that lead to the same server, without the token, which must not be on command lines.
    pub(super) fn options(&self) -> anyhow::Result<Vec<String>> {
        let meant = self.meant()?;
        if let Some((_, name)) = self.saved()? {
            return Ok(vec!["--context".to_owned(), name]);
        }
        let mut options = vec!["--url".to_owned(), meant.url.to_string()];
        let files = [
            ("--token-file", &self.token_file),
            ("--ca-file", &self.authorities.ca_file),
            ("--crl-file", &self.revoked.crl_file),
        ];
        for (option, path) in files {
            if let Some(path) = path {
                // The options are used later, from another working directory.
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                options.extend([option.to_owned(), path.display().to_string()]);
            }
        }
        Ok(options)
    }

    fn token(&self, meant: &Meant) -> anyhow::Result<Secret> {
        match (&self.token, &self.token_file, &meant.saved) {
            (Some(token), _, _) => Ok(token.clone()),
            (None, Some(path), _) => secret_file(path),
            (None, None, Some((_, name))) => Ok(Contexts::of_user()?.token(name)?),
            (None, None, None) => Err(UsageError(format!(
                "not logged in to {}, and no token is given",
                meant.url
            )))
            .hint(
                "log in with `outpost login URL`; the first token of a server is in the file `admin.token` of its data directory",
            ),
        }
    }
}

/// Trusts the system's authorities and those in `ca_file`, but nothing on the lists in `crl_file`.
pub(super) fn trust(ca_file: Option<PathBuf>, crl_file: Option<PathBuf>) -> tls::Trust {
    tls::Trust {
        extra: ca_file.into_iter().collect(),
        revoked: crl_file,
        ..tls::Trust::default()
    }
}

/// Returns a client that follows no redirect, so that a token stays with the server it is for.
pub(super) fn http_client(trust: &tls::Trust) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .tls_backend_preconfigured(tls::client_config(trust)?);
    Ok(builder.build()?)
}

/// Returns a client of a coderd that an option names, with the token in a file, or else in `CODER_SESSION_TOKEN`.
///
/// # Errors
/// [`UsageError`] if there is no token.
pub(super) fn coder_at(
    url: &Url,
    token_file: Option<&Path>,
    trust: &tls::Trust,
) -> anyhow::Result<Coder> {
    let token = match (token_file, std::env::var(SESSION_TOKEN)) {
        (Some(path), _) => secret_file(path)?,
        (None, Ok(token)) => Secret::new(token),
        (None, Err(_)) => {
            return Err(UsageError(format!("`{url}` needs the token of a user")))
                .hint("set CODER_SESSION_TOKEN, or name a file with `--server-token-file`");
        }
    };
    Ok(Coder::new(http_client(trust)?, url.clone(), token))
}

/// Reads the only line of a file that contains one secret.
///
/// # Errors
/// If it cannot be read, or is empty.
pub(super) fn secret_file(path: &Path) -> anyhow::Result<Secret> {
    let mut secrets = secret_lines(path)?;
    Ok(secrets.swap_remove(0))
}

/// Reads the lines of a file that contains secrets.
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

/// A `name=value` pair on the command line.
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
