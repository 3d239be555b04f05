//! `outpost provisioner`: daemons, and the keys that they authenticate with.

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
use tonic::Status;

use self::args::{EXIT_CODES, Start};
use super::{
    complete,
    confirm::Confirm,
    output::{self, Output, Row},
    remote::{Pair, Remote},
    rows,
    token::IntoFile,
    watch::Watch,
};
use crate::{
    observe::{DaemonLog, LogFormat},
    proto::outpost::v1::{
        CreateProvisionerKeyRequest, DeleteDaemonRequest, DeleteProvisionerKeyRequest,
        ListDaemonsRequest, ListProvisionerKeysRequest, ProvisionerKey,
    },
    stop::Stop,
};

/// Run and manage provisioner daemons and their keys
#[derive(Debug, clap::Subcommand)]
pub(super) enum Provisioner {
    /// Take jobs from a server and run them with Terraform
    ///
    /// Options, variables and log lines are those of `coder provisioner start`, so that its command lines, units and
    /// images keep working.
    #[command(after_help = EXIT_CODES)]
    Start(Box<Start>),
    /// List the daemons of a server
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove an offline daemon from the list
    #[command(visible_alias = "rm")]
    Delete {
        /// The daemon's name, its ID or the beginning of it
        #[arg(add = complete::daemons())]
        name: String,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
    /// Manage keys that daemons authenticate with
    #[command(subcommand)]
    Key(Key),
}

/// Manage keys that daemons authenticate with
#[derive(Debug, clap::Subcommand)]
pub(super) enum Key {
    /// Create a key; it is shown only once
    Create {
        /// Name of the key
        name: String,
        /// Tag of every daemon that uses this key
        #[arg(long = "tag", short, value_name = "NAME=VALUE")]
        tags: Vec<Pair>,
        #[command(flatten)]
        file: IntoFile,
        #[command(flatten)]
        remote: Remote,
    },
    /// List keys, without their values
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a key; daemons that use it are refused from then on
    #[command(visible_alias = "rm")]
    Delete {
        /// Name of the key
        #[arg(add = complete::keys())]
        name: String,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
}

impl Provisioner {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Start(start) => start::exec(*start, stop).await,
            Self::List { watch, remote } => {
                let organization = remote.organization.clone();
                let request = ListDaemonsRequest { organization };
                let mut api = remote.connect()?;
                let list = async || {
                    let listed = api.list_daemons(request.clone()).await?.into_inner();
                    let rows = listed.daemons.into_iter().map(rows::Daemon::from);
                    Ok::<Vec<_>, Status>(rows.collect())
                };
                watch.print(list, output, &stop).await
            }
            Self::Delete {
                name,
                confirm,
                remote,
            } => {
                let question = format!("Remove the daemon {name} from the list?");
                confirm.ask(&question, &stop).await?;
                let request = DeleteDaemonRequest {
                    organization: remote.organization.clone(),
                    daemon: name.clone(),
                };
                remote.connect()?.delete_daemon(request).await?;
                output::note(&format!("Removed the daemon {name}."));
                Ok(())
            }
            Self::Key(key) => key.exec(output, &stop).await,
        }
    }

    /// Returns where the daemon logs; `None` for commands that start none.
    pub(super) fn daemon_log(&self, filter: Option<&str>, format: LogFormat) -> Option<DaemonLog> {
        match self {
            Self::Start(start) => Some(log::daemon_log(&start.logging, filter, format)),
            Self::List { .. } | Self::Delete { .. } | Self::Key(_) => None,
        }
    }

    /// Returns whether only the options are to be shown.
    pub(super) fn wants_options(&self) -> bool {
        matches!(self, Self::Start(start) if start.debug_options)
    }
}

/// A provisioner key, with its value if it was just created.
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
        vec![self.name.clone(), rows::tags(&self.tags)]
    }
}

impl Key {
    async fn exec(self, output: Output, stop: &Stop) -> anyhow::Result<()> {
        match self {
            Self::Create {
                name,
                tags,
                file,
                remote,
            } => {
                file.check()?;
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
                file.hand_over(made.value, |value| KeyRow::new(key, value), output)?;
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
            Self::Delete {
                name,
                confirm,
                remote,
            } => {
                let question = format!("Delete the key {name} and refuse the daemons that use it?");
                confirm.ask(&question, stop).await?;
                let request = DeleteProvisionerKeyRequest {
                    organization: remote.organization.clone(),
                    name: name.clone(),
                };
                remote.connect()?.delete_provisioner_key(request).await?;
                output::note(&format!("Deleted the key {name}."));
            }
        }
        Ok(())
    }
}
