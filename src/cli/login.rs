//! `outpost login`, `outpost logout`, `outpost whoami` and `outpost context`.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use serde::Serialize;
use tonic::Code;
use url::Url;

use super::{
    complete, confirm,
    exit::{Hint as _, Interrupted, UsageError},
    output::{self, Output, Row},
    remote::{self, Authorities, Remote, Revoked, secret_file},
};
use crate::{
    client::{self, CallError},
    config::contexts::{self, Context, Contexts},
    connect::Server,
    net::{http, proxy::Proxies},
    proto::outpost::v1::WhoAmIRequest,
    secret::Secret,
    stop::Stop,
};

/// Log in to a server: save its address and a token, for all commands
///
/// The token is read from `--token-file`, from OUTPOST_TOKEN, or from a prompt; without a terminal it is the first line
/// of standard input. A server's first token is in the file `admin.token` of its data directory. For a Coder server give
/// a session token; `outpost ssh`, `ping` and `config-ssh` use it.
#[derive(Debug, clap::Args)]
pub(super) struct Login {
    /// URL of the server
    #[arg(env = "OUTPOST_URL", default_value = "http://127.0.0.1:7080")]
    url: Url,
    /// Name for this login [default: the server's host and port]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE", env = "OUTPOST_TOKEN_FILE")]
    token_file: Option<std::path::PathBuf>,
    #[command(flatten)]
    authorities: Authorities,
    #[command(flatten)]
    revoked: Revoked,
}

/// Forget a saved login
///
/// The token remains valid; `outpost token delete` revokes it.
#[derive(Debug, clap::Args)]
pub(super) struct Logout {
    /// Name of the saved login [default: the current one]
    #[arg(value_name = "CONTEXT", add = complete::contexts())]
    context: Option<String>,
}

/// Show who you are, and where
#[derive(Debug, clap::Args)]
pub(super) struct Whoami {
    #[command(flatten)]
    remote: Remote,
}

/// Manage saved logins to servers
#[derive(Debug, clap::Subcommand)]
pub(super) enum Saved {
    /// List all saved logins
    List,
    /// Switch to another saved login
    Use {
        /// Name of the saved login
        #[arg(value_name = "CONTEXT", add = complete::contexts())]
        name: String,
    },
}

/// A saved login, as it is printed.
#[derive(Serialize)]
struct Shown {
    name: String,
    url: String,
    user: String,
    current: bool,
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &["Context", "Server", "User", "Current"];

    fn cells(&self) -> Vec<String> {
        let current = if self.current { "yes" } else { "" };
        vec![
            self.name.clone(),
            self.url.clone(),
            self.user.clone(),
            current.into(),
        ]
    }
}

impl Login {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let name = self.name.clone();
        let name = name.unwrap_or_else(|| contexts::name_of(&self.url));
        let token = self.token(&stop).await?;
        let user = self.user(&token).await?;
        let saved = Context {
            url: self.url.clone(),
            user,
            ca_file: absolute(self.authorities.ca_file)?,
            crl_file: absolute(self.revoked.crl_file)?,
        };
        Contexts::of_user()?.save(&name, &saved, &token)?;
        let shown = Shown {
            name,
            url: http::shown(&saved.url),
            user: saved.user,
            current: true,
        };
        output.item(&shown, |it| {
            let (url, user, name) = (&it.url, &it.user, &it.name);
            format!("Logged in to {url} as {user} (context {name}).")
        })?;
        Ok(())
    }

    async fn token(&self, stop: &Stop) -> anyhow::Result<Secret> {
        if let Some(path) = &self.token_file {
            return secret_file(path);
        }
        if let Ok(token) = std::env::var("OUTPOST_TOKEN") {
            return Ok(Secret::new(token.trim()));
        }
        if io::stdin().is_terminal() {
            output::note(&format!(
                "Token for {} (it is not shown):",
                http::shown(&self.url)
            ));
        }
        let line = tokio::select! {
            line = confirm::secret_line() => line?,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        match line {
            Some(token) if !token.is_empty() => Ok(token),
            Some(_) | None => Err(UsageError("no token was given".to_owned())).hint(
                "the first token of a server is in the file `admin.token` of its data directory",
            ),
        }
    }

    /// Returns the name of the token's user, at a server of ours or at Coder's.
    async fn user(&self, token: &Secret) -> anyhow::Result<String> {
        let trust = remote::trust(
            self.authorities.ca_file.clone(),
            self.revoked.crl_file.clone(),
        );
        let target = client::Target {
            url: self.url.clone(),
            token: token.clone(),
            trust: trust.clone(),
        };
        let refused = match client::connect(&target)?.who_am_i(WhoAmIRequest {}).await {
            Ok(user) => return Ok(user.into_inner().name),
            Err(status) => status,
        };
        if refused.code() != Code::Unauthenticated {
            let http = http::Client::new(http::Config {
                trust,
                proxies: Proxies::from_env(),
                ..http::Config::new(self.url.clone())
            })?;
            if let Ok(name) = Server::new(http, token.clone()).user_name().await {
                return Ok(name);
            }
        }
        let error = CallError::new(&self.url, refused);
        let hint = error.hint().unwrap_or_default();
        Err(error).hint(hint)
    }
}

