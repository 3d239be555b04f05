//! `outpost agent`: the agent of a workspace.

mod git;
mod identity;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use tracing::info;

pub(super) use self::git::{GitAskpass, GitSsh};
pub(super) use self::identity::Identity;
use super::{
    exit::UsageError,
    values::{self, Csv, Ignored},
};
use crate::{
    agent::{self, Blocks},
    observe::{DaemonLog, LogFormat},
    process::{open_files, program_text},
    proto::coder::agent::v2::startup::Subsystem,
    stop::Stop,
};

/// Run the agent of a workspace
///
/// Options and variables are those of `coder agent`, so that bootstrap scripts and images keep working.
#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    #[command(flatten)]
    identity: Identity,
    /// Directory for the logs of scripts
    #[arg(
        long,
        value_name = "DIR",
        env = "CODER_AGENT_LOG_DIR",
        default_value_os_t = std::env::temp_dir()
    )]
    log_dir: PathBuf,
    /// Directory for files of scripts
    #[arg(
        long,
        value_name = "DIR",
        env = "CODER_AGENT_SCRIPT_DATA_DIR",
        default_value_os_t = std::env::temp_dir()
    )]
    script_data_dir: PathBuf,
    /// Time after which a session whose client is silent ends; 0 for never
    #[arg(
        long,
        value_name = "DURATION",
        env = "CODER_AGENT_SSH_MAX_TIMEOUT",
        default_value = "72h"
    )]
    ssh_max_timeout: humantime::Duration,
    /// Refuse file transfers in both directions
    #[arg(
        long,
        env = "CODER_AGENT_BLOCK_FILE_TRANSFER",
        value_parser = values::boolean,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true"
    )]
    block_file_transfer: bool,
    /// Refuse local port forwarding (`ssh -L`)
    #[arg(
        long,
        env = "CODER_AGENT_BLOCK_LOCAL_PORT_FORWARDING",
        value_parser = values::boolean,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true"
    )]
    block_local_port_forwarding: bool,
    /// Refuse remote port forwarding (`ssh -R`)
    #[arg(
        long,
        env = "CODER_AGENT_BLOCK_REVERSE_PORT_FORWARDING",
        value_parser = values::boolean,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true"
    )]
    block_reverse_port_forwarding: bool,
    /// Subsystems that the agent runs in, as CSV: envbox, envbuilder, exectrace
    #[arg(long = "subsystem", value_name = "NAME", env = "CODER_AGENT_SUBSYSTEM")]
    subsystems: Vec<Csv>,
    /// Contact only the server and the relays that it names: no STUN, no direct connections
    #[arg(long, env = "OUTPOST_SEALED")]
    sealed: bool,
    /// Serve a Unix socket for `coder exp sync` and other programs in the workspace
    #[arg(
        long,
        env = "CODER_AGENT_SOCKET_SERVER_ENABLED",
        value_parser = values::boolean,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true"
    )]
    socket_server_enabled: bool,
    /// Path of that socket; if another agent uses it, this one picks its own path and tells its scripts
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_AGENT_SOCKET_PATH",
        default_value = agent::socket::DEFAULT_PATH
    )]
    socket_path: PathBuf,
    /// Do not reap orphaned processes, even as the first process
    #[arg(long, env = "CODER_AGENT_NO_REAP")]
    no_reap: bool,
    /// File for the log in human-readable form
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_AGENT_LOGGING_HUMAN",
        default_value = "/dev/stderr"
    )]
    log_human: String,
    /// File for the log as JSON
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_AGENT_LOGGING_JSON",
        default_value = "",
        hide_default_value = true
    )]
    log_json: String,
    /// File for the log in Stackdriver's format
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_AGENT_LOGGING_STACKDRIVER",
        default_value = "",
        hide_default_value = true
    )]
    log_stackdriver: String,
    #[command(flatten)]
    ignored: IgnoredArgs,
}

