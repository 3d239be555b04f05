//! `outpost doctor`: obstacles for a daemon, and remedies.

mod machine;
mod providers;
mod server;

use std::path::PathBuf;

use serde::Serialize;

use super::{
    engine::{CoderProvider, EngineArgs},
    exit::{ChecksFailed, Interrupted},
    output::{Output, Row},
    provisioner::{
        args::ServerArgs,
        credential::Given,
        start::{config_directory, credentials_directory, state_dir},
    },
    remote::secret_file,
    values::Csv,
};
use crate::{secret::Secret, stop::Stop, transport::auth::CredentialSource as _};

/// Check a daemon's requirements on this machine and at its server
///
/// Takes the options and variables of `outpost provisioner start`. Changes nothing at the server: no daemon is
/// registered.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    server: ServerArgs,
    /// Tags of the daemon, as CSV; repeatable
    #[arg(
        long = "tag",
        short,
        value_name = "NAME=VALUE",
        env = "CODER_PROVISIONERD_TAGS"
    )]
    tag: Vec<Csv>,
    /// Directory of the daemon [default: $STATE_DIRECTORY or ~/.local/state/outpost]
    #[arg(long, value_name = "DIR", env = "OUTPOST_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Source of the daemon's `coder` provider
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

/// Result of one check.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    result: Verdict,
    found: String,
    /// Remedy for the operator, if one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Passed without any problem.
    Ok,
    /// Passed, but the daemon works less well than it could, or not for certain.
    Warning,
    /// Failed, so that a daemon does not work.
    Failed,
    /// Not checked, because of another failure.
    Skipped,
}

impl Finding {
    fn new(check: &'static str, result: Verdict, found: impl Into<String>) -> Self {
        Self {
            check,
            result,
            found: found.into(),
            remedy: None,
        }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, found)
    }

    fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, found)
    }

    fn failed(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Failed, found)
    }

    fn skipped(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skipped, found)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl Row for Finding {
    const COLUMNS: &'static [&'static str] = &["Check", "Result", "Found", "Remedy"];

    fn cells(&self) -> Vec<String> {
        let result = match self.result {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "skipped",
        };
        let remedy = self.remedy.clone().unwrap_or_default();
        vec![
            self.check.to_owned(),
            result.to_owned(),
            self.found.clone(),
            remedy,
        ]
    }
}

impl Doctor {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let findings = tokio::select! {
            findings = self.examine(&stop) => findings?,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        output.list(&findings)?;
        let failed = findings.iter().filter(|it| it.result == Verdict::Failed);
        match failed.count() {
            0 => Ok(()),
            count => Err(ChecksFailed(count).into()),
        }
    }

    /// Runs all checks, in the order in which a daemon depends on them.
    pub(super) async fn examine(&self, stop: &Stop) -> anyhow::Result<Vec<Finding>> {
        let state_dir = self.state_dir()?;
        let (mut findings, machine, providers) = tokio::join!(
            server::examine(&self.server, &self.tag),
            machine::examine(&self.engine, &state_dir, stop),
            providers::examine(
                &self.engine,
                &self.server,
                self.coder_provider,
                &state_dir,
                stop
            ),
        );
        findings.extend(machine);
        findings.extend(providers);
        Ok(findings)
    }

    /// Returns the state directory of the daemon.
    pub(super) fn state_dir(&self) -> anyhow::Result<PathBuf> {
        state_dir(self.state_dir.as_deref())
    }

    /// Returns everything that no report may show: credentials, and values of headers.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let args = &self.server;
        let given = [&args.psk, &args.key, &args.token].into_iter().flatten();
        let files = [&args.psk_file, &args.key_file, &args.token_file];
        let read = files
            .into_iter()
            .flatten()
            .filter_map(|path| secret_file(path).ok());
        let directory = config_directory(args);
        let chosen = Given::choose(
            args,
            credentials_directory().as_deref(),
            directory.as_deref(),
        );
        let chosen = chosen.ok().and_then(|given| given.credential().ok());
        let headers = Csv::all(&args.header).filter_map(|header| header.split_once('='));
        let headers = headers.map(|(_, value)| Secret::new(value));
        let chosen = chosen.map(|credential| credential.secret().clone());
        given
            .cloned()
            .chain(read)
            .chain(chosen)
            .chain(headers)
            .collect()
    }
}
