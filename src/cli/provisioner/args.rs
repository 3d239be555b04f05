//! The options of `provisioner start`: Coder's under their names and variables, and ours.

use std::{path::PathBuf, time::Duration};

use url::Url;

use crate::{
    cli::{
        engine::{CoderProvider, EngineArgs},
        remote::Revoked,
        scrape::PrometheusArgs,
        values::{self, Csv, Ignored, ListenAddress},
    },
    daemon::{Concurrency, metrics::Labels},
    secret::Secret,
};

/// Exit codes of a daemon: Coder's, and two of our own.
pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 stopped by a signal or after its jobs, 1 failed or called wrongly, 3 ended with jobs \
left to the next daemon with this name, 77 the server refused this daemon.

Signals: SIGTERM and SIGHUP let running jobs finish, SIGINT cancels them. SIGQUIT or a second signal cancels \
them and waits a minute at most (or --force-cancel, if that is shorter): an apply that takes longer is never killed \
but continues in the background, and the next daemon with this name, or another one with the same state directory, \
finishes the job and reports the result to the server.

Credentials are read again for each connection: from a file, or from the systemd credentials `outpost-psk`, \
`outpost-key` and `outpost-token`. Variables named CODER_… are also read with the prefix HOMEBREW_.";

/// Take jobs from a server and run them with Terraform
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Start {
    #[command(flatten)]
    pub(in crate::cli) server: ServerArgs,
    /// Name of this daemon; if missing, the first label of the host name
    #[arg(long, value_name = "NAME", env = "CODER_PROVISIONER_DAEMON_NAME")]
    pub(in crate::cli) name: Option<String>,
    /// Tags of the jobs to take, as CSV; repeatable
    #[arg(
        long = "tag",
        short,
        value_name = "NAME=VALUE",
        env = "CODER_PROVISIONERD_TAGS"
    )]
    pub(in crate::cli) tag: Vec<Csv>,
    /// State directory: the journal of undelivered states, logs and sessions [default: $STATE_DIRECTORY or ~/.local/state/outpost]
    #[arg(long, value_name = "DIR", env = "OUTPOST_STATE_DIR")]
    pub(in crate::cli) state_dir: Option<PathBuf>,
    /// Number of jobs to run at a time, each as a daemon with its own name; `auto` for as many as memory and cores allow
    #[arg(
        long,
        alias = "jobs",
        value_name = "COUNT",
        env = "OUTPOST_CONCURRENCY",
        default_value_t = Concurrency::Fixed(1)
    )]
    pub(in crate::cli) concurrency: Concurrency,
    /// Exit after this many jobs
    #[arg(
        long,
        value_name = "COUNT",
        env = "OUTPOST_MAX_JOBS",
        conflicts_with = "once"
    )]
    pub(in crate::cli) max_jobs: Option<usize>,
    /// Exit after one job
    #[arg(long, env = "OUTPOST_ONCE", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = values::boolean)]
    pub(in crate::cli) once: bool,
    /// Time running jobs have to finish after SIGTERM before they are cancelled [default: no limit]
    #[arg(long, value_name = "DURATION", env = "OUTPOST_GRACE_PERIOD")]
    pub(in crate::cli) grace_period: Option<humantime::Duration>,
    /// Time that the server may be unreachable before jobs are cancelled and their states kept; must be shorter than the time after which the server gives up on a job
    #[arg(long, value_name = "DURATION", env = "OUTPOST_OUTAGE_LIMIT", default_value = "4m", hide_short_help = true, value_parser = values::limit::<2>)]
    pub(in crate::cli) outage_limit: Duration,
    /// Time a cancelled job has to end before its processes are killed
    #[arg(long, value_name = "DURATION", env = "OUTPOST_FORCE_CANCEL", default_value = "10m", hide_short_help = true, value_parser = values::limit::<1>)]
    pub(in crate::cli) force_cancel: Duration,
    /// Source of the `coder` provider
    #[arg(
        long,
        value_name = "SOURCE",
        env = "OUTPOST_CODER_PROVIDER",
        default_value = "registry"
    )]
    pub(in crate::cli) coder_provider: CoderProvider,
    /// Print every option with its value, and exit
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = values::boolean, hide = true)]
    pub(in crate::cli) debug_options: bool,
    #[command(flatten)]
    pub(in crate::cli) engine: EngineArgs,
    #[command(flatten)]
    pub(in crate::cli) logging: LogArgs,
    #[command(flatten)]
    pub(in crate::cli) metrics: MetricsArgs,
    #[command(flatten)]
    _ignored: IgnoredArgs,
}