fn absolute(path: Option<std::path::PathBuf>) -> io::Result<Option<std::path::PathBuf>> {
    path.map(std::path::absolute).transpose()
}

impl Logout {
    pub(super) fn exec(self) -> anyhow::Result<()> {
        let contexts = Contexts::of_user()?;
        let current = contexts.current()?;
        let name = self.context.or(current);
        let name = name.ok_or_else(|| UsageError("not logged in to any server".to_owned()))?;
        contexts.remove(&name)?;
        output::note(&format!(
            "Removed the login `{name}`; its token is still valid."
        ));
        Ok(())
    }
}

#[derive(Serialize)]
struct Identity {
    user: String,
    full_name: String,
    email: String,
    admin: bool,
    url: String,
    context: Option<String>,
}

impl Whoami {
    pub(super) async fn exec(self, output: Output) -> anyhow::Result<()> {
        let user = self.remote.connect()?.who_am_i(WhoAmIRequest {}).await?;
        let user = user.into_inner();
        let identity = Identity {
            user: user.name,
            full_name: user.full_name,
            email: user.email,
            admin: user.admin,
            url: http::shown(&self.remote.url()?),
            context: self.remote.saved()?.map(|(_, name)| name),
        };
        output.item(&identity, |it| {
            let role = if it.admin { "admin" } else { "member" };
            let mut facts = vec![
                ("User", it.user.clone()),
                ("Role", role.to_owned()),
                ("Server", it.url.clone()),
            ];
            facts.extend(it.context.clone().map(|name| ("Context", name)));
            output::facts(&facts)
        })?;
        Ok(())
    }
}

impl Saved {
    pub(super) fn exec(self, output: Output) -> anyhow::Result<()> {
        let contexts = Contexts::of_user()?;
        match self {
            Self::List => {
                let current = contexts.current()?;
                let mut rows = Vec::new();
                for name in contexts.names()? {
                    let saved = contexts.load(&name)?;
                    rows.push(Shown {
                        current: current.as_ref() == Some(&name),
                        name,
                        url: http::shown(&saved.url),
                        user: saved.user,
                    });
                }
                output.list(&rows)?;
            }
            Self::Use { name } => {
                contexts.choose(&name)?;
                let saved = contexts.load(&name)?;
                let (user, url) = (saved.user, http::shown(&saved.url));
                output::note(&format!("Commands now go to {url}, as {user}."));
            }
        }
        Ok(())
    }
}

/// Replaces the token of a saved login, which the server has replaced.
///
/// # Errors
/// If it cannot be written.
pub(super) fn replace_token(name: &str, token: &Secret) -> anyhow::Result<()> {
    let written = Contexts::of_user()?.set_token(name, token);
    written.with_context(|| format!("failed to save the new token of the login `{name}`"))
}
