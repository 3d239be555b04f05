//! `outpost support-bundle`: everything that somebody needs to help, and no secrets.

mod collect;
mod redact;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use serde::Serialize;

use self::redact::Redaction;
use super::{
    doctor::Doctor,
    exit::Interrupted,
    output::{self, Output},
    values::ListenAddress,
};
use crate::stop::Stop;

/// Collect diagnostics into an archive, without secrets
///
/// Takes the options and variables of `outpost provisioner start`, and asks a running daemon at its health address.
/// States, templates and values of variables with secret names are left out; review the archive before you send it.
#[derive(Debug, clap::Args)]
pub(super) struct SupportBundle {
    /// Archive to create [default: outpost-support-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Log files whose last lines are included
    #[arg(long, value_name = "FILE")]
    log_file: Vec<PathBuf>,
    /// Health address of a running daemon
    #[arg(long, value_name = "ADDRESS", env = "OUTPOST_HEALTH_ADDRESS")]
    health_address: Option<ListenAddress>,
    #[command(flatten)]
    doctor: Doctor,
    /// Every setting without secrets, by whoever knows all commands.
    #[arg(skip)]
    pub(super) settings: String,
}

/// Result of the command, for programs.
#[derive(Debug, Serialize)]
struct Made {
    file: PathBuf,
    entries: Vec<String>,
}

/// A file in the archive.
#[derive(Debug)]
struct Entry {
    name: String,
    text: String,
}

impl SupportBundle {
    pub(super) async fn exec(self, output: Output, stop: Stop) -> anyhow::Result<()> {
        let path = self.file.clone().unwrap_or_else(|| {
            let time = Timestamp::now().strftime("%Y%m%d-%H%M%S");
            PathBuf::from(format!("outpost-support-{time}.tar.gz"))
        });
        // The file is created first, so that a failure shows before anything is collected.
        let file = create(&path)?;
        let collected = tokio::select! {
            collected = self.collect(&stop) => collected,
            () = stop.draining() => Err(Interrupted.into()),
        };
        let written = collected.and_then(|entries| {
            write(&file, &entries)
                .with_context(|| format!("failed to write `{}`", path.display()))?;
            Ok(entries)
        });
        let entries = written.inspect_err(|_| {
            // Half of an archive helps nobody; one that cannot be removed is recognizably incomplete.
            let _ = std::fs::remove_file(&path);
        })?;
        let made = Made {
            file: path,
            entries: entries.into_iter().map(|entry| entry.name).collect(),
        };
        output.item(&made, |made| made.file.display().to_string())?;
        output::note("Known secrets were removed. Review it before you send it.");
        Ok(())
    }

    async fn collect(&self, stop: &Stop) -> anyhow::Result<Vec<Entry>> {
        let findings = self.doctor.examine(stop).await?;
        let mut entries = vec![
            Entry::new("doctor.json", serde_json::to_string_pretty(&findings)?),
            Entry::new("settings.json", self.settings.clone()),
        ];
        entries.extend(collect::machine()?);
        entries.push(collect::environment());
        entries.push(collect::listing(&self.doctor.state_dir()?));
        for path in &self.log_file {
            entries.push(collect::log(path)?);
        }
        if let Some(address) = &self.health_address {
            entries.extend(collect::running(address).await);
        }
        let redaction = Redaction::new(self.doctor.secrets());
        for entry in &mut entries {
            entry.text = redaction.apply(&entry.text);
        }
        Ok(entries)
    }
}

impl Entry {
    fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("failed to make `{}`", path.display()))
}

fn write(file: &File, entries: &[Entry]) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let now = Timestamp::now().as_second().unsigned_abs();
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        let path = format!("outpost-support/{}", entry.name);
        archive.append_data(&mut header, path, entry.text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()?;
    file.sync_all()
}
