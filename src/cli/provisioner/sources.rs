//! Daemons of a process, as their server sees them.

use std::{collections::BTreeMap, num::NonZero, sync::Arc};

use anyhow::Context as _;
use url::Url;

use super::{
    account,
    args::{ServerArgs, ServerKind, Start},
    connect,
    credential::Given,
};
use crate::{
    cli::exit::UsageError,
    daemon::{Concurrency, slot_name},
    process::memory,
    provision::JobSource,
    stop::Stop,
    transport::{
        auth::{Credential, CredentialSource},
        coder::{self, CoderSource},
        grpc::{self, GrpcSource},
    },
};

/// Server to connect to, with the credential.
pub(super) struct Target {
    pub(super) url: Url,
    /// Names of the daemons, one for each.
    pub(super) names: Vec<String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) credentials: Arc<Given>,
}

/// Returns one name for each concurrent job, because the ownership of a job depends on the name.
pub(super) fn names(concurrency: Concurrency, name: &str) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let slots = concurrency.slots(memory::available().unwrap_or_default(), cores);
    (0..slots).map(|slot| slot_name(name, slot)).collect()
}

/// Creates one daemon for each name. `None` if `stop` came before the server had said which organization they are
/// for.
///
/// # Errors
/// If an option cannot be used, or the server does not know the user.
pub(super) async fn all(
    args: &Start,
    target: &Target,
    credential: &Credential,
    stop: &Stop,
) -> anyhow::Result<Option<Vec<Arc<dyn JobSource>>>> {
    match args.server.kind {
        ServerKind::Outpost => ours(args, target).map(Some),
        ServerKind::Coder => coders(args, target, credential, stop).await,
    }
}

fn ours(args: &Start, target: &Target) -> anyhow::Result<Vec<Arc<dyn JobSource>>> {
    refuse_coders_options(&args.server)?;
    let trust = connect::trust(&args.server);
    let source = |name| -> Arc<dyn JobSource> {
        let one = grpc::Target {
            url: target.url.clone(),
            name,
            tags: target.tags.clone(),
            trust: trust.clone(),
        };
        Arc::new(GrpcSource::new(one, credentials(target)))
    };
    Ok(target.names.iter().cloned().map(source).collect())
}

/// Refuses options of Coder's that would have no effect.
fn refuse_coders_options(args: &ServerArgs) -> Result<(), UsageError> {
    let given = [
        ("--header", !args.header.is_empty()),
        ("--header-command", args.header_command.is_some()),
        ("--client-tls-ca-file", args.client_tls_ca_file.is_some()),
        (
            "--client-tls-cert-file",
            args.client_tls_cert_file.is_some(),
        ),
        ("--org", args.org.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(UsageError(format!("`{option}` needs `--server coder`"))),
        None => Ok(()),
    }
}

async fn coders(
    args: &Start,
    target: &Target,
    credential: &Credential,
    stop: &Stop,
) -> anyhow::Result<Option<Vec<Arc<dyn JobSource>>>> {
    let client = connect::client(&args.server, &target.url)?;
    // A broken command is reported once, now, and not at every dial.
    client.headers().await.context("`--header-command`")?;
    let organization = match credential {
        Credential::SessionToken(token) => {
            let named = args.server.org.as_deref();
            let found = account::organization(&client, token, named, stop).await?;
            let Some(found) = found else { return Ok(None) };
            Some(found)
        }
        Credential::Psk(_) | Credential::Key(_) => None,
    };
    let source = |name| -> Arc<dyn JobSource> {
        let one = coder::Target {
            organization: organization.clone(),
            name,
            tags: target.tags.clone(),
        };
        Arc::new(CoderSource::new(client.clone(), one, credentials(target)))
    };
    let names = target.names.iter().cloned();
    Ok(Some(names.map(source).collect()))
}

fn credentials(target: &Target) -> Arc<dyn CredentialSource> {
    target.credentials.clone()
}
