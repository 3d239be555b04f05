//! `outpost organization`: groups of people, templates and daemons.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    complete,
    confirm::Confirm,
    output::{self, Output, Row},
    remote::Remote,
    rows,
};
use crate::{
    proto::outpost::v1::{
        self, CreateOrganizationRequest, DeleteOrganizationRequest, ListOrganizationsRequest,
    },
    stop::Stop,
};

/// Manage organizations, each with its own templates, workspaces and daemons
#[derive(Debug, clap::Subcommand)]
pub(super) enum Organization {
    /// List organizations of the server
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Add an organization; select it in other commands with `--org NAME`
    Create {
        /// Name of the organization
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete an organization that has no templates and workspaces, along with its provisioner keys
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id of the organization
        #[arg(value_name = "NAME", add = complete::organizations())]
        name: String,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Serialize)]
struct Shown {
    name: String,
    id: String,
    is_default: bool,
    created_at: Option<Timestamp>,
}

impl From<v1::Organization> for Shown {
    fn from(organization: v1::Organization) -> Self {
        Self {
            name: organization.name,
            id: organization.id,
            is_default: organization.is_default,
            created_at: rows::time(organization.created_at),
        }
    }
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &["Organization", "Id", "Default", "Age"];

    fn cells(&self) -> Vec<String> {
        let default = if self.is_default { "yes" } else { "" };
        vec![
            self.name.clone(),
            rows::short(&self.id),
            default.to_owned(),
            rows::age(self.created_at),
        ]
    }
}

impl Organization {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::List { remote } => {
                let request = ListOrganizationsRequest {};
                let listed = remote.connect()?.list_organizations(request).await?;
                let rows = listed.into_inner().organizations.into_iter();
                output.list(&rows.map(Shown::from).collect::<Vec<_>>())?;
            }
            Self::Create { name, remote } => {
                let request = CreateOrganizationRequest { name };
                let made = remote.connect()?.create_organization(request).await?;
                output.list(&[Shown::from(made.into_inner())])?;
            }
            Self::Delete {
                name,
                confirm,
                remote,
            } => {
                let question = format!("Delete the organization {name} and its provisioner keys?");
                confirm.ask(&question, &stop).await?;
                let request = DeleteOrganizationRequest {
                    organization: name.clone(),
                };
                remote.connect()?.delete_organization(request).await?;
                output::note(&format!("Deleted the organization {name}."));
            }
        }
        Ok(())
    }
}
