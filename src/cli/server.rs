//! `outpost server`: the control plane, with backups and restores.

mod metrics;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use url::Url;

use super::{
    engine::{CoderProvider, EngineArgs, own_dir},
    exit::UsageError,
    isolation::Guarded,
    output::{self, Output},
    psk::Accepted,
    remote::EngineTrust,
    scrape::PrometheusArgs,
    values::{self, Csv, ListenAddress},
};
use crate::{
    control::{self, Registration, StateKey, Storage, backup},
    daemon,
    net::{listener::Tls, network::Network},
    provision::JobSource,
    rules,
    stop::Stop,
};

/// Run a control plane for a laptop, a lab or a small site
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Server {
    #[command(subcommand)]
    command: Option<Maintenance>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, clap::Subcommand)]
enum Maintenance {
    /// Back up a server, which may be running, into one new file
    ///
    /// The file contains the key that secrets are encrypted with: protect it like the data itself.
    Backup {
        /// The file; if missing, a name with the time in the data directory's `backups`
        #[arg(value_name = "FILE")]
        target: Option<PathBuf>,
        /// The server's data directory
        #[arg(long, value_name = "DIR", env = "OUTPOST_DATA_DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Restore a backup into a new data directory
    Restore {
        /// Path of the backup
        #[arg(value_name = "FILE")]
        backup: PathBuf,
        /// Data directory to create
        #[arg(long, value_name = "DIR", env = "OUTPOST_DATA_DIR")]
        data_dir: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Data directory [default: $STATE_DIRECTORY or ~/.local/state/outpost]
    #[arg(long, value_name = "DIR", env = "OUTPOST_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on; `:7080` listens on all interfaces
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "OUTPOST_LISTEN",
        default_value = "127.0.0.1:7080"
    )]
    listen: ListenAddress,
    /// PEM file of the certificate and its chain; without it the server speaks plain HTTP
    #[arg(long, value_name = "FILE", env = "OUTPOST_TLS_CERT_FILE")]
    tls_cert_file: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, value_name = "FILE", env = "OUTPOST_TLS_KEY_FILE")]
    tls_key_file: Option<PathBuf>,
    /// URL at which agents reach the server [default: that of the listener, with this machine's address if it listens on all interfaces]
    #[arg(long, value_name = "URL", env = "OUTPOST_ACCESS_URL")]
    access_url: Option<Url>,
    /// Address or network of a reverse proxy in front of the server, such as 10.0.0.0/8, whose X-Forwarded-For is trusted
    #[arg(
        long,
        value_name = "NETWORK",
        value_delimiter = ',',
        env = "OUTPOST_TRUSTED_PROXIES"
    )]
    trusted_proxies: Vec<Network>,
    /// Directory with agent binaries for other platforms, such as `coder-linux-arm64`
    #[arg(long, value_name = "DIR", env = "OUTPOST_AGENT_BINARIES")]
    agent_binaries: Option<PathBuf>,
    #[command(flatten)]
    psks: Accepted,
    /// File with the key that secrets are encrypted with [default: the credential `outpost-state-key` of systemd, or a file in the data directory]
    #[arg(long, value_name = "FILE", env = "OUTPOST_STATE_KEY_FILE")]
    state_key_file: Option<PathBuf>,
    /// Time without an update from its daemon after which a running job counts as lost
    #[arg(
        long,
        value_name = "DURATION",
        env = "OUTPOST_JOB_LEASE",
        default_value = "5m"
    )]
    job_lease: humantime::Duration,
    /// Longest time that a job may wait for a daemon
    #[arg(
        long,
        value_name = "DURATION",
        env = "OUTPOST_JOB_PENDING",
        default_value = "30m"
    )]
    job_pending: humantime::Duration,
    #[command(flatten)]
    outside: Outside,
    /// Number of daemons to run in this process; their templates run as the user that owns the server's data
    #[arg(
        long,
        value_name = "COUNT",
        env = "OUTPOST_PROVISIONERS",
        default_value_t = 0,
        help_heading = "Daemons in this process"
    )]
    provisioners: usize,
    /// Source of these daemons' `coder` provider
    #[arg(
        long,
        value_name = "SOURCE",
        env = "OUTPOST_CODER_PROVIDER",
        default_value = "registry",
        help_heading = "Daemons in this process"
    )]
    coder_provider: CoderProvider,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    trust: EngineTrust,
    #[command(flatten, next_help_heading = "Metrics")]
    prometheus: PrometheusArgs,
}

