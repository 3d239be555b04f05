//! `coder external-auth`: tokens of the workspace's owner for other services.

use std::io::{self, Write as _};

use anyhow::Context as _;

use crate::{
    agent::external_auth::{self, ExternalAuth as Login, at_path},
    cli::{
        agent::Identity,
        exit::{Hint as _, Interrupted, RemoteStatus},
    },
    stop::Stop,
};

/// Authenticate with external services inside of a workspace
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum ExternalAuth {
    /// Print the owner's access token for an external provider
    ///
    /// The token is printed with exit code 0. If the owner has not logged in, the URL to do so is printed with exit code
    /// 1. Neither ends with a newline.
    AccessToken(Box<AccessToken>),
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct AccessToken {
    #[command(flatten)]
    identity: Identity,
    /// Id of the provider at the server, such as `github`
    #[arg(value_name = "PROVIDER")]
    provider: String,
    /// Print this field of the token's extra properties instead, such as `authed_user.id`
    #[arg(long, value_name = "PATH")]
    extra: Option<String>,
}

impl ExternalAuth {
    pub(in crate::cli) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let Self::AccessToken(asked) = self;
        tokio::select! {
            done = asked.exec() => done,
            () = stop.draining() => Err(Interrupted.into()),
        }
    }
}

impl AccessToken {
    async fn exec(&self) -> anyhow::Result<()> {
        let (http, credential) = (self.identity.http()?, self.identity.credential()?);
        let login = external_auth::fetch(&http, &credential, &self.provider).await;
        match login.context("get external auth token")? {
            None => Err(anyhow::anyhow!(
                "the server has no external auth provider {:?}",
                self.provider
            ))
            .hint("the server's operator configures such providers; in a coderd, `CODER_EXTERNAL_AUTH_0_ID` is the ID of the first one"),
            Some(Login::LogIn(page)) => {
                write(&page)?;
                Err(RemoteStatus(1).into())
            }
            Some(Login::Token {
                access_token,
                extra,
            }) => match (self.extra.as_deref().filter(|path| !path.is_empty()), extra) {
                (None, _) => write(access_token.expose()),
                (Some(path), Some(extra)) => write(&at_path(&extra, path)),
                (Some(_), None) => anyhow::bail!("no extra properties found for token"),
            },
        }
    }
}

/// Writes without a newline: scripts compare the whole output.
fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.context("failed to write to stdout")
}
