//! Pre-shared keys: `outpost psk generate`, and the keys that a server accepts, of which there are two during a rotation.
//!
//! A server reads its file again when it changes, in `control/psk.rs`; a daemon reads its own for each connection, in
//! `provisioner/credential.rs`.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    path::PathBuf,
};

use anyhow::Context;
use serde::Serialize;

use super::{exit::Hint, output::Output};
use crate::{control::tokens, secret::Secret};

/// Generate pre-shared keys for daemons
#[derive(Debug, clap::Subcommand)]
pub(super) enum Psk {
    /// Generate a key of 256 random bits
    ///
    /// To rotate keys: a server accepts two at once and reads its file again when it changes, so add a line with the new
    /// key, give the key to every daemon, then remove the old line.
    Generate {
        /// Write the key to this new file, readable only by you, instead of printing it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Pre-shared keys that a server accepts.
#[derive(Debug, clap::Args)]
pub(super) struct Accepted {
    /// File with the daemons' pre-shared keys, one per line; two while keys are rotated. It is read again when it changes
    #[arg(long, value_name = "FILE", env = "OUTPOST_PSK_FILE")]
    pub(super) psk_file: Option<PathBuf>,
    /// Pre-shared key of the daemons; prefer a file, because other users can read the command line
    #[arg(
        long,
        value_name = "KEY",
        env = "OUTPOST_PSK",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(super) psk: Vec<Secret>,
}

#[derive(Serialize)]
struct Generated {
    #[serde(skip_serializing_if = "Option::is_none")]
    psk: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

impl Psk {
    pub(super) fn exec(self, output: Output) -> anyhow::Result<()> {
        let Self::Generate { file } = self;
        let psk = tokens::generate().expose().to_owned();
        let generated = match file {
            None => Generated {
                psk: Some(psk),
                file: None,
            },
            Some(path) => {
                write_new(&path, &psk)?;
                Generated {
                    psk: None,
                    file: Some(path),
                }
            }
        };
        output.item(&generated, |generated| {
            match (&generated.psk, &generated.file) {
                (Some(psk), _) => psk.clone(),
                (None, file) => {
                    format!("wrote {}", file.as_deref().unwrap_or("".as_ref()).display())
                }
            }
        })?;
        Ok(())
    }
}

fn write_new(path: &PathBuf, psk: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| {
        writeln!(file, "{psk}")?;
        file.sync_all()
    });
    let exists = written
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::AlreadyExists);
    let written = written.with_context(|| format!("failed to write `{}`", path.display()));
    if exists {
        written.hint("name a new file: a key in use is not overwritten")
    } else {
        written
    }
}