/// Server of the daemon, and the daemon's credential.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub(in crate::cli) struct ServerArgs {
    /// URL of the server [default: the file `url` in --global-config]
    #[arg(long, value_name = "URL", env = "CODER_URL")]
    pub(in crate::cli) url: Option<Url>,
    /// Protocol of the server
    #[arg(
        long = "server",
        value_name = "KIND",
        env = "OUTPOST_SERVER_KIND",
        default_value = "coder"
    )]
    pub(in crate::cli) kind: ServerKind,
    /// Pre-shared key; prefer a file or the environment, because other users can read the command line
    #[arg(
        long,
        value_name = "KEY",
        env = "CODER_PROVISIONER_DAEMON_PSK",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(in crate::cli) psk: Option<Secret>,
    /// File that holds the pre-shared key; read again for each connection
    #[arg(long, value_name = "FILE", env = "OUTPOST_PROVISIONER_PSK_FILE")]
    pub(in crate::cli) psk_file: Option<PathBuf>,
    /// Provisioner key; prefer a file or the environment
    #[arg(
        long,
        value_name = "KEY",
        env = "CODER_PROVISIONER_DAEMON_KEY",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(in crate::cli) key: Option<Secret>,
    /// File that holds the provisioner key; read again for each connection
    #[arg(long, value_name = "FILE", env = "OUTPOST_PROVISIONER_KEY_FILE")]
    pub(in crate::cli) key_file: Option<PathBuf>,
    /// API token of a user; ignored if one of the others is given [default: the file `session` in --global-config]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "CODER_SESSION_TOKEN",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(in crate::cli) token: Option<Secret>,
    /// File that holds the token; read again for each connection
    #[arg(long, value_name = "FILE", env = "OUTPOST_PROVISIONER_TOKEN_FILE")]
    pub(in crate::cli) token_file: Option<PathBuf>,
    /// ID or name of the organization, for a user with more than one
    #[arg(long, short = 'O', value_name = "ORG", env = "CODER_ORGANIZATION")]
    pub(in crate::cli) org: Option<String>,
    /// Directory with the files `url` and `session` of `coder login`
    #[arg(
        long,
        value_name = "DIR",
        env = "CODER_CONFIG_DIR",
        help_heading = "Server"
    )]
    pub(in crate::cli) global_config: Option<PathBuf>,
    /// Headers of every request, as CSV; repeatable
    #[arg(
        long,
        value_name = "NAME=VALUE",
        env = "CODER_HEADER",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(in crate::cli) header: Vec<Csv>,
    /// Shell command that prints further headers, one `name=value` per line
    #[arg(long, value_name = "COMMAND", env = "CODER_HEADER_COMMAND")]
    pub(in crate::cli) header_command: Option<String>,
    /// PEM file of certificate authorities to trust instead of the system's
    #[arg(long, value_name = "FILE", env = "CODER_CLIENT_TLS_CA_FILE")]
    pub(in crate::cli) client_tls_ca_file: Option<PathBuf>,
    /// PEM file of certificate authorities to trust in addition to the system's
    #[arg(
        long,
        alias = "tls-ca-file",
        value_name = "FILE",
        env = "OUTPOST_TLS_CA_FILE"
    )]
    pub(in crate::cli) ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) revoked: Revoked,
    /// PEM file of the client certificate
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_CLIENT_TLS_CERT_FILE",
        requires = "client_tls_key_file"
    )]
    pub(in crate::cli) client_tls_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_CLIENT_TLS_KEY_FILE",
        requires = "client_tls_cert_file"
    )]
    pub(in crate::cli) client_tls_key_file: Option<PathBuf>,
}

