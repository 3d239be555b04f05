//! `outpost provisioner`.

mod account;
pub(super) mod args;
pub(super) mod connect;
mod contact;
pub(super) mod credential;
pub(super) mod health;
mod log;
mod sources;
pub(super) mod start;
mod systemd;

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;

use self::args::{EXIT_CODES, Start};
use super::{
    output::{self, Output, Row},
    remote::{Pair, Remote},
    rows,
};
use crate::{
    observe::{DaemonLog, LogFormat},
    proto::outpost::v1::{
        CreateProvisionerKeyRequest, DeleteProvisionerKeyRequest, ListDaemonsRequest,
        ListProvisionerKeysRequest, ProvisionerKey,
    },
    stop::Stop,
};

/// Provisioner daemons
#[derive(Debug, clap::Subcommand)]
pub(super) enum Provisioner {
    /// Take jobs from a server and run them with Terraform
    ///
    /// Options, variables and log lines are those of `coder provisioner start`, so that its command lines, units and
    /// images keep working.
    #[command(after_help = EXIT_CODES)]
    Start(Box<Start>),
    /// List the daemons that a server knows
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Keys with which daemons authenticate
    #[command(subcommand)]
    Key(Key),
}

/// Keys with which daemons authenticate
#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Make a key; it is shown once
    Create {
        /// The key's name
        name: String,
        /// Tag of every daemon that comes with this key
        #[arg(long = "tag", short, value_name = "NAME=VALUE")]
        tags: Vec<Pair>,
        #[command(flatten)]
        remote: Remote,
    },
    /// List keys, without their values
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a key; daemons that have it are refused from then on
    Delete {
        /// The key's name
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

impl Provisioner {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Start(start) => start::exec(*start, stop).await,
            Self::List { remote } => {
                let organization = remote.organization.clone();
                let listed = remote
                    .connect()?
                    .list_daemons(ListDaemonsRequest { organization })
                    .await?;
                let daemons = listed
                    .into_inner()
                    .daemons
                    .into_iter()
                    .map(rows::Daemon::from);
                output.list(&daemons.collect::<Vec<_>>())?;
                Ok(())
            }
            Self::Key(key) => key.exec(output).await,
        }
    }

    /// How a daemon logs; `None` for what is no daemon.
    pub(super) fn daemon_log(&self, filter: Option<&str>, format: LogFormat) -> Option<DaemonLog> {
        match self {
            Self::Start(start) => Some(log::daemon_log(&start.logging, filter, format)),
            Self::List { .. } | Self::Key(_) => None,
        }
    }

    /// Whether only the options are asked for.
    pub(super) fn wants_options(&self) -> bool {
        matches!(self, Self::Start(start) if start.debug_options)
    }
}

/// A key, with its value where it was just made.
#[derive(Serialize)]
struct KeyRow {
    name: String,
    id: String,
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl KeyRow {
    fn new(key: ProvisionerKey, value: Option<String>) -> Self {
        Self {
            name: key.name,
            id: key.id,
            tags: key.tags.into_iter().collect(),
            value,
        }
    }
}

impl Row for KeyRow {
    const COLUMNS: &'static [&'static str] = &["Key", "Tags"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), rows::pairs(&self.tags)]
    }
}

impl Key {
    async fn exec(self, output: Output) -> anyhow::Result<()> {
        match self {
            Self::Create { name, tags, remote } => {
                let tags = tags.into_iter().map(|tag| (tag.name, tag.value)).collect();
                let request = CreateProvisionerKeyRequest {
                    organization: remote.organization.clone(),
                    name,
                    tags,
                };
                let made = remote
                    .connect()?
                    .create_provisioner_key(request)
                    .await?
                    .into_inner();
                let key = made.key.context("the server's answer has no `key`")?;
                output.item(&KeyRow::new(key, Some(made.value)), |key| {
                    key.value.clone().unwrap_or_default()
                })?;
                output::note("Keep it: the server stores only a hash of it.");
            }
            Self::List { remote } => {
                let organization = remote.organization.clone();
                let listed = remote
                    .connect()?
                    .list_provisioner_keys(ListProvisionerKeysRequest { organization })
                    .await?;
                let keys = listed
                    .into_inner()
                    .keys
                    .into_iter()
                    .map(|key| KeyRow::new(key, None));
                output.list(&keys.collect::<Vec<_>>())?;
            }
            Self::Delete { name, remote } => {
                let organization = remote.organization.clone();
                remote
                    .connect()?
                    .delete_provisioner_key(DeleteProvisionerKeyRequest { organization, name })
                    .await?;
            }
        }
        Ok(())
    }
}
