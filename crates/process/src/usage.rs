//! Usage of processors, memory and disks, of a machine or of a container.
//!
//! # Source
//! coder/clistat v1.2.1 `stat.go`, `disk.go`, and its tests for how figures look.

mod cgroup;
mod machine;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::statvfs::statvfs;
use serde::{Serialize, Serializer};

pub use self::{cgroup::Cgroup, machine::Machine};

/// Time between two samples of processor time.
const SAMPLE: Duration = Duration::from_millis(100);

/// Failure to measure usage.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A kernel file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// Path of the kernel file.
        path: PathBuf,
        /// Reason of the kernel.
        source: io::Error,
    },
    /// A kernel file lacks an expected value.
    #[error("no {wanted} in {}", path.display())]
    Missing {
        /// Path of the kernel file.
        path: PathBuf,
        /// Name of the value.
        wanted: &'static str,
    },
    /// The path to measure does not exist.
    #[error("not found: {0:?}")]
    NotFound(PathBuf),
}

/// SI prefix for amounts in bytes, a power of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prefix {
    /// No prefix, also for other units than bytes.
    None,
    /// 1024 bytes, written `Ki`.
    Kibi,
    /// 1024² bytes, written `Mi`.
    Mebi,
    /// 1024³ bytes, written `Gi`.
    Gibi,
    /// 1024⁴ bytes, written `Ti`.
    Tebi,
}

impl Prefix {
    fn scale(self) -> f64 {
        1024_f64.powi(self as i32)
    }

    fn sign(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Kibi => "Ki",
            Self::Mebi => "Mi",
            Self::Gibi => "Gi",
            Self::Tebi => "Ti",
        }
    }
}

/// Used and total amount of a resource, displayed as `1.5/8 GiB (19%)`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// Total amount; `None` if there is no limit.
    #[serde(serialize_with = "total")]
    pub total: Option<f64>,
    /// Unit of both amounts: `cores` or `B`.
    pub unit: &'static str,
    /// Amount that is in use.
    #[serde(serialize_with = "number")]
    pub used: f64,
    /// Prefix for display; JSON has bytes.
    #[serde(skip)]
    pub prefix: Prefix,
}

impl Usage {
    fn cores(used: f64, total: Option<f64>) -> Self {
        Self {
            total,
            unit: "cores",
            used,
            prefix: Prefix::None,
        }
    }

    fn bytes(used: f64, total: Option<f64>, prefix: Prefix) -> Self {
        Self {
            total,
            unit: "B",
            used,
            prefix,
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = self.prefix.scale();
        write!(f, "{}", rounded(self.used / scale))?;
        if let Some(total) = self.total {
            write!(f, "/{}", rounded(total / scale))?;
        }
        let unit = format!("{}{}", self.prefix.sign(), self.unit);
        if !unit.is_empty() {
            write!(f, " {unit}")?;
        }
        match self.total {
            Some(total) if total > 0.0 => write!(f, " ({:.0}%)", self.used / total * 100.0),
            _ => Ok(()),
        }
    }
}

/// Rounds to about three digits.
fn rounded(value: f64) -> f64 {
    let scale = match value.abs() {
        size if size == 0.0 || size >= 100.0 => 1.0,
        size if size < 1.0 => 1000.0,
        size if size < 10.0 => 100.0,
        _ => 10.0,
    };
    (value * scale).round() / scale
}

fn total<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => number(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Serialises a whole number without `.0`, as the reference's JSON does.
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    // Up to here every integer has an exact `f64`.
    const EXACT: f64 = (1_u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

/// Returns the usage of the file system that contains `path`; an empty path is the root.
///
/// # Errors
/// [`UsageError::NotFound`] or [`UsageError::Read`].
pub fn disk(path: &Path, prefix: Prefix) -> Result<Usage, UsageError> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("/"),
        false => path,
    };
    let found = statvfs(path).map_err(|errno| match errno {
        nix::Error::ENOENT => UsageError::NotFound(path.to_owned()),
        errno => UsageError::Read {
            path: path.to_owned(),
            source: errno.into(),
        },
    })?;
    let block = found.fragment_size() as f64;
    let used = found.blocks().saturating_sub(found.blocks_free());
    let total = found.blocks() as f64 * block;
    Ok(Usage::bytes(used as f64 * block, Some(total), prefix))
}

fn read(path: &Path) -> Result<String, UsageError> {
    fs::read_to_string(path).map_err(|source| UsageError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Returns the number after `name` on the first line that begins with that word.
fn figure(path: &Path, text: &str, name: &'static str) -> Result<u64, UsageError> {
    let mut lines = text.lines().map(str::split_whitespace);
    let value = lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next())?);
    let value = value.and_then(|value| value.parse().ok());
    value.ok_or(UsageError::Missing {
        path: path.to_owned(),
        wanted: name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(used: f64, total: Option<f64>, unit: &'static str, prefix: Prefix) -> Usage {
        Usage {
            total,
            unit,
            used,
            prefix,
        }
    }

    #[test]
    fn figures_look_as_in_the_reference() {
        let tebi = Prefix::Tebi.scale();
        for (expected, usage) in [
            (
                "1.23/5.68 quatloos (22%)",
                usage(1.234, Some(5.678), "quatloos", Prefix::None),
            ),
            ("0/0 HP", usage(0.0, Some(0.0), "HP", Prefix::None)),
            ("123 seconds", usage(123.01, None, "seconds", Prefix::None)),
            ("12.3", usage(12.34, None, "", Prefix::None)),
            ("1.5 KiB", usage(1536.0, None, "B", Prefix::Kibi)),
            (
                "0/100 TiB (0%)",
                usage(1.0, Some(100.0 * tebi), "B", Prefix::Tebi),
            ),
            (
                "0.5/8 cores (6%)",
                usage(0.5, Some(8.0), "cores", Prefix::None),
            ),
            (
                "1/8 cores (12%)",
                usage(1.0, Some(8.0), "cores", Prefix::None),
            ),
        ] {
            assert_eq!(usage.to_string(), expected);
        }
    }

    #[test]
    fn whole_numbers_are_whole_in_json_and_no_limit_is_null() {
        let json = |usage: &Usage| serde_json::to_string(usage).unwrap();

        assert_eq!(
            json(&usage(0.25, Some(8.0), "cores", Prefix::None)),
            r#"{"total":8,"unit":"cores","used":0.25}"#
        );
        assert_eq!(
            json(&usage(4096.0, None, "B", Prefix::Gibi)),
            r#"{"total":null,"unit":"B","used":4096}"#
        );
    }

    #[test]
    fn a_disk_is_that_of_the_path_and_no_path_is_the_root() {
        let root = disk(Path::new("/"), Prefix::Gibi).unwrap();
        assert!(root.used > 0.0 && root.total > Some(root.used), "{root:?}");
        assert_eq!(disk(Path::new(""), Prefix::Gibi).unwrap().total, root.total);

        let error = disk(Path::new("/no/such"), Prefix::Gibi).unwrap_err();
        assert_eq!(error.to_string(), "not found: \"/no/such\"");
    }
}
