//! Names that exist at the server, for completion in a shell.
//!
//! The shell runs this program again, with `OUTPOST_COMPLETE` in the environment, whenever somebody presses the tab
//! key. It asks the server of the current login, and offers nothing if that does not answer soon.

use std::{ffi::OsStr, time::Duration};

use clap::Parser as _;
use clap_complete::{
    ArgValueCompleter, CompletionCandidate,
    env::{CompleteEnv, Shells},
};
use tonic::Status;

use super::{output, remote::Remote};
use crate::{
    client::Api,
    config::contexts::Contexts,
    proto::outpost::v1::{
        ListDaemonsRequest, ListJobsRequest, ListOrganizationsRequest, ListProvisionerKeysRequest,
        ListTemplatesRequest, ListTokensRequest, ListUsersRequest, ListWorkspacesRequest,
        WhoAmIRequest,
    },
};

/// Longest wait of a person who presses the completion key.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Number of jobs that are offered.
const JOBS: i32 = 50;
/// Environment variable through which a shell asks for completions.
const VARIABLE: &str = "OUTPOST_COMPLETE";

/// A name, with its description.
type Found = (String, String);

/// Answers if a shell asks for completions, and returns whether one did.
pub(super) fn answer(root: impl Fn() -> clap::Command) -> Result<bool, clap::Error> {
    let directory = std::env::current_dir().ok();
    let arguments = std::env::args_os();
    CompleteEnv::with_factory(root)
        .var(VARIABLE)
        .bin("outpost")
        .completer("outpost")
        .try_complete(arguments, directory.as_deref())
}

/// Prints the script with which a shell asks.
///
/// # Errors
/// If stdout fails.
pub(super) fn register(shell: &str) -> anyhow::Result<()> {
    let shells = Shells::builtins();
    let shell = shells
        .completer(shell)
        .ok_or_else(|| anyhow::anyhow!("unknown shell `{shell}`"))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "outpost", "outpost", "outpost", &mut script)?;
    output::line(String::from_utf8(script)?.trim_end())?;
    Ok(())
}

/// A command line with nothing but options of [`Remote`], so that the environment and the defaults count.
#[derive(clap::Parser)]
struct Nothing {
    #[command(flatten)]
    remote: Remote,
}

/// Returns what `find` finds at the server; empty if the server cannot be asked.
fn ask(find: impl AsyncFnOnce(&mut Api, String) -> Result<Vec<Found>, Status>) -> Vec<Found> {
    let asked = || -> anyhow::Result<Vec<Found>> {
        let remote = Nothing::try_parse_from(["outpost"])?.remote;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut api = remote.connect()?;
            let asked = find(&mut api, remote.organization.clone());
            anyhow::Ok(tokio::time::timeout(TIMEOUT, asked).await??)
        })
    };
    asked().unwrap_or_default()
}

fn candidates(current: &OsStr, found: Vec<Found>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let matching = found
        .into_iter()
        .filter(|(name, _)| name.starts_with(&*current));
    let candidate = |(name, help): Found| {
        let help = (!help.is_empty()).then(|| help.into());
        CompletionCandidate::new(name).help(help)
    };
    matching.map(candidate).collect()
}

/// Completes workspaces: one's own by name, those of others as `owner/name`.
pub(super) fn workspaces() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, organization| {
            let me = api.who_am_i(WhoAmIRequest {}).await?.into_inner().name;
            let request = ListWorkspacesRequest {
                organization,
                ..ListWorkspacesRequest::default()
            };
            let listed = api.list_workspaces(request).await?.into_inner();
            let named = listed.workspaces.into_iter().map(|it| {
                let name = match it.owner == me {
                    true => it.name,
                    false => format!("{}/{}", it.owner, it.name),
                };
                (name, it.template)
            });
            Ok(named.collect())
        });
        candidates(current, found)
    })
}

pub(super) fn templates() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, organization| {
            let request = ListTemplatesRequest { organization };
            let listed = api.list_templates(request).await?.into_inner();
            let named = listed.templates.into_iter();
            Ok(named.map(|it| (it.name, it.active_version)).collect())
        });
        candidates(current, found)
    })
}

/// Completes jobs, by prefixes of their ids.
pub(super) fn jobs() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, organization| {
            let request = ListJobsRequest {
                organization,
                statuses: Vec::new(),
                limit: JOBS,
            };
            let listed = api.list_jobs(request).await?.into_inner();
            let named = listed.jobs.into_iter().map(|it| {
                let help = format!("{} {}", it.status, it.subject);
                (super::rows::short(&it.id), help)
            });
            Ok(named.collect())
        });
        candidates(current, found)
    })
}

pub(super) fn users() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, _| {
            let listed = api.list_users(ListUsersRequest {}).await?.into_inner();
            let named = listed.users.into_iter();
            Ok(named.map(|it| (it.name, it.full_name)).collect())
        });
        candidates(current, found)
    })
}

/// Completes the tokens of the current user.
pub(super) fn tokens() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, _| {
            let request = ListTokensRequest::default();
            let listed = api.list_tokens(request).await?.into_inner();
            let named = listed.tokens.into_iter();
            Ok(named
                .map(|it| (it.name, super::rows::short(&it.id)))
                .collect())
        });
        candidates(current, found)
    })
}

pub(super) fn organizations() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, _| {
            let request = ListOrganizationsRequest {};
            let listed = api.list_organizations(request).await?.into_inner();
            let named = listed.organizations.into_iter();
            Ok(named.map(|it| (it.name, String::new())).collect())
        });
        candidates(current, found)
    })
}

pub(super) fn daemons() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, organization| {
            let request = ListDaemonsRequest { organization };
            let listed = api.list_daemons(request).await?.into_inner();
            let named = listed.daemons.into_iter();
            Ok(named.map(|it| (it.name, it.status)).collect())
        });
        candidates(current, found)
    })
}

pub(super) fn keys() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let found = ask(async |api, organization| {
            let request = ListProvisionerKeysRequest { organization };
            let listed = api.list_provisioner_keys(request).await?.into_inner();
            let named = listed.keys.into_iter();
            Ok(named.map(|it| (it.name, String::new())).collect())
        });
        candidates(current, found)
    })
}

/// Completes the names of saved logins.
pub(super) fn contexts() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let names = Contexts::of_user().and_then(|contexts| contexts.names());
        let names = names.unwrap_or_default().into_iter();
        candidates(current, names.map(|name| (name, String::new())).collect())
    })
}
