//! `outpost provisioner`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Context;
use serde::Serialize;
use tracing::info;
use url::Url;

use super::{
    engine::{CoderProvider, EngineArgs, own_dir},
    exit::{Hint, UsageError},
    isolation::Guarded,
    output::{self, Output, Row},
    remote::{Pair, Remote, secret_file},
    rows,
    server::daemon_config,
};
use crate::{
    daemon,
    net::{http, proxy::Proxies, tls},
    proto::outpost::v1::{
        CreateProvisionerKeyRequest, DeleteProvisionerKeyRequest, ListDaemonsRequest,
        ListProvisionerKeysRequest, ProvisionerKey,
    },
    provision::JobSource,
    secret::Secret,
    stop::Stop,
    transport::{
        auth::{Credential, CredentialSource},
        coder::{self, CoderSource},
        grpc::{self, GrpcSource},
    },
};

/// Provisioner daemons
#[derive(Debug, clap::Subcommand)]
pub(super) enum Provisioner {
    /// Take jobs from a server and run them with Terraform
    ///
    /// SIGTERM lets the running job finish, SIGINT cancels it, a second signal kills it.
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

/// Take jobs from a server and run them with Terraform
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// URL of the server
    #[arg(long, value_name = "URL", env = "CODER_URL")]
    url: Option<Url>,
    /// What the server is
    #[arg(
        long,
        value_name = "KIND",
        env = "OUTPOST_SERVER_KIND",
        default_value = "outpost"
    )]
    server: ServerKind,
    /// Pre-shared key; better give it in a file or in the environment, as others see the command line
    #[arg(
        long,
        value_name = "KEY",
        env = "CODER_PROVISIONER_DAEMON_PSK",
        hide_env_values = true,
        hide_default_value = true
    )]
    psk: Option<Secret>,
    /// File that holds the pre-shared key; it is read anew for each connection
    #[arg(long, value_name = "FILE", env = "OUTPOST_PROVISIONER_PSK_FILE")]
    psk_file: Option<PathBuf>,
    /// Provisioner key; better give it in a file or in the environment
    #[arg(
        long,
        value_name = "KEY",
        env = "CODER_PROVISIONER_DAEMON_KEY",
        hide_env_values = true,
        hide_default_value = true
    )]
    key: Option<Secret>,
    /// File that holds the provisioner key; it is read anew for each connection
    #[arg(long, value_name = "FILE", env = "OUTPOST_PROVISIONER_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Name of this daemon; the first part of the host's name if missing
    #[arg(long, value_name = "NAME", env = "CODER_PROVISIONER_DAEMON_NAME")]
    name: Option<String>,
    /// Tag of the jobs that it takes
    #[arg(
        long = "tag",
        short,
        value_name = "NAME=VALUE",
        env = "CODER_PROVISIONERD_TAGS",
        value_delimiter = ','
    )]
    tag: Vec<Pair>,
    /// PEM file of further authorities to trust
    #[arg(long, value_name = "FILE", env = "OUTPOST_TLS_CA_FILE")]
    tls_ca_file: Option<PathBuf>,
    /// Directory for what must outlive a crash, and for sessions [default: $STATE_DIRECTORY or ~/.local/state/outpost]
    #[arg(long, value_name = "DIR", env = "OUTPOST_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// How many jobs to run at a time, each as a daemon of its own name
    #[arg(long, value_name = "COUNT", env = "OUTPOST_JOBS", default_value_t = 1)]
    jobs: u16,
    /// End after so many jobs of each
    #[arg(long, value_name = "COUNT", env = "OUTPOST_MAX_JOBS")]
    max_jobs: Option<usize>,
    /// Where the `coder` provider comes from
    #[arg(
        long,
        value_name = "SOURCE",
        env = "OUTPOST_CODER_PROVIDER",
        default_value = "registry"
    )]
    coder_provider: CoderProvider,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Which wire a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ServerKind {
    /// `outpost server`: gRPC
    Outpost,
    /// coderd: dRPC in a WebSocket
    Coder,
}

impl Provisioner {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        match self {
            Self::Start(start) => start.exec(stop).await,
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

