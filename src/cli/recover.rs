//! `outpost recover`: states that a daemon could not deliver.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use url::Url;

use super::{
    engine::own_dir,
    exit::{Hint, UsageError},
    output::{self, Output, Row},
    remote::{Revoked, http_client, secret_file},
};
use crate::{
    client::{
        self,
        coder::{Coder, MAX_JOB_BYTES},
    },
    daemon::journal::{self, Begun, Entry, Journals},
    job::{JobId, Transition},
    net::tls,
    proto::outpost::v1::PushStateRequest,
    rules::state::Outline,
    secret::Secret,
};

/// Recover states that a daemon could not deliver to its server
#[derive(Debug, clap::Args)]
pub(super) struct Recover {
    #[command(subcommand)]
    action: Action,
    /// The daemons' state directory [default: $STATE_DIRECTORY or ~/.local/state/outpost]
    #[arg(long, global = true, value_name = "DIR", env = "OUTPOST_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// File with the key of the journal, if it is not in the state directory
    #[arg(long, global = true, value_name = "FILE")]
    journal_key: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List jobs whose state the server has not confirmed
    List,
    /// Show one of these states, and resources that may exist although they are not in it
    Show {
        /// ID of the job
        #[arg(value_parser = job_id)]
        job: JobId,
        /// Print the state itself, including its secrets
        #[arg(long)]
        state: bool,
    },
    /// Upload the state to the server, if it is newer than the server's
    Push(Box<Push>),
    /// Delete one of these states permanently
    Forget {
        /// ID of the job
        #[arg(value_parser = job_id)]
        job: JobId,
    },
}

/// State to upload, with its server and credential.
#[derive(Debug, clap::Args)]
struct Push {
    /// ID of the job
    #[arg(value_parser = job_id)]
    job: JobId,
    /// URL of the server; if missing, that of the daemon
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// Kind of the server
    #[arg(
        long,
        value_name = "KIND",
        env = "OUTPOST_SERVER_KIND",
        default_value = "coder"
    )]
    server: ServerKind,
    /// Token of a user who may update the template; prefer a file or the environment
    #[arg(
        long,
        value_name = "TOKEN",
        env = "CODER_SESSION_TOKEN",
        hide_env_values = true,
        hide_default_value = true
    )]
    token: Option<Secret>,
    /// File that holds the token
    #[arg(long, value_name = "FILE", env = "OUTPOST_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of certificate authorities to trust in addition to the system's
    #[arg(
        long,
        alias = "tls-ca-file",
        value_name = "FILE",
        env = "OUTPOST_TLS_CA_FILE"
    )]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    revoked: Revoked,
}

/// API for states that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ServerKind {
    /// `outpost server`, over gRPC
    Outpost,
    /// Coder's server, over HTTP
    Coder,
}

fn job_id(text: &str) -> Result<JobId, &'static str> {
    text.parse()
        .map_err(|_| "a job's id is a UUID, which `outpost recover list` shows")
}

/// An entry of the journal, without its state.
#[derive(Serialize)]
struct Shown {
    job: JobId,
    workspace: String,
    transition: Transition,
    build: String,
    daemon: String,
    server: String,
    status: String,
    serial: Option<u64>,
    lineage: Option<String>,
    state_bytes: usize,
    resources: Vec<String>,
    unfinished: Vec<String>,
    begun: BTreeMap<String, Begun>,
    session: Vec<PathBuf>,
    began_at: Timestamp,
    updated_at: Timestamp,
}

impl Shown {
    fn new(entry: &Entry, is_alive: bool) -> Self {
        let outline = Outline::read(&entry.state);
        let status = match (&entry.refused, is_alive) {
            (Some(_), _) if entry.taken_late_at.is_some() => {
                "accepted late by the server; kept for the workspace's next job".to_owned()
            }
            (Some(reason), _) => format!("kept: {reason}"),
            (None, true) => "its daemon is running".to_owned(),
            (None, false) => "a daemon of this name, or a sibling, will deliver it".to_owned(),
        };
        Self {
            job: entry.job,
            workspace: format!("{}/{}", entry.owner, entry.workspace),
            transition: entry.transition,
            build: entry.build.clone(),
            daemon: entry.daemon.clone(),
            server: entry.server.clone(),
            status,
            serial: outline.as_ref().map(|outline| outline.serial),
            lineage: outline.as_ref().map(|outline| outline.lineage.clone()),
            state_bytes: entry.state.len(),
            resources: outline
                .map_or_else(Vec::new, |outline| outline.addresses.into_iter().collect()),
            unfinished: entry.unfinished(),
            begun: entry.begun.clone(),
            session: entry.dirs.clone(),
            began_at: entry.began_at,
            updated_at: entry.updated_at,
        }
    }

    fn human(&self) -> String {
        let list = |names: &[String]| match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        let serial = self
            .serial
            .map_or_else(|| "none".to_owned(), |serial| serial.to_string());
        output::facts(&[
            ("job", self.job.to_string()),
            (
                "workspace",
                format!("{} ({})", self.workspace, self.transition),
            ),
            ("build", self.build.clone()),
            ("daemon", format!("{} at {}", self.daemon, self.server)),
            ("status", self.status.clone()),
            (
                "state",
                format!("serial {serial}, {} bytes", self.state_bytes),
            ),
            ("resources", list(&self.resources)),
            ("creation begun, outcome unknown", list(&self.unfinished)),
            ("apply began", self.began_at.to_string()),
            ("last written", self.updated_at.to_string()),
        ])
    }
}

