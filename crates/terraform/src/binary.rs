//! Discovery of the engine and of its version: once for each binary.

use std::{
    ffi::OsString,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_base::stop::Stop;
use outpost_process::{self as process, Command, ProcessError};
use outpost_provision::Memory;
use semver::Version;
use serde::Deserialize;
use tokio::time::timeout;

use super::run_limits;

/// The oldest version that is supported.
pub const OLDEST: Version = Version::new(1, 1, 0);
/// The first version whose `init` prints JSON.
pub(crate) const INIT_JSON: Version = Version::new(1, 9, 0);
/// The first version whose `graph` has the option `-type`.
pub(crate) const GRAPH_TYPE: Version = Version::new(1, 7, 0);

/// Names of engines on the search path, in order of preference.
const NAMES: [&str; 2] = ["terraform", "tofu"];

/// Time limit for the engine's version; engines take a tenth of a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum output of a version probe in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Product that the engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HashiCorp's engine, the program `terraform`.
    Terraform,
    /// The engine `tofu`, a fork of Terraform.
    OpenTofu,
}

/// An engine whose version is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Absolute path of the executable.
    pub path: PathBuf,
    /// Product that the engine is.
    pub kind: Kind,
    /// Version of the engine.
    pub version: Version,
    identity: Identity,
}

/// Attributes that change when a binary is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Reason why there is no usable engine.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// No engine is on the search path.
    #[error("neither `terraform` nor `tofu` is on PATH")]
    NotFound,
    /// The file cannot be used.
    #[error("engine `{}` cannot be used", .path.display())]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: std::io::Error,
    },
    /// The engine cannot be started.
    #[error("engine does not run")]
    Run(#[from] ProcessError),
    /// The engine did not print its version.
    #[error("`{} version -json` did not report a version: {answer}", .path.display())]
    NoVersion {
        /// Path of the file.
        path: PathBuf,
        /// Output of the engine.
        answer: String,
    },
    /// The engine did not answer in time.
    #[error("`{} version -json` did not end within {after:?}", .path.display())]
    Silent {
        /// Path of the file.
        path: PathBuf,
        /// Time that we waited.
        after: Duration,
    },
    /// The engine is too old.
    #[error("terraform version {found:?} is too old. required >= {oldest:?}", found = .found.to_string(), oldest = OLDEST.to_string())]
    TooOld {
        /// Version of the engine.
        found: Version,
    },
}

impl BinaryError {
    /// Returns a suggestion for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound => Some("install Terraform or OpenTofu, or name one with --engine PATH".to_owned()),
            Self::TooOld { .. } => Some(format!("install version {OLDEST} or newer, or name one with --engine PATH")),
            Self::Unusable { .. } | Self::Run(_) | Self::NoVersion { .. } | Self::Silent { .. } => {
                Some("check that --engine names an executable of Terraform or OpenTofu for this platform".to_owned())
            }
        }
    }
}

/// Finds an engine in the absolute directories of `path`, a value of `PATH`.
///
/// # Errors
/// [`BinaryError::NotFound`].
pub fn find(path: &std::ffi::OsStr) -> Result<PathBuf, BinaryError> {
    let absolute = std::env::split_paths(path).filter(|dir| dir.is_absolute());
    let path = std::env::join_paths(absolute).unwrap_or_default();
    let found = NAMES
        .iter()
        .find_map(|name| which::which_in_global(name, Some(&path)).ok()?.next());
    found.ok_or(BinaryError::NotFound)
}

impl Binary {
    /// Determines product and version of the engine at `path`.
    ///
    /// # Errors
    /// [`BinaryError`].
    pub async fn probe(
        path: &Path,
        env: Vec<(OsString, OsString)>,
        stop: &Stop,
    ) -> Result<Self, BinaryError> {
        Self::probe_within(ANSWER_TIMEOUT, path, env, stop).await
    }

    async fn probe_within(
        limit: Duration,
        path: &Path,
        env: Vec<(OsString, OsString)>,
        stop: &Stop,
    ) -> Result<Self, BinaryError> {
        let unusable = |source| BinaryError::Unusable {
            path: path.to_owned(),
            source,
        };
        let path = std::path::absolute(path).map_err(unusable)?;
        let identity = Identity::of(&path).map_err(unusable)?;
        let args = ["version", "-json"].map(OsString::from).to_vec();
        let command = Command {
            program: path.clone(),
            args,
            env,
            dir: std::env::temp_dir(),
            confinement: None,
            outlives_us: false,
            shim: None,
            memory: Memory::default(),
        };
        let limits = run_limits();
        let answer = process::capture(&command, &limits, stop, MAX_ANSWER_BYTES);
        let silent = |_| BinaryError::Silent {
            path: path.clone(),
            after: limit,
        };
        let answer = timeout(limit, answer).await.map_err(silent)??;
        let version = serde_json::from_slice::<Answer>(&answer.stdout).ok();
        let version = version.and_then(|answer| Version::parse(&answer.terraform_version).ok());
        let no_version = || {
            let said = if answer.stderr.is_empty() {
                &answer.stdout
            } else {
                &answer.stderr
            };
            let said = String::from_utf8_lossy(&said[..said.len().min(500)])
                .trim()
                .to_owned();
            BinaryError::NoVersion {
                path: path.clone(),
                answer: format!("{} {said}", answer.exit),
            }
        };
        let version = version
            .filter(|_| answer.exit.is_success())
            .ok_or_else(no_version)?;
        if version < OLDEST {
            return Err(BinaryError::TooOld { found: version });
        }
        let kind = kind_of(&path);
        Ok(Self {
            path,
            kind,
            version,
            identity,
        })
    }

    /// Returns whether the file is still the one that was probed.
    pub fn is_current(&self) -> bool {
        Identity::of(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

#[derive(Deserialize)]
struct Answer {
    terraform_version: String,
}

/// Determines the product. OpenTofu also prints `terraform_version`, so its file name decides, even behind a link
/// named `terraform`.
fn kind_of(path: &Path) -> Kind {
    let is_tofu = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().contains("tofu"))
    };
    if is_tofu(path) || path.canonicalize().is_ok_and(|target| is_tofu(&target)) {
        Kind::OpenTofu
    } else {
        Kind::Terraform
    }
}

impl Identity {
    fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified,
        })
    }
}

#[cfg(test)]
mod tests;