/// Coder's settings for a server's outbound connections. This server makes none; a setting that expects one is reported at start.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Outbound connections")]
struct Outside {
    /// Accepted for compatibility with Coder's server; this one never sends telemetry
    #[arg(long, env = "CODER_TELEMETRY_ENABLE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = values::boolean)]
    telemetry: Option<bool>,
    /// Accepted for compatibility with Coder's server; this one never checks for newer versions
    #[arg(long, env = "CODER_UPDATE_CHECK", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = values::boolean)]
    update_check: Option<bool>,
    /// STUN servers for agents and their clients, as CSV of HOST:PORT; `disable` for none, which is the default
    #[arg(long, value_name = "ADDRESS", env = "CODER_DERP_SERVER_STUN_ADDRESSES")]
    derp_server_stun_addresses: Vec<Csv>,
    /// Forbid direct connections to agents
    #[arg(long, env = "CODER_BLOCK_DIRECT", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = values::boolean)]
    block_direct_connections: Option<bool>,
}

impl Outside {
    /// Returns messages about requested features that this server does not have.
    fn refusals(&self) -> Vec<&'static str> {
        let asked = [
            (
                self.telemetry == Some(true),
                "CODER_TELEMETRY_ENABLE has no effect: this server sends no telemetry",
            ),
            (
                self.update_check == Some(true),
                "CODER_UPDATE_CHECK has no effect: this server does not check for newer versions",
            ),
        ];
        let asked = asked.into_iter().filter(|(is_asked, _)| *is_asked);
        asked.map(|(_, text)| text).collect()
    }

    /// Returns the paths that agents and their clients may use besides the relay.
    fn direct_paths(&self) -> anyhow::Result<control::DirectPaths> {
        let addresses = Csv::all(&self.derp_server_stun_addresses);
        let addresses = addresses.filter(|it| !it.is_empty() && *it != "disable");
        Ok(control::DirectPaths {
            are_blocked: self.block_direct_connections == Some(true),
            stun_servers: addresses.map(stun_server).collect::<Result<_, _>>()?,
        })
    }
}

/// Splits the address of a STUN server into its host and its port.
fn stun_server(address: &str) -> anyhow::Result<(String, u16)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = Some(host).filter(|it| !it.is_empty())?;
        Some((host.to_owned(), port.parse().ok()?))
    });
    parts.with_context(|| {
        format!("STUN address `{address}` (--derp-server-stun-addresses) is not HOST:PORT")
    })
}

#[derive(Serialize)]
struct Copied {
    file: PathBuf,
    data_dir: PathBuf,
}

impl Server {
    /// Returns whether the command runs until it is stopped.
    pub(super) fn is_service(&self) -> bool {
        self.command.is_none()
    }

    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self.command {
            None => self.run.exec(stop).await,
            Some(Maintenance::Backup { target, data_dir }) => {
                let data_dir = data_dir_or_default(data_dir)?;
                let file = target.unwrap_or_else(|| {
                    backup::next_path(&data_dir.join("backups"), jiff::Timestamp::now())
                });
                backup::create(&data_dir, &file).await?;
                output.item(&Copied { file, data_dir }, |it| {
                    format!("wrote {}", it.file.display())
                })?;
                Ok(())
            }
            Some(Maintenance::Restore {
                backup: file,
                data_dir,
            }) => {
                let data_dir = data_dir_or_default(data_dir)?;
                backup::restore(&file, &data_dir).await?;
                output.item(&Copied { file, data_dir }, |it| {
                    format!("restored into {}", it.data_dir.display())
                })?;
                Ok(())
            }
        }
    }
}

/// Data directory of the server, by default below the directory that systemd gives or in the home directory.
fn data_dir_or_default(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => Ok(std::path::absolute(path)?),
        None => own_dir("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state"),
    }
}

