//! `outpost token`: API tokens of people.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    complete,
    confirm::Confirm,
    exit::UsageError,
    login,
    output::{self, Output, Row},
    remote::Remote,
    rows,
};
use crate::{
    files,
    proto::outpost::v1::{
        self, CreateTokenRequest, CreateTokenResponse, ListTokensRequest, RevokeTokenRequest,
        RotateTokenRequest,
    },
    secret::Secret,
    stop::Stop,
};

/// API tokens of users
#[derive(Debug, clap::Subcommand)]
pub(super) enum Token {
    /// List tokens, without their values
    #[command(visible_alias = "ls")]
    List {
        /// User, if not yourself
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, add = complete::users())]
        user: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Create a token; its value is shown only once
    Create {
        /// Name of the token, such as that of the machine it is for
        #[arg(long, short, value_name = "NAME", default_value = "cli")]
        name: String,
        /// User, if not yourself
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, add = complete::users())]
        user: String,
        /// Lifetime, such as 30d; if missing, the token never expires
        #[arg(long, value_name = "DURATION")]
        lifetime: Option<humantime::Duration>,
        #[command(flatten)]
        file: IntoFile,
        #[command(flatten)]
        remote: Remote,
    },
    /// Replace the value of a token; the old value stops working at once
    ///
    /// The new value is written to where the old one is kept: a saved login, or the file `admin.token` of the server's data
    /// directory. Other values are shown only once.
    Rotate {
        /// The token's name, its ID or the beginning of it; if missing, the token that you are logged in with
        #[arg(id = "named_token", value_name = "TOKEN", default_value = "", hide_default_value = true, add = complete::tokens())]
        token: String,
        #[command(flatten)]
        file: IntoFile,
        #[command(flatten)]
        remote: Remote,
    },
    /// Revoke a token permanently
    #[command(visible_aliases = ["rm", "remove", "revoke"])]
    Delete {
        /// The token's name, its ID or the beginning of it
        #[arg(id = "named_token", value_name = "TOKEN", add = complete::tokens())]
        token: String,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
}

/// File for a token's value.
#[derive(Debug, clap::Args)]
pub(super) struct IntoFile {
    /// Write the value to this new file, readable only by you, instead of printing it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A token, with its value if it was just created.
#[derive(Serialize)]
struct Shown {
    name: String,
    id: String,
    user: String,
    created_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Shown {
    fn new(token: v1::Token, value: Option<String>) -> Self {
        Self {
            name: token.name,
            id: token.id,
            user: token.user,
            created_at: rows::time(token.created_at),
            expires_at: rows::time(token.expires_at),
            last_used_at: rows::time(token.last_used_at),
            value,
        }
    }
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] =
        &["Token", "Name", "User", "Age", "Last used", "Expires in"];

    fn cells(&self) -> Vec<String> {
        let expires = match self.expires_at {
            Some(_) => rows::time_until(self.expires_at),
            None => "never".to_owned(),
        };
        vec![
            rows::short(&self.id),
            rows::with_short_ids(&self.name),
            self.user.clone(),
            rows::age(self.created_at),
            rows::age(self.last_used_at),
            expires,
        ]
    }
}

impl Token {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::List { user, remote } => {
                let listed = remote
                    .connect()?
                    .list_tokens(ListTokensRequest { user })
                    .await?;
                let tokens = listed.into_inner().tokens.into_iter();
                let tokens = tokens.map(|token| Shown::new(token, None));
                output.list(&tokens.collect::<Vec<_>>())?;
            }
            Self::Create {
                name,
                user,
                lifetime,
                file,
                remote,
            } => {
                file.check()?;
                let request = CreateTokenRequest {
                    user,
                    name,
                    lifetime_seconds: seconds(lifetime)?,
                };
                let made = remote.connect()?.create_token(request).await?;
                hand_over(&file, made.into_inner(), output)?;
            }
            Self::Rotate {
                token,
                file,
                remote,
            } => rotate(token, &file, &remote, output).await?,
            Self::Delete {
                token,
                confirm,
                remote,
            } => {
                confirm
                    .ask(&format!("Revoke the token {token}?"), &stop)
                    .await?;
                let request = RevokeTokenRequest { id: token.clone() };
                remote.connect()?.revoke_token(request).await?;
                output::note(&format!("Revoked the token {token}."));
            }
        }
        Ok(())
    }
}

fn seconds(lifetime: Option<humantime::Duration>) -> Result<i64, UsageError> {
    let lifetime = lifetime.map_or(Duration::ZERO, Duration::from);
    i64::try_from(lifetime.as_secs()).map_err(|_| UsageError("`--lifetime` is too long".to_owned()))
}

async fn rotate(
    token: String,
    file: &IntoFile,
    remote: &Remote,
    output: Output,
) -> anyhow::Result<()> {
    file.check()?;
    let is_own = token.is_empty();
    let saved = remote.saved()?.filter(|_| is_own);
    let request = RotateTokenRequest { id: token };
    let made = remote.connect()?.rotate_token(request).await?.into_inner();
    let Some((_, name)) = saved else {
        return hand_over(file, made, output);
    };
    let replaced = login::replace_token(&name, &Secret::new(made.value.clone()));
    if file.file.is_some() || replaced.is_err() {
        // The new value must not be lost, because the old one no longer works.
        hand_over(file, made, output)?;
        return replaced;
    }
    output::note(&format!("The login `{name}` has the new token."));
    Ok(())
}

impl IntoFile {
    /// Refuses a file that exists, before anything is requested from the server: a value is shown only once.
    ///
    /// # Errors
    /// [`UsageError`] if it exists.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        match &self.file {
            Some(path) if path.exists() => {
                Err(UsageError(format!("`{}` exists already", path.display())))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Writes the value to the file, or prints it; `row` makes the row that the value belongs to, with the value if
    /// that is to be printed.
    ///
    /// # Errors
    /// If nothing can be printed.
    pub(super) fn hand_over<T: Row>(
        &self,
        value: String,
        row: impl FnOnce(Option<String>) -> T,
        output: Output,
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.file {
            let written = files::write_private_new(path, value.as_bytes());
            if matches!(written, Ok(true)) {
                return Ok(output.list(&[row(None)])?);
            }
            output::note(&format!(
                "`{}` cannot be written, so here it is:",
                path.display()
            ));
        }
        output.item(&row(Some(value.clone())), |_| value)?;
        output::note("Store it safely: the server keeps only a hash of it.");
        Ok(())
    }
}

fn hand_over(file: &IntoFile, made: CreateTokenResponse, output: Output) -> anyhow::Result<()> {
    let token = made.token.context("the server's answer has no `token`")?;
    file.hand_over(made.value, |value| Shown::new(token, value), output)
}
