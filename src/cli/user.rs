//! `outpost user`: people who may call the server.

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
    client::Api,
    proto::outpost::v1::{
        self, CreateUserRequest, DeleteUserRequest, ListUsersRequest, SetUserBudgetRequest,
        SetUserRoleRequest, SetUserSuspendedRequest, ShowQuotaRequest,
    },
    stop::Stop,
};

/// Users and their roles and budgets
#[derive(Debug, clap::Subcommand)]
pub(super) enum User {
    /// List users; members see themselves only
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a user, and what the user's workspaces cost per day
    Show {
        /// The user, if not yourself
        #[arg(value_name = "NAME", default_value = "", hide_default_value = true, add = complete::users())]
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Add a user; `outpost token create --user NAME` then makes a token
    Create {
        /// Name of the user
        name: String,
        /// The user's email address
        #[arg(
            long,
            value_name = "ADDRESS",
            default_value = "",
            hide_default_value = true
        )]
        email: String,
        /// The user's full name
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        full_name: String,
        /// Make the user an administrator
        #[arg(long)]
        admin: bool,
        /// Daily budget for the user's workspaces; if missing, no limit
        #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(i32).range(0..))]
        budget: Option<i32>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Change a user's role or budget
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["role", "budget"]))]
    Edit {
        /// Name or id of the user
        #[arg(value_name = "NAME", add = complete::users())]
        name: String,
        /// Role of the user
        #[arg(long)]
        role: Option<Role>,
        /// Daily budget for the user's workspaces: a number, or `none` for no limit
        #[arg(long, value_name = "UNITS", value_parser = budget)]
        budget: Option<i32>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Suspend a user until `outpost user activate`; workspaces stay as they are
    ///
    /// From now on the server refuses the user's tokens and the agents of the user's workspaces, even while these run.
    /// Open connections stay until they end: stop the workspaces to end them.
    Suspend {
        /// Name or id of the user
        #[arg(value_name = "NAME", add = complete::users())]
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Let a suspended user log in again
    Activate {
        /// Name or id of the user
        #[arg(value_name = "NAME", add = complete::users())]
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Delete a user who has no workspaces; the user's tokens are revoked
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id of the user
        #[arg(value_name = "NAME", add = complete::users())]
        name: String,
        #[command(flatten)]
        confirm: Confirm,
        #[command(flatten)]
        remote: Remote,
    },
}

/// Permissions of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Role {
    /// May only manage their own workspaces
    Member,
    /// Also manages templates, keys and users.
    Admin,
}

fn budget(text: &str) -> Result<i32, String> {
    match text {
        "none" => Ok(-1),
        text => text
            .parse()
            .ok()
            .filter(|units| *units >= 0)
            .ok_or_else(|| "expected a number of units, or `none`".to_owned()),
    }
}

#[derive(Serialize)]
struct Shown {
    name: String,
    id: String,
    email: String,
    full_name: String,
    role: &'static str,
    status: &'static str,
    budget: Option<i32>,
    created_at: Option<Timestamp>,
}

impl From<v1::User> for Shown {
    fn from(user: v1::User) -> Self {
        Self {
            name: user.name,
            id: user.id,
            email: user.email,
            full_name: user.full_name,
            role: if user.admin { "admin" } else { "member" },
            status: if user.suspended {
                "suspended"
            } else {
                "active"
            },
            budget: (user.budget >= 0).then_some(user.budget),
            created_at: rows::time(user.created_at),
        }
    }
}

impl Shown {
    fn budget(&self) -> String {
        self.budget
            .map_or_else(|| "no limit".to_owned(), |budget| budget.to_string())
    }
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &[
        "User",
        "Role",
        "Status",
        "Full name",
        "Email",
        "Budget",
        "Age",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.role.to_owned(),
            self.status.to_owned(),
            self.full_name.clone(),
            self.email.clone(),
            self.budget(),
            rows::age(self.created_at),
        ]
    }
}

#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    user: Shown,
    consumed: i32,
}

impl User {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::List { remote } => {
                let listed = remote.connect()?.list_users(ListUsersRequest {}).await?;
                let users = listed.into_inner().users.into_iter().map(Shown::from);
                output.list(&users.collect::<Vec<_>>())?;
            }
            Self::Show { name, remote } => {
                show(&mut remote.connect()?, name, &remote.organization, output).await?;
            }
            Self::Create {
                name,
                email,
                full_name,
                admin,
                budget,
                remote,
            } => {
                let request = CreateUserRequest {
                    name,
                    email,
                    full_name,
                    admin,
                    budget: budget.unwrap_or(-1),
                };
                let user = remote.connect()?.create_user(request).await?.into_inner();
                output.list(&[Shown::from(user)])?;
            }
            Self::Edit {
                name,
                role,
                budget,
                remote,
            } => edit(&mut remote.connect()?, name, role, budget, output).await?,
            Self::Suspend { name, remote } => set_suspended(&remote, name, true, output).await?,
            Self::Activate { name, remote } => set_suspended(&remote, name, false, output).await?,
            Self::Delete {
                name,
                confirm,
                remote,
            } => {
                let question = format!("Delete the user {name} and revoke the user's tokens?");
                confirm.ask(&question, &stop).await?;
                let request = DeleteUserRequest { user: name.clone() };
                remote.connect()?.delete_user(request).await?;
                output::note(&format!("Deleted the user {name}."));
            }
        }
        Ok(())
    }
}

async fn set_suspended(
    remote: &Remote,
    user: String,
    suspended: bool,
    output: Output,
) -> anyhow::Result<()> {
    let request = SetUserSuspendedRequest { user, suspended };
    let changed = remote.connect()?.set_user_suspended(request).await?;
    output.list(&[Shown::from(changed.into_inner())])?;
    Ok(())
}

async fn show(
    api: &mut Api,
    name: String,
    organization: &str,
    output: Output,
) -> anyhow::Result<()> {
    let request = ShowQuotaRequest {
        user: name,
        organization: organization.to_owned(),
    };
    let quota = api.show_quota(request).await?.into_inner();
    let listed = api.list_users(ListUsersRequest {}).await?.into_inner();
    let user = listed.users.into_iter().find(|it| it.name == quota.user);
    let details = Details {
        user: user.unwrap_or_default().into(),
        consumed: quota.consumed,
    };
    output.item(&details, |it| {
        let user = &it.user;
        output::facts(&[
            ("User", user.name.clone()),
            ("Id", user.id.clone()),
            ("Role", user.role.to_owned()),
            ("Status", user.status.to_owned()),
            ("Full name", user.full_name.clone()),
            ("Email", user.email.clone()),
            ("Cost per day", it.consumed.to_string()),
            ("Budget", user.budget()),
        ])
    })?;
    Ok(())
}

async fn edit(
    api: &mut Api,
    user: String,
    role: Option<Role>,
    budget: Option<i32>,
    output: Output,
) -> anyhow::Result<()> {
    let mut changed = None;
    if let Some(role) = role {
        let request = SetUserRoleRequest {
            user: user.clone(),
            admin: role == Role::Admin,
        };
        changed = Some(api.set_user_role(request).await?.into_inner());
    }
    if let Some(budget) = budget {
        let request = SetUserBudgetRequest { user, budget };
        changed = Some(api.set_user_budget(request).await?.into_inner());
    }
    let changed = changed.into_iter().map(Shown::from);
    output.list(&changed.collect::<Vec<_>>())?;
    Ok(())
}
