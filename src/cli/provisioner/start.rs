//! `outpost provisioner start`: from options to a daemon at work.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tracing::{info, warn};
use url::Url;

use super::{
    args::{MetricsArgs, ServerArgs, ServerKind, Start},
    connect, contact,
    credential::{self, Given, Kind},
    health::{Health, HealthPages, SESSIONS},
    sources::{self, Target},
    systemd::Systemd,
};
use crate::{
    cli::{
        engine::own_dir,
        exit::{Hint as _, JobsLeftRunning, UsageError},
        isolation::Guarded,
        scrape,
        server::daemon_config,
        values::Csv,
    },
    daemon::{self, Capacity, Concurrency, metrics::Metrics},
    observe::metrics::Scrapes,
    process::{memory, program_text},
    stop::Stop,
    transport::auth::CredentialSource as _,
};

/// Tag that decides whose jobs a daemon takes.
const SCOPE: &str = "scope";

/// Runs a daemon until `stop` asks it to end, or its jobs are done.
///
/// # Errors
/// If it cannot start, or the server refuses it.
pub(super) async fn exec(args: Start, stop: Stop) -> anyhow::Result<()> {
    let directory = config_directory(&args.server);
    let url = server_url(&args.server, directory.as_deref())?;
    let credentials = credentials_directory();
    let given = Given::choose(&args.server, credentials.as_deref(), directory.as_deref())?;
    let mut tags = tags(&args.tag)?;
    check(&args.server, &given, &tags)?;
    let name = daemon_name(args.name.clone())?;
    let credential = given.credential().map_err(UsageError)?;
    for option in credential::exposed(std::env::args_os()) {
        warn!(
            "the value of `{option}` is visible to every user of this machine: use {option}-file or the environment instead"
        );
    }
    if tags.is_empty() && given.kind != Kind::Key {
        info!("note: untagged provisioners can only pick up jobs from untagged templates");
    }
    let shown = serde_json::to_string(&tags)?;
    if args.server.kind == ServerKind::Coder {
        scope(&mut tags, given.kind);
    }
    let state_dir = state_dir(args.state_dir.as_deref())?;
    let metrics = Arc::new(Metrics::new(args.metrics.labels()));
    info!(tags = shown, name, "starting provisioner daemon");
    let names = sources::names(args.concurrency, &name);
    metrics.set_slots(names.len());
    let target = Target {
        url,
        names,
        tags,
        credentials: Arc::new(given),
    };
    let Some(sources) = sources::all(&args, &target, &credential, &stop).await? else {
        return Ok(());
    };
    let engine = Arc::new(OnceLock::new());
    let names = target.names.iter().cloned().zip(&sources);
    let health = Health {
        metrics: Arc::clone(&metrics),
        scrapes: Scrapes::default(),
        slots: names
            .filter_map(|(name, source)| Some((name, source.connected()?)))
            .collect(),
        engine: Arc::clone(&engine),
        state_dir: state_dir.clone(),
        started: Instant::now(),
        stop: stop.clone(),
    };
    listen(&args.metrics, Arc::new(health)).await?;
    let systemd = Systemd::from_environment().map(Arc::new);
    if let Some(systemd) = systemd.clone() {
        let stop = stop.clone();
        // Detached: ends with `stop`.
        tokio::spawn(async move { systemd.watch(&stop).await });
    }
    let guarded = Guarded {
        jobs: target.names.len(),
        are_foreign: true,
        hidden: hidden(&args.server, credentials, directory, &state_dir),
    };
    let find = async {
        let (work_dir, provider) = (state_dir.join(SESSIONS), args.coder_provider);
        let trust = connect::trust_beside(&args.server);
        let found = args.engine.find(provider, work_dir, guarded, &trust, &stop);
        let found = found.await?;
        // This cannot fail: nobody else sets it.
        let _ = engine.set((found.binary, found.isolation));
        anyhow::Ok((found.provisioner, found.home))
    };
    // The engine's version is determined while the server is dialled.
    let begun = tokio::try_join!(find, contact::first(&sources, &target.url, &stop));
    let (provisioner, home) = match begun {
        Ok((found, ())) => found,
        Err(_) if stop.is_draining() => return Ok(()), // An interruption is not a failure.
        Err(error) => return Err(error),
    };
    if let Some(systemd) = &systemd {
        systemd.ready();
    }
    // Detached: nobody waits for it, and it ends by itself within seconds.
    tokio::task::spawn_blocking(program_text::give_back);
    let config = daemon::Config {
        max_jobs: if args.once { Some(1) } else { args.max_jobs },
        grace_period: args.grace_period.map(Duration::from),
        outage_limit: args.outage_limit,
        force_cancel: args.force_cancel,
        capacity: capacity(args.concurrency),
        metrics,
        secrets: vec![credential.secret().clone()],
        ..daemon_config(state_dir)
    };
    let summary = daemon::run(config, sources, provisioner, stop.clone()).await?;
    match summary.undelivered {
        left @ 1.. => {
            // Their engines may go on without us.
            if let Some(home) = home {
                home.leave();
            }
            match stop.is_killed() {
                true => Err(JobsLeftRunning(left).into()),
                false => Ok(()),
            }
        }
        0 => Ok(()),
    }
}

