//! Destinations of reports: one goes to stdout, others to files.

use std::{
    env, fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    str::FromStr,
};

use anyhow::Context;

use crate::{
    cli::output::{self, Wanted},
    template::check::{
        Severity,
        report::{Format, Report, job_summary},
    },
};

/// The file to which a job of GitHub's actions adds its summary.
const SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// A report and its file.
#[derive(Clone, Debug)]
pub(super) struct ReportTo {
    format: Format,
    file: PathBuf,
}

impl FromStr for ReportTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (format, file) = text
            .split_once('=')
            .ok_or("expected FORMAT=FILE, such as sarif=report.sarif")?;
        let format = format
            .parse::<Format>()
            .map_err(|error| error.to_string())?;
        match file {
            "" => Err("expected a file after FORMAT=".to_owned()),
            file => Ok(Self {
                format,
                file: file.into(),
            }),
        }
    }
}

/// Writes all reports: files first, so that they are there if nobody reads stdout.
pub(super) fn write(
    report: &Report,
    files: &[ReportTo],
    wanted: Wanted,
    fails: Option<Severity>,
) -> anyhow::Result<()> {
    for to in files {
        fs::write(&to.file, report.render(to.format, fails, false))
            .with_context(|| format!("failed to write the report `{}`", to.file.display()))?;
    }
    let format = format_of(wanted);
    if format == Format::Github
        && let Some(path) = env::var_os(SUMMARY)
    {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)?;
        file.write_all(job_summary(report).as_bytes())?;
    }
    let is_coloured = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
    let text = report.render(format, fails, is_coloured);
    Ok(output::line(text.trim_end_matches('\n'))?)
}

fn format_of(wanted: Wanted) -> Format {
    match wanted {
        Wanted::Json => Format::Json,
        Wanted::Sarif => Format::Sarif,
        Wanted::Junit => Format::Junit,
        Wanted::Gitlab => Format::Gitlab,
        Wanted::Github => Format::Github,
        Wanted::Table
        | Wanted::Mermaid
        | Wanted::Svg
        | Wanted::ReferenceJson
        | Wanted::Markdown => Format::Table,
    }
}
