//! A push to a coderd by its HTTP API: upload, import, activation.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use super::Push;
use crate::{
    cli::{
        exit::{Hint as _, Interrupted, UsageError},
        follow,
        output::{Output, Row},
        progress::Progress,
    },
    client::coder::{
        Coder, PushError,
        templates::{DEFAULT_ORGANIZATION, ImportLine, NewVersion, Version},
    },
    proto::{outpost::v1::LogLine, provisioner::LogLevel},
    stop::Stop,
};

/// Interval at which an import is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Number of calls in a row that may get no answer before the import is given up: a server that is replaced by a newer one
/// is away for a minute.
const MAX_UNANSWERED: u32 = 60;

/// The version that was pushed.
#[derive(Serialize)]
struct Pushed {
    template: String,
    version: String,
    id: String,
    active: bool,
}

impl Row for Pushed {
    const COLUMNS: &'static [&'static str] = &["Template", "Version", "Active"];

    fn cells(&self) -> Vec<String> {
        let active = if self.active { "yes" } else { "" };
        vec![
            self.template.clone(),
            self.version.clone(),
            active.to_owned(),
        ]
    }
}

impl Push {
    pub(super) async fn push_to_coderd(
        self,
        coder: &Coder,
        archive: Bytes,
        output: Output,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let organization = match self.remote.organization.as_str() {
            "" => DEFAULT_ORGANIZATION,
            name => name,
        };
        let template = coder.template(organization, &self.name).await?;
        if template.is_none() && self.inactive {
            let text = format!(
                "there is no template `{}` yet, and its first version is active",
                self.name
            );
            return Err(UsageError(text)).hint("push it without `--inactive`");
        }
        let pairs =
            |pairs: Vec<crate::cli::remote::Pair>| pairs.into_iter().map(|it| (it.name, it.value));
        let version = NewVersion {
            name: self.version.unwrap_or_default(),
            message: self.message,
            archive,
            variables: pairs(self.variables).collect(),
            tags: pairs(self.tags).collect(),
        };
        let created = coder.create_version(organization, template.as_ref(), &version);
        let created = created.await?;
        let show = follow::Show::log(self.verbose);
        let version = Import {
            coder,
            id: &created.id,
        }
        .follow(show, stop)
        .await;
        let version = version.with_context(|| {
            format!(
                "failed to import version {} of the template {}",
                created.name, self.name
            )
        })?;
        match &template {
            None => drop(
                coder
                    .create_template(organization, &self.name, &version.id)
                    .await?,
            ),
            Some(template) if !self.inactive => coder.activate(template, &version.id).await?,
            Some(_) => {}
        }
        Ok(output.list(&[Pushed {
            template: self.name,
            version: version.name,
            id: version.id,
            active: !self.inactive,
        }])?)
    }
}

/// An import that is under way.
struct Import<'a> {
    coder: &'a Coder,
    /// Id of the version.
    id: &'a str,
}

impl Import<'_> {
    /// Shows the log until the import ends. A cancelled `stop` cancels the import, whose end is still waited for.
    async fn follow(&self, show: follow::Show, stop: &Stop) -> anyhow::Result<Version> {
        let mut progress = Progress::new(show);
        let (mut last, mut is_cancelled, mut unanswered) = (0, false, 0);
        loop {
            match self.look(&mut last, &mut progress).await {
                Ok(version) if version.job.has_ended() => return ended(version, is_cancelled),
                Ok(_) => unanswered = 0,
                Err(PushError::Call { .. }) if unanswered < MAX_UNANSWERED => unanswered += 1,
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                biased;
                () = stop.killed() => return Err(Interrupted.into()),
                () = stop.cancelled(), if !is_cancelled => {
                    is_cancelled = true;
                    // A refusal means that it has ended.
                    let _ = self.coder.cancel_import(self.id).await;
                }
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The version, and the log until then: a job that has ended says nothing more.
    async fn look(&self, last: &mut i64, progress: &mut Progress) -> Result<Version, PushError> {
        let version = self.coder.version(self.id).await?;
        for line in self.coder.import_log(self.id, *last).await? {
            *last = (*last).max(line.id);
            progress.show(&shown(line));
        }
        Ok(version)
    }
}

fn shown(line: ImportLine) -> LogLine {
    let level = match line.level.as_str() {
        "trace" => LogLevel::Trace,
        "debug" => LogLevel::Debug,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        _ => LogLevel::Info,
    };
    LogLine {
        id: line.id,
        stage: line.stage,
        output: line.output,
        level: level.into(),
        ..LogLine::default()
    }
}

fn ended(version: Version, is_cancelled: bool) -> anyhow::Result<Version> {
    let job = &version.job;
    match (job.status.as_str(), job.error_code.as_str()) {
        _ if is_cancelled => Err(Interrupted.into()),
        ("succeeded", _) => Ok(version),
        ("canceled", _) => Err(anyhow::Error::msg("the import was canceled")),
        (_, "REQUIRED_TEMPLATE_VARIABLES") => {
            Err(anyhow::Error::msg(job.error.clone())).hint("set them with `--variable NAME=VALUE`")
        }
        _ => Err(anyhow::Error::msg(job.error.clone())),
    }
}
