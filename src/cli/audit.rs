//! `outpost audit`: the server's audit log.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    output::{Output, Row},
    remote::Remote,
    rows,
};
use crate::proto::outpost::v1::{self, ListAuditRequest};

/// Show the audit log of a server, newest first
///
/// The audit log records logins, changes to users, tokens, keys and names, and every access to a Terraform state. Only
/// administrators can read it, and nobody can change it. `--output json` has the exact times.
#[derive(Debug, clap::Args)]
pub(super) struct Audit {
    /// Show at most this many entries
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..))]
    limit: i32,
    /// Show only entries with a lower number, to continue an earlier list
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    before: Option<i64>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Serialize)]
struct Entry {
    id: i64,
    at: Option<Timestamp>,
    actor: String,
    action: String,
    target: String,
    detail: String,
}

impl From<v1::AuditEntry> for Entry {
    fn from(entry: v1::AuditEntry) -> Self {
        Self {
            id: entry.id,
            at: rows::time(entry.at),
            actor: entry.actor,
            action: entry.action,
            target: entry.target,
            detail: entry.detail,
        }
    }
}

impl Row for Entry {
    const COLUMNS: &'static [&'static str] =
        &["Number", "Age", "Actor", "Action", "Target", "Detail"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            rows::age(self.at),
            self.actor.clone(),
            self.action.clone(),
            rows::with_short_ids(&self.target),
            rows::with_short_ids(&self.detail),
        ]
    }
}

impl Audit {
    pub(super) async fn exec(self, output: Output) -> anyhow::Result<()> {
        let request = ListAuditRequest {
            limit: self.limit,
            before: self.before.unwrap_or_default(),
        };
        let listed = self.remote.connect()?.list_audit(request).await?;
        let entries = listed.into_inner().entries.into_iter().map(Entry::from);
        output.list(&entries.collect::<Vec<_>>())?;
        Ok(())
    }
}