/// Opens the ports for metrics and health. One for health that cannot be opened is a reason to end.
async fn listen(args: &MetricsArgs, health: Arc<Health>) -> anyhow::Result<()> {
    let pages = |is_for_prometheus| HealthPages {
        health: Arc::clone(&health),
        is_for_prometheus,
    };
    args.prometheus.listen(pages(true)).await;
    if let Some(address) = &args.health_address {
        let failed = || format!("failed to listen at `{address}`");
        let socket = TcpListener::bind((address.host.as_str(), address.port));
        let socket = socket.await.with_context(failed)?;
        let address = socket.local_addr()?.to_string();
        info!(address, "starting health endpoint");
        // Detached: answers until the process ends.
        tokio::spawn(scrape::serve(socket, Arc::new(pages(false))));
    }
    Ok(())
}

/// Directory of everything that must outlive a crash.
///
/// # Errors
/// If none is given and there is no home directory.
pub(in crate::cli) fn state_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => Ok(std::path::absolute(path)?),
        None => own_dir("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state"),
    }
}

/// Directory in which systemd puts the credentials of a unit.
pub(in crate::cli) fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Returns the paths that no job may see.
fn hidden(
    args: &ServerArgs,
    credentials: Option<PathBuf>,
    login: Option<PathBuf>,
    state_dir: &Path,
) -> Vec<PathBuf> {
    let files = [
        &args.psk_file,
        &args.key_file,
        &args.token_file,
        &args.client_tls_key_file,
    ];
    let files = files.into_iter().flatten().cloned();
    let found = [credentials, login.map(|login| login.join("session"))];
    let found = found.into_iter().flatten().filter(|path| path.exists());
    files.chain(found).chain([state_dir.to_owned()]).collect()
}

/// Directory in which `coder login` saves its results.
pub(in crate::cli) fn config_directory(args: &ServerArgs) -> Option<PathBuf> {
    let default = || {
        let base = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::home_dir().map(|home| home.join(".config")));
        base.map(|base| base.join("coderv2"))
    };
    args.global_config.clone().or_else(default)
}

/// Server that the options name, else the one of `coder login`.
///
/// # Errors
/// If there is none.
pub(in crate::cli) fn server_url(
    args: &ServerArgs,
    directory: Option<&Path>,
) -> anyhow::Result<Url> {
    if let Some(url) = &args.url {
        return Ok(url.clone());
    }
    let path = directory.map(|directory| directory.join("url"));
    let Some(path) = path.filter(|path| path.is_file()) else {
        let missing = UsageError("no server is given".to_owned());
        return Err(missing).hint("name one with `--url` or CODER_URL");
    };
    let text = String::from_utf8_lossy(&connect::read(&path)?).into_owned();
    let url = Url::parse(text.trim());
    Ok(url.map_err(|error| UsageError(format!("`{}` has no URL: {error}", path.display())))?)
}

/// Combines the tags of all lists.
///
/// # Errors
/// If one is not `name=value`.
pub(in crate::cli) fn tags(lists: &[Csv]) -> Result<BTreeMap<String, String>, UsageError> {
    Csv::all(lists)
        .map(|text| match text.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(UsageError(format!(
                "invalid tag format for {text:?}. must be key=value"
            ))),
        })
        .collect()
}

fn check(
    args: &ServerArgs,
    given: &Given,
    tags: &BTreeMap<String, String>,
) -> Result<(), UsageError> {
    let text = match given.kind {
        Kind::Psk | Kind::Key if args.org.is_some() => {
            "cannot provide --org value with --psk or --key flags"
        }
        Kind::Key if !tags.is_empty() => "cannot provide tags when using provisioner key",
        Kind::Psk | Kind::Key | Kind::Token => return Ok(()),
    };
    Err(UsageError(text.to_owned()))
}

/// Sets the scope that belongs to a credential, as Coder's daemon does.
fn scope(tags: &mut BTreeMap<String, String>, kind: Kind) {
    match kind {
        Kind::Psk => {
            info!("psk automatically sets tag scope=organization");
            tags.insert(SCOPE.to_owned(), "organization".to_owned());
        }
        Kind::Key => {
            info!("provisioner key auth automatically sets tag scope empty");
            tags.remove(SCOPE);
        }
        Kind::Token => {}
    }
}

fn daemon_name(given: Option<String>) -> Result<String, UsageError> {
    let name = given.unwrap_or_else(host_name);
    let is_good = (2..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    match is_good {
        true => Ok(name),
        false => Err(UsageError(format!(
            "`{name}` cannot be a daemon's name: use 2 to 63 letters, digits and hyphens, with no hyphen at either end"
        ))),
    }
}

/// Returns the first part of the host name in lower case.
fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let name = name.unwrap_or_default().to_lowercase();
    match name.split('.').next() {
        Some(first) if !first.is_empty() => first.to_owned(),
        _ => "localhost".to_owned(),
    }
}

/// Memory that jobs may use together. A single job may use everything, as with Coder's daemon.
fn capacity(concurrency: Concurrency) -> Option<Capacity> {
    let is_single = concurrency == Concurrency::Fixed(1);
    memory::available()
        .filter(|_| !is_single)
        .map(Capacity::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_psk_is_for_the_organization_and_a_key_has_its_own_tags() {
        let given = || BTreeMap::from([(SCOPE.to_owned(), "user".to_owned())]);
        let scoped = |kind| {
            let mut tags = given();
            scope(&mut tags, kind);
            tags.remove(SCOPE)
        };

        assert_eq!(scoped(Kind::Psk).as_deref(), Some("organization"));
        assert_eq!(scoped(Kind::Key), None);
        assert_eq!(scoped(Kind::Token).as_deref(), Some("user"));
    }
}