/// Wire protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum ServerKind {
    /// Coder's: dRPC in a WebSocket
    Coder,
    /// That of `outpost server`: gRPC
    Outpost,
}

/// Logs of the daemon's work, and their destinations.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logging")]
pub(in crate::cli) struct LogArgs {
    /// Include debug messages in the log
    #[arg(long, short, env = "CODER_PROVISIONER_DAEMON_VERBOSE", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = values::boolean)]
    pub(in crate::cli) verbose: bool,
    /// Include debug messages whose module or text matches one of these regular expressions, as CSV
    #[arg(
        long,
        value_name = "REGEX",
        env = "CODER_PROVISIONER_DAEMON_LOG_FILTER"
    )]
    pub(in crate::cli) log_filter: Vec<Csv>,
    /// File for the log in human-readable form
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_PROVISIONER_DAEMON_LOGGING_HUMAN",
        default_value = "/dev/stderr"
    )]
    pub(in crate::cli) log_human: String,
    /// File for the log as JSON
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_PROVISIONER_DAEMON_LOGGING_JSON",
        default_value = ""
    )]
    pub(in crate::cli) log_json: String,
    /// File for the log in Stackdriver's format
    #[arg(
        long,
        value_name = "FILE",
        env = "CODER_PROVISIONER_DAEMON_LOGGING_STACKDRIVER",
        default_value = ""
    )]
    pub(in crate::cli) log_stackdriver: String,
}

/// Endpoints of a running daemon.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Metrics and health")]
pub(in crate::cli) struct MetricsArgs {
    #[command(flatten)]
    pub(in crate::cli) prometheus: PrometheusArgs,
    /// Address for /livez, /readyz, /status and /metrics, even if Prometheus is not enabled
    #[arg(long, value_name = "ADDRESS", env = "OUTPOST_HEALTH_ADDRESS")]
    pub(in crate::cli) health_address: Option<ListenAddress>,
    /// Labels of build metrics
    #[arg(
        long,
        value_name = "LABELS",
        env = "OUTPOST_METRIC_LABELS",
        default_value = "reference"
    )]
    pub(in crate::cli) metric_labels: MetricLabels,
}

impl MetricsArgs {
    /// Returns the labels of builds.
    pub(in crate::cli) fn labels(&self) -> Labels {
        match self.metric_labels {
            MetricLabels::Reference => Labels::PerWorkspace,
            MetricLabels::Bounded => Labels::Bounded,
        }
    }
}

/// Labels of builds in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum MetricLabels {
    /// Include workspace and owner names, as in Coder's daemon: one series per workspace
    Reference,
    /// Leave out workspace and owner names
    Bounded,
}

/// Options that Coder accepts and that have no effect here.
#[derive(Debug, clap::Args)]
struct IgnoredArgs {
    #[arg(long, hide = true, env = "CODER_PROVISIONERD_POLL_INTERVAL")]
    poll_interval: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_PROVISIONERD_POLL_JITTER")]
    poll_jitter: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_EXPERIMENTS")]
    experiments: Vec<Ignored>,
    #[arg(long, hide = true, env = "CODER_NO_VERSION_WARNING", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_version_warning: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_NO_FEATURE_WARNING", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_feature_warning: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_USE_KEYRING", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_keyring: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_NO_OPEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_open: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_FORCE_TTY", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_tty: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_DISABLE_DIRECT_CONNECTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_direct_connections: Option<Ignored>,
    #[arg(long, hide = true, env = "CODER_DISABLE_NETWORK_TELEMETRY", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_network_telemetry: Option<Ignored>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    debug_http: Option<Ignored>,
}
