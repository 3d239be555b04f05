//! `coder exp sync`: dependencies between scripts, kept by the agent behind its socket.
//!
//! # Source
//! coder `cli/sync*.go` and its golden files.

use std::{path::PathBuf, time::Duration};

use tokio::time::{interval, timeout};

use super::{select, table};
use crate::{
    agent::socket::{
        self,
        client::{Client, Dependency, SocketError, UnitInfo, UnitStatus},
    },
    cli::{
        exit::{Hint as _, Interrupted},
        output::{self, Format, Output},
        values::Csv,
    },
    stop::Stop,
};

/// Interval at which a waiting unit is polled, as in Coder.
const POLL: Duration = Duration::from_secs(1);
/// Columns of the tables.
const LIST: [&str; 3] = ["unit", "status", "ready"];
const STATUS: [&str; 4] = [
    "depends on",
    "required status",
    "current status",
    "satisfied",
];

/// Manage unit dependencies for coordinated startup
///
/// A unit is a name for the work of a script. The script declares dependencies with `want`, waits for them with `start`
/// and lets its dependents go on with `complete`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Sync {
    /// Path of the agent's socket
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = socket::PATH_VARIABLE,
        default_value = socket::DEFAULT_PATH
    )]
    socket_path: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Test whether the agent answers
    Ping,
    /// Wait until all dependencies are complete, then start a unit
    Start {
        /// Name of the unit
        #[arg(value_name = "UNIT")]
        unit: String,
        /// Maximum time to wait, such as 30s or 5m; 0 for no limit
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = limit)]
        timeout: Duration,
    },
    /// Declare that a unit depends on others
    Want {
        /// Name of the unit
        #[arg(value_name = "UNIT")]
        unit: String,
        /// Units that must be complete before it can start
        #[arg(value_name = "DEPENDS_ON", required = true)]
        depends_on: Vec<String>,
    },
    /// Mark a unit as complete
    Complete {
        /// Name of the unit
        #[arg(value_name = "UNIT")]
        unit: String,
    },
    /// Show status and dependencies of a unit
    Status {
        /// Name of the unit
        #[arg(value_name = "UNIT")]
        unit: String,
        /// Columns of the table, as CSV
        #[arg(long, short, value_name = "NAME")]
        column: Vec<Csv>,
    },
    /// List all registered units and their statuses
    List {
        /// Columns of the table, as CSV
        #[arg(long, short, value_name = "NAME")]
        column: Vec<Csv>,
    },
}