    /// Whether it goes on until it is stopped.
    pub(super) fn is_service(&self) -> bool {
        matches!(self, Self::Start(_))
    }
}

impl Start {
    async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let credential = Arc::new(self.credential()?);
        credential.credential().map_err(UsageError)?;
        let url = self
            .url
            .clone()
            .ok_or_else(|| UsageError("no server is given".into()));
        let url = url.hint("name one with `--url` or CODER_URL")?;
        let tags: BTreeMap<String, String> = self
            .tag
            .iter()
            .cloned()
            .map(|tag| (tag.name, tag.value))
            .collect();
        let state_dir = match &self.state_dir {
            Some(path) => std::path::absolute(path)?,
            None => own_dir("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")?,
        };
        let sources = self.sources(&url, &tags, credential)?;
        let secrets = [&self.psk_file, &self.key_file].into_iter().flatten();
        let guarded = Guarded {
            jobs: self.jobs.into(),
            hidden: secrets.chain([&state_dir]).cloned().collect(),
        };
        let sessions = state_dir.join("sessions");
        let provisioner = self
            .engine
            .provisioner(self.coder_provider, sessions, guarded, &stop)
            .await?;
        if tags.is_empty() && self.key.is_none() && self.key_file.is_none() {
            info!("note: untagged provisioners can only pick up jobs from untagged templates");
        }
        let config = daemon::Config {
            max_jobs: self.max_jobs,
            ..daemon_config(state_dir)
        };
        let shown = serde_json::to_string(&tags)?;
        info!(
            tags = shown,
            name = self.name()?,
            "starting provisioner daemon"
        );
        daemon::run(config, sources, provisioner, stop).await?;
        Ok(())
    }

    fn credential(&self) -> Result<Given, UsageError> {
        let given = match (&self.psk, &self.psk_file, &self.key, &self.key_file) {
            (Some(psk), None, None, None) => Given::Value(Credential::Psk(psk.clone())),
            (None, Some(path), None, None) => Given::File(path.clone(), Credential::Psk),
            (None, None, Some(key), None) => Given::Value(Credential::Key(key.clone())),
            (None, None, None, Some(path)) => Given::File(path.clone(), Credential::Key),
            (None, None, None, None) => {
                let text = "must provide a pre-shared key or provisioner key: --psk-file, --key-file or the environment";
                return Err(UsageError(text.into()));
            }
            _ if (self.psk.is_some() || self.psk_file.is_some())
                && (self.key.is_some() || self.key_file.is_some()) =>
            {
                let text = "cannot provide both provisioner key --key and pre-shared key --psk";
                return Err(UsageError(text.into()));
            }
            _ => return Err(UsageError("give the secret or its file, not both".into())),
        };
        let has_key = self.key.is_some() || self.key_file.is_some();
        match has_key && !self.tag.is_empty() {
            true => Err(UsageError(
                "cannot provide tags when using provisioner key".into(),
            )),
            false => Ok(given),
        }
    }

    /// One daemon for each job at a time. Names differ, as ownership of a job hangs on the name.
    fn sources(
        &self,
        url: &Url,
        tags: &BTreeMap<String, String>,
        credentials: Arc<Given>,
    ) -> anyhow::Result<Vec<Arc<dyn JobSource>>> {
        let name = self.name()?;
        let authorities = match &self.tls_ca_file {
            Some(path) => vec![
                std::fs::read(path)
                    .with_context(|| format!("failed to read `{}`", path.display()))?,
            ],
            None => Vec::new(),
        };
        let mut coder_client = None;
        let mut sources: Vec<Arc<dyn JobSource>> = Vec::new();
        for number in 1..=self.jobs.max(1) {
            let name = if number == 1 {
                name.clone()
            } else {
                format!("{name}-{number}")
            };
            let (url, tags) = (url.clone(), tags.clone());
            sources.push(match self.server {
                ServerKind::Outpost => {
                    let ca_certificates = authorities.clone();
                    Arc::new(GrpcSource::new(
                        grpc::Target {
                            url,
                            name,
                            tags,
                            ca_certificates,
                        },
                        credentials.clone(),
                    ))
                }
                ServerKind::Coder => {
                    let target = coder::Target {
                        organization: None,
                        name,
                        tags,
                    };
                    let client = match &coder_client {
                        Some(client) => http::Client::clone(client),
                        None => coder_client.insert(self.coder_client(url)?).clone(),
                    };
                    Arc::new(CoderSource::new(
                        client.clone(),
                        target,
                        credentials.clone(),
                    ))
                }
            });
        }
        Ok(sources)
    }

    fn coder_client(&self, url: Url) -> anyhow::Result<http::Client> {
        let trust = tls::Trust {
            extra: self.tls_ca_file.iter().cloned().collect(),
            ..tls::Trust::default()
        };
        Ok(http::Client::new(http::Config {
            trust,
            proxies: Proxies::from_env(),
            ..http::Config::new(url)
        })?)
    }

    fn name(&self) -> Result<String, UsageError> {
        let name = self.name.clone().unwrap_or_else(host_name);
        let is_good = (2..=63).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        match is_good {
            true => Ok(name),
            false => Err(UsageError(format!(
                "`{name}` cannot be a daemon's name: 2 to 63 letters, digits and inner hyphens are needed"
            ))),
        }
    }
}

/// The first part of the host's name in lower case.
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

/// A credential, or where it is.
enum Given {
    Value(Credential),
    File(PathBuf, fn(Secret) -> Credential),
}

impl CredentialSource for Given {
    fn credential(&self) -> Result<Credential, String> {
        match self {
            Self::Value(credential) => Ok(credential.clone()),
            Self::File(path, kind) => secret_file(path)
                .map(kind)
                .map_err(|error| format!("{error:#}")),
        }
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