impl Row for Shown {
    const COLUMNS: &'static [&'static str] = &[
        "Job",
        "Workspace",
        "Daemon",
        "Serial",
        "Unfinished",
        "Updated (UTC)",
        "Status",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.job.to_string(),
            self.workspace.clone(),
            self.daemon.clone(),
            self.serial
                .map(|serial| serial.to_string())
                .unwrap_or_default(),
            self.unfinished.join(", "),
            self.updated_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            self.status.clone(),
        ]
    }
}

/// An entry, its file, and whether its daemon is running.
struct Found {
    entry: Entry,
    path: PathBuf,
    is_alive: bool,
}

impl Recover {
    pub(super) async fn exec(self, output: Output) -> anyhow::Result<()> {
        let state_dir = match &self.state_dir {
            Some(path) => std::path::absolute(path)?,
            None => own_dir("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")?,
        };
        if !state_dir.join("journal").is_dir() {
            let text = format!("`{}` has no journal", state_dir.display());
            return Err(UsageError(text))
                .hint("name the daemons' state directory with `--state-dir`");
        }
        let journals = Journals::open(&state_dir, self.journal_key.as_deref())?;
        let mut found = Vec::new();
        for journal::Found {
            path,
            is_alive,
            entry,
        } in journals.entries()?
        {
            match entry {
                Ok(entry) => found.push(Found {
                    entry,
                    path,
                    is_alive,
                }),
                Err(error) => output::note(&format!("warning: {error}")),
            }
        }
        let job = match self.action {
            Action::List => {
                let rows = found.iter().map(|it| Shown::new(&it.entry, it.is_alive));
                return Ok(output.list(&rows.collect::<Vec<_>>())?);
            }
            Action::Show { job, .. } | Action::Forget { job } => job,
            Action::Push(ref push) => push.job,
        };
        let Some(found) = found.into_iter().find(|it| it.entry.job == job) else {
            let text = format!("the journal has no entry of job {job}");
            return Err(UsageError(text)).hint("`outpost recover list` shows all");
        };
        match self.action {
            Action::List => Ok(()),
            Action::Show { state: true, .. } => {
                Ok(output::line(&String::from_utf8_lossy(&found.entry.state))?)
            }
            Action::Show { state: false, .. } => {
                let shown = Shown::new(&found.entry, found.is_alive);
                Ok(output.item(&shown, Shown::human)?)
            }
            Action::Push(push) => push.exec(found).await,
            Action::Forget { .. } => {
                found.check_idle()?;
                journal::erase(&found.path)?;
                output::note(&format!("Deleted the state of job {job}."));
                Ok(())
            }
        }
    }
}

impl Found {
    /// Refuses an entry that a daemon is still working on.
    fn check_idle(&self) -> anyhow::Result<()> {
        if self.is_alive && self.entry.is_pending() {
            let text = format!(
                "daemon `{}` is running and works on this job",
                self.entry.daemon
            );
            return Err(UsageError(text)).hint("wait until it has delivered the state, or stop it");
        }
        Ok(())
    }
}

impl Push {
    async fn exec(self, found: Found) -> anyhow::Result<()> {
        found.check_idle()?;
        let entry = &found.entry;
        let url = match &self.url {
            Some(url) => url.clone(),
            None => Url::parse(&entry.server)
                .map_err(|_| UsageError(format!("`{}` is not an address", entry.server)))
                .hint("name the server with `--url`")?,
        };
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => secret_file(path)?,
            (None, None) => {
                return Err(UsageError("no token is given".into())).hint(
                    "a daemon's key may not write states: set CODER_SESSION_TOKEN or OUTPOST_TOKEN_FILE for a user",
                );
            }
        };
        let trust = tls::Trust {
            extra: self.ca_file.iter().cloned().collect(),
            revoked: self.revoked.crl_file.clone(),
            ..tls::Trust::default()
        };
        let number = match self.server {
            ServerKind::Coder => {
                let coder = Coder::new(http_client(&trust)?, url, token);
                coder.push_state(&entry.build, &entry.state).await?
            }
            ServerKind::Outpost => {
                let target = client::Target {
                    url: url.clone(),
                    token,
                    trust,
                };
                let request = PushStateRequest {
                    build: entry.build.clone(),
                    state: entry.state.clone(),
                };
                let pushed = client::connect(&target)?.push_state(request).await;
                let pushed = pushed.map_err(|status| client::CallError::new(&url, status))?;
                i64::from(pushed.into_inner().number)
            }
        };
        journal::erase(&found.path)?;
        output::note(&format!(
            "It is now the state of build {number} of {}/{}.",
            entry.owner, entry.workspace
        ));
        if let Some(warning) = entry.warning() {
            output::note(&format!("warning: {warning}"));
        }
        let size = entry.state.len();
        if self.server == ServerKind::Coder && size > MAX_JOB_BYTES {
            output::note(&format!(
                "warning: the state has {size} bytes, and coderd hands out no build of more than {MAX_JOB_BYTES} \
                 bytes: destroy large resources with Terraform itself between `coder state pull` and `coder state push --no-build`"
            ));
        }
        Ok(())
    }
}
