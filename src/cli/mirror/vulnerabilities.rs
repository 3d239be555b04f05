//! `outpost mirror vulnerabilities`: known vulnerabilities of mirrored content.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Place, work};
use crate::{
    cli::{
        exit::Vulnerable,
        output::{Output, Row, note, table},
    },
    files,
    mirror::{
        Store,
        bundle::Watch,
        vulnerabilities::{self, Finding, Report},
    },
    stop::Stop,
};

/// Report known vulnerabilities of the Go modules that engines and providers were built from
///
/// This makes no network requests: download the database of the Go project (vulndb.zip) or that of OSV for the ecosystem
/// Go (all.zip) on another machine, and copy it to this one. A finding says that a program was built with a vulnerable
/// version of a module, not that it uses the vulnerable code.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Vulnerabilities {
    #[command(flatten)]
    place: Place,
    /// Database in OSV's format: a zip file, or a directory of JSON files
    #[arg(long, value_name = "PATH", env = "OUTPOST_MIRROR_OSV")]
    osv: PathBuf,
    /// Generation to look at [default: the current one]
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
    /// Also write the findings to this file, in CycloneDX's format; they refer to components of `outpost mirror bundle --sbom`
    #[arg(long, value_name = "FILE")]
    vex: Option<PathBuf>,
    /// Exit with 1 if there are findings
    #[arg(long)]
    check: bool,
}

impl Row for Finding {
    const COLUMNS: &'static [&'static str] =
        &["Program", "Version", "Module", "Vulnerability", "Fixed in"];

    fn cells(&self) -> Vec<String> {
        let cve = self.aliases.iter().find(|it| it.starts_with("CVE-"));
        let cve = cve.map(|cve| format!(" ({cve})")).unwrap_or_default();
        vec![
            self.program.clone(),
            self.version.clone(),
            format!("{} {}", self.module, self.module_version),
            format!("{}{cve}", self.id),
            self.fixed_in.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

impl Vulnerabilities {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let store = Store::existing(&self.place.dir()?)?;
        let generation = match self.generation {
            Some(number) => store.generation(number)?,
            None => store.newest()?.1,
        };
        let reading = move |watch: Watch<'_>| vulnerabilities::programs(&store, &generation, watch);
        let programs = work::run(&stop, reading).await?;
        let report = vulnerabilities::report(&programs, &self.osv)?;
        if let Some(path) = &self.vex {
            let text = serde_json::to_vec_pretty(&vulnerabilities::vex(&report))?;
            files::write_public(path, &text)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        output.item(&report, human)?;
        match report.findings.len() {
            count if count > 0 && self.check => Err(Vulnerable(count).into()),
            _ => Ok(()),
        }
    }
}

fn human(report: &Report) -> String {
    let modified = match report.database_modified {
        Some(time) => format!(", the newest changed {}", time.strftime("%Y-%m-%d")),
        None => String::new(),
    };
    note(&format!(
        "checked {} programs against {} records about Go modules{modified}",
        report.programs, report.records
    ));
    for program in &report.unknown {
        note(&format!("{program} has no build information"));
    }
    table(&report.findings)
}