impl Run {
    async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let directory = data_dir_or_default(self.data_dir.clone())?;
        for refusal in self.outside.refusals() {
            output::note(&format!("warning: {refusal}"));
        }
        let provisioner = match self.provisioners {
            0 => None,
            jobs => {
                let files = [
                    &self.tls_key_file,
                    &self.psks.psk_file,
                    &self.state_key_file,
                ];
                let hidden = files.into_iter().flatten().chain([&directory]);
                let guarded = Guarded {
                    jobs,
                    are_foreign: true,
                    hidden: hidden.cloned().collect(),
                };
                let sessions = directory.join("sessions");
                let trust = self.trust.trust();
                let engine = &self.engine;
                let found = engine.find(self.coder_provider, sessions, guarded, &trust, &stop);
                Some(found.await?)
            }
        };
        // Daemons end first, so the server goes on until they have reported how their jobs ended.
        let server_stop = stop.cleanup();
        let server = control::start(self.config(directory.clone())?, server_stop).await?;
        output::note(&format!(
            "Listening at {0}. Log in with: outpost login {0} --token-file {1}",
            server.url(),
            directory.join("admin.token").display()
        ));
        if server.access_url() != server.url() && self.access_url.is_none() {
            output::note(&format!(
                "Agents connect to {}; change that with `--access-url`.",
                server.access_url()
            ));
        }
        let config = daemon_config(directory.join("states"));
        let pages = metrics::Scraped {
            server: server.metrics(),
            daemons: provisioner.is_some().then(|| config.metrics.clone()),
        };
        if let Some(address) = self.prometheus.listen(pages).await {
            output::note(&format!("Metrics at http://{address}/metrics."));
        }
        match provisioner {
            None => stop.draining().await,
            Some(found) => {
                let mut sources: Vec<Arc<dyn JobSource>> = Vec::new();
                for number in 1..=self.provisioners {
                    sources.push(Arc::new(server.local_source(registration(number)).await?));
                }
                let summary = daemon::run(config, sources, found.provisioner, stop).await?;
                // Engines of jobs that are left may go on without us.
                if let Some(home) = found.home.filter(|_| summary.undelivered > 0) {
                    home.leave();
                }
            }
        }
        server.shutdown().await;
        Ok(())
    }

    fn config(&self, directory: PathBuf) -> anyhow::Result<control::Config> {
        let tls = tls_files(self.tls_cert_file.clone(), self.tls_key_file.clone())?;
        let state_key = match &self.state_key_file {
            Some(path) => StateKey::Given(path.clone()),
            None => StateKey::find(
                std::env::var_os("CREDENTIALS_DIRECTORY")
                    .map(PathBuf::from)
                    .as_deref(),
            ),
        };
        let listen = &self.listen;
        let listen = listen
            .resolve()
            .with_context(|| format!("failed to resolve the listen address `{listen}`"))?;
        Ok(control::Config {
            storage: Storage::Directory(directory),
            state_key,
            listen,
            tls,
            access_url: self.access_url.clone(),
            agent_binaries: self.agent_binaries.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
            psks: self.psks.psk.clone(),
            psk_file: self.psks.psk_file.clone(),
            direct_paths: self.outside.direct_paths()?,
            limits: control::Limits {
                lease: Duration::from(self.job_lease),
                pending: Duration::from(self.job_pending),
                ..control::Limits::standard()
            },
            version: rules::VERSION.to_owned(),
        })
    }
}

/// Returns the files that a server needs for TLS; `None` if none is given.
///
/// # Errors
/// If only one of the files is given.
pub(super) fn tls_files(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<Tls>, UsageError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(Tls { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(UsageError(
            "`--tls-cert-file` needs `--tls-key-file`".into(),
        )),
        (None, Some(_)) => Err(UsageError(
            "`--tls-key-file` needs `--tls-cert-file`".into(),
        )),
    }
}

fn registration(number: usize) -> Registration {
    Registration {
        name: format!("server-{number}"),
        tags: std::collections::BTreeMap::new(),
        provisioners: vec!["terraform".to_owned()],
        version: rules::VERSION.to_owned(),
        ..Registration::default()
    }
}

/// Configuration of the daemons that run in the server's process.
pub(super) fn daemon_config(state_dir: PathBuf) -> daemon::Config {
    daemon::Config {
        heartbeat: Duration::from_secs(1),
        outage_limit: Duration::from_secs(4 * 60),
        force_cancel: Duration::from_secs(10 * 60),
        grace_period: None,
        max_jobs: None,
        capacity: None,
        state_dir,
        logs: daemon::LogRetention::standard(),
        secrets: Vec::new(),
        journal_key: std::env::var_os("CREDENTIALS_DIRECTORY")
            .map(|directory| PathBuf::from(directory).join("outpost-journal-key"))
            .filter(|path| path.exists()),
        metrics: Arc::default(),
    }
}