/// Options of Coder's agent that have no effect here: this agent opens no port on its machine and does not manage containers.
#[derive(Debug, clap::Args)]
struct IgnoredArgs {
    #[arg(long, hide = true, env = "CODER_AGENT_TAILNET_LISTEN_PORT")]
    tailnet_listen_port: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_AGENT_PROMETHEUS_ADDRESS")]
    prometheus_address: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_AGENT_DEBUG_ADDRESS")]
    debug_address: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_AGENT_PPROF_ADDRESS")]
    pprof_address: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_AGENT_DEVCONTAINERS_ENABLE", num_args = 0..=1, default_missing_value = "true")]
    devcontainers_enable: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_AGENT_DEVCONTAINERS_PROJECT_DISCOVERY_ENABLE", num_args = 0..=1, default_missing_value = "true")]
    devcontainers_project_discovery_enable: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_AGENT_DEVCONTAINERS_DISCOVERY_AUTOSTART_ENABLE", num_args = 0..=1, default_missing_value = "true")]
    devcontainers_discovery_autostart_enable: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_AGENT_BOUNDARY_LOG_PROXY_SOCKET_PATH")]
    boundary_log_proxy_socket_path: Option<Ignored>,
}

impl Agent {
    /// Returns whether a child of ours should be the agent, because nobody else would reap orphans.
    pub(super) fn wants_reaper(&self) -> bool {
        !self.no_reap && agent::reaper::is_needed()
    }

    /// Returns where the agent logs, if the program's own options do not decide that.
    pub(super) fn log(&self, filter: &str, format: LogFormat) -> DaemonLog {
        let (mut human, mut json) = (self.log_human.clone(), self.log_json.clone());
        if format == LogFormat::Json && json.is_empty() {
            json = std::mem::take(&mut human);
        }
        DaemonLog {
            filter: filter.to_owned(),
            debug_filters: Vec::new(),
            human,
            json,
            stackdriver: self.log_stackdriver.clone(),
        }
    }

    /// Options that were given and have no effect here.
    fn without_effect(&self) -> Vec<&'static str> {
        let all = &self.ignored;
        let given = [
            ("tailnet-listen-port", all.tailnet_listen_port),
            ("prometheus-address", all.prometheus_address),
            ("debug-address", all.debug_address),
            ("pprof-address", all.pprof_address),
            ("devcontainers-enable", all.devcontainers_enable),
            (
                "devcontainers-project-discovery-enable",
                all.devcontainers_project_discovery_enable,
            ),
            (
                "devcontainers-discovery-autostart-enable",
                all.devcontainers_discovery_autostart_enable,
            ),
            (
                "boundary-log-proxy-socket-path",
                all.boundary_log_proxy_socket_path,
            ),
        ];
        let given = given.into_iter().filter(|(_, value)| value.is_some());
        given.map(|(name, _)| name).collect()
    }

    pub(super) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        // Each session of a person has pipes to its command, and large buffers.
        open_files::raise();
        program_text::map_large();
        let (http, credential) = (self.identity.http()?, self.identity.credential()?);
        let without = self.without_effect();
        if !without.is_empty() {
            info!(
                options = without.join(", "),
                "these options are accepted but have no effect"
            );
        }
        let subsystems = Csv::all(&self.subsystems);
        let subsystems = subsystems.map(|name| match name {
            "envbox" => Ok(Subsystem::Envbox),
            "envbuilder" => Ok(Subsystem::Envbuilder),
            "exectrace" => Ok(Subsystem::Exectrace),
            other => Err(UsageError(format!(
                "`--subsystem`: `{other}` is not a subsystem"
            ))),
        });
        let config = agent::Config {
            http,
            credential,
            program: std::env::current_exe().context("failed to find this program")?,
            script_data_dir: self.script_data_dir,
            log_dir: self.log_dir,
            blocks: Blocks {
                file_transfer: self.block_file_transfer,
                local_forwarding: self.block_local_port_forwarding,
                reverse_forwarding: self.block_reverse_port_forwarding,
            },
            is_sealed: self.sealed,
            ssh_max_timeout: Some(*self.ssh_max_timeout)
                .filter(|limit: &Duration| !limit.is_zero()),
            subsystems: subsystems.collect::<Result<_, _>>()?,
            socket: Some(self.socket_path).filter(|_| self.socket_server_enabled),
        };
        agent::run(config, stop).await;
        Ok(())
    }
}