/// Parses a duration; Go also writes a plain `0`.
fn limit(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        text => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

impl Sync {
    pub(in crate::cli) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let client = Client::new(self.socket_path);
        let done = tokio::select! {
            done = self.what.exec(&client, output) => done,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        match done.as_ref().err().and_then(|error| error.downcast_ref()) {
            Some(SocketError::Connect { .. }) => done.hint(
                "run this in a workspace, as the user that runs the agent; CODER_AGENT_SOCKET_PATH names the agent's socket",
            ),
            _ => done,
        }
    }
}

impl What {
    async fn exec(self, client: &Client, output: Output) -> anyhow::Result<()> {
        match self {
            Self::Ping => {
                client.ping().await.map_err(failed("ping failed"))?;
                Ok(output::line("Success")?)
            }
            Self::Start { unit, timeout } => start(client, &unit, timeout).await,
            Self::Want { unit, depends_on } => {
                for wanted in &depends_on {
                    let done = client.want(&unit, wanted).await;
                    done.map_err(failed("declare dependency failed"))?;
                }
                let all = depends_on.join(", ");
                let text = format!("Unit {unit:?} declared dependencies: [{all}]");
                Ok(output::line(&text)?)
            }
            Self::Complete { unit } => {
                let done = client.complete(&unit).await;
                done.map_err(failed("complete unit failed"))?;
                Ok(output::line("Success")?)
            }
            Self::Status { unit, column } => {
                let status = client.status(&unit).await;
                let status = status.map_err(failed("get status failed"))?;
                show_status(&status, &column, output)
            }
            Self::List { column } => {
                let all = client.list().await.map_err(failed("list units failed"))?;
                show_list(&all, &column, output)
            }
        }
    }
}

/// Adds the reference's context to an error of the agent; one of the connection needs none.
fn failed(what: &'static str) -> impl FnOnce(SocketError) -> anyhow::Error {
    move |error| match error {
        SocketError::Connect { .. } => error.into(),
        error => anyhow::Error::new(error).context(what),
    }
}

async fn start(client: &Client, unit: &str, limit: Duration) -> anyhow::Result<()> {
    let starting = wait_and_start(client, unit);
    if limit.is_zero() {
        return starting.await;
    }
    let late = |_| anyhow::anyhow!("timeout waiting for dependencies of unit '{unit}'");
    timeout(limit, starting).await.map_err(late)?
}

async fn wait_and_start(client: &Client, unit: &str) -> anyhow::Result<()> {
    let status = client.status(unit).await;
    let status = status.map_err(failed("get status failed"))?;
    let all = status.dependencies.unwrap_or_default();
    let waited = names(all.iter().filter(|it| !it.is_satisfied));
    if !status.is_ready {
        output::line(&format!(
            "Unit {unit:?} is waiting for dependencies to be satisfied: [{waited}]"
        ))?;
        let mut ticks = interval(POLL);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let ready = client.is_ready(unit).await;
            if ready.map_err(failed("error checking dependencies"))? {
                break;
            }
        }
    }
    let started = client.start(unit).await;
    started.map_err(failed("start unit failed"))?;
    let text = if all.is_empty() {
        format!("Unit {unit:?} started with no dependencies")
    } else if waited.is_empty() {
        let all = names(all.iter());
        format!("Unit {unit:?} started immediately, dependencies already satisfied: [{all}]")
    } else {
        format!("Unit {unit:?} finished waiting for dependencies: [{waited}]")
    };
    Ok(output::line(&text)?)
}

fn names<'a>(dependencies: impl Iterator<Item = &'a Dependency>) -> String {
    let names: Vec<_> = dependencies.map(|it| it.depends_on.as_str()).collect();
    names.join(", ")
}

/// Status as shown in tables.
fn state(word: &str) -> &str {
    match word {
        "" => "not registered",
        word => word,
    }
}

fn show_status(status: &UnitStatus, columns: &[Csv], output: Output) -> anyhow::Result<()> {
    if output.format == Format::Json {
        return Ok(output.item(status, |_| String::new())?);
    }
    let row = |it: &Dependency| {
        vec![
            it.depends_on.clone(),
            state(&it.required_status).to_owned(),
            state(&it.current_status).to_owned(),
            it.is_satisfied.to_string(),
        ]
    };
    let rows: Vec<_> = status.dependencies.iter().flatten().map(row).collect();
    let below = match rows.is_empty() {
        true => "No dependencies found".to_owned(),
        false => chosen(&STATUS, columns, rows)?,
    };
    let (unit, state) = (&status.unit_name, state(&status.status));
    let ready = status.is_ready;
    let text = format!("Unit: {unit}\nStatus: {state}\nReady: {ready}\n\nDependencies:\n{below}");
    Ok(output::line(&text)?)
}

fn show_list(all: &[UnitInfo], columns: &[Csv], output: Output) -> anyhow::Result<()> {
    if output.format == Format::Json {
        // In the reference no units are `null`.
        let all = Some(all).filter(|all| !all.is_empty());
        return Ok(output.item(&all, |_| String::new())?);
    }
    if all.is_empty() {
        return Ok(output::line("No units registered")?);
    }
    let row = |it: &UnitInfo| {
        vec![
            it.unit_name.clone(),
            state(&it.status).to_owned(),
            it.is_ready.to_string(),
        ]
    };
    let text = chosen(&LIST, columns, all.iter().map(row).collect())?;
    Ok(output::line(&text)?)
}

fn chosen(all: &[&str], columns: &[Csv], rows: Vec<Vec<String>>) -> anyhow::Result<String> {
    let wanted: Vec<_> = Csv::all(columns).collect();
    let (headings, rows) = select(all, &wanted, rows)?;
    Ok(table(&headings, &rows))
}
