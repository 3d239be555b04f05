//! `coder stat`, which templates use in an agent's metadata.
//!
//! # Source
//! coder `cli/stat.go`.

use std::path::PathBuf;

use serde::Serialize;

use super::{select, table};
use crate::{
    cli::{
        output::{self, Format, Output},
        values::{self, Csv},
    },
    process::usage::{self, Machine, Prefix, Usage},
};

/// Columns of the table.
const COLUMNS: [&str; 5] = [
    "host cpu",
    "host memory",
    "home disk",
    "container cpu",
    "container memory",
];

/// Show resource usage of this workspace
///
/// In a container, usage and limits are those of the container unless `--host` is given.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Stat {
    #[command(subcommand)]
    what: Option<What>,
    /// Columns of the table, as CSV
    #[arg(long, short, value_name = "NAME")]
    column: Vec<Csv>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show CPU usage, in cores
    Cpu {
        #[command(flatten)]
        host: Host,
    },
    /// Show memory usage and limit
    Mem {
        #[command(flatten)]
        host: Host,
        /// SI prefix of the amounts
        #[arg(long, value_enum, default_value_t = Unit::Gi)]
        prefix: Unit,
    },
    /// Show disk usage and size
    Disk {
        /// Path for which to check disk usage
        #[arg(long, default_value = "/")]
        path: PathBuf,
        /// Path for which to check disk usage; takes precedence over --path
        #[arg(value_name = "PATH")]
        place: Option<PathBuf>,
        /// SI prefix of the amounts
        #[arg(long, value_enum, default_value_t = Unit::Gi)]
        prefix: Unit,
    },
}

#[derive(Debug, clap::Args)]
struct Host {
    /// Measure the host, also in a container
    #[arg(
        long,
        value_parser = values::boolean,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    host: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Unit {
    #[value(name = "Ki")]
    Ki,
    #[value(name = "Mi")]
    Mi,
    #[value(name = "Gi")]
    Gi,
    #[value(name = "Ti")]
    Ti,
}

impl From<Unit> for Prefix {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Ki => Self::Kibi,
            Unit::Mi => Self::Mebi,
            Unit::Gi => Self::Gibi,
            Unit::Ti => Self::Tebi,
        }
    }
}

/// Usage of everything at once.
#[derive(Debug, Serialize)]
struct Everything {
    host_cpu: Usage,
    host_memory: Usage,
    home_disk: Usage,
    container_cpu: Option<Usage>,
    container_memory: Option<Usage>,
}

impl Everything {
    fn cells(&self) -> Vec<String> {
        let all = [
            Some(&self.host_cpu),
            Some(&self.host_memory),
            Some(&self.home_disk),
            self.container_cpu.as_ref(),
            self.container_memory.as_ref(),
        ];
        let text =
            |usage: Option<&Usage>| usage.map_or_else(|| "<nil>".to_owned(), Usage::to_string);
        all.map(text).into()
    }
}

impl Stat {
    pub(in crate::cli) async fn exec(self, output: Output) -> anyhow::Result<()> {
        let machine = Machine::at("/");
        let usage = match self.what {
            None => {
                let all = everything(&machine).await?;
                return show(&all, &self.column, output);
            }
            Some(What::Cpu { host }) => match container(&machine, &host)? {
                Some(container) => container.cpu().await?,
                None => machine.cpu().await?,
            },
            Some(What::Mem { host, prefix }) => match container(&machine, &host)? {
                Some(container) => container.memory(prefix.into())?,
                None => machine.memory(prefix.into())?,
            },
            Some(What::Disk {
                path,
                place,
                prefix,
            }) => usage::disk(&place.unwrap_or(path), prefix.into())?,
        };
        Ok(output.item(&usage, Usage::to_string)?)
    }
}

fn container(machine: &Machine, host: &Host) -> anyhow::Result<Option<usage::Cgroup>> {
    match host.host {
        true => Ok(None),
        false => Ok(machine.container()?),
    }
}

async fn everything(machine: &Machine) -> anyhow::Result<Everything> {
    let container = machine.container()?;
    let of_container = async {
        match &container {
            Some(container) => container.cpu().await.map(Some),
            None => Ok(None),
        }
    };
    let (host_cpu, container_cpu) = tokio::try_join!(machine.cpu(), of_container)?;
    let home = std::env::home_dir().unwrap_or_default();
    let container_memory = container.map(|container| container.memory(Prefix::Gibi));
    Ok(Everything {
        host_cpu,
        host_memory: machine.memory(Prefix::Gibi)?,
        home_disk: usage::disk(&home, Prefix::Gibi)?,
        container_cpu,
        container_memory: container_memory.transpose()?,
    })
}

fn show(all: &Everything, columns: &[Csv], output: Output) -> anyhow::Result<()> {
    if output.format == Format::Json {
        // The reference has a list of one.
        return Ok(output.item(&[all], |_| String::new())?);
    }
    let wanted: Vec<_> = Csv::all(columns).collect();
    let (headings, rows) = select(&COLUMNS, &wanted, vec![all.cells()])?;
    Ok(output::line(&table(&headings, &rows))?)
}
