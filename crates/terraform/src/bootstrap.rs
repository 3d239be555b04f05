//! Scripts that start a workspace's agent, for each platform that agents run on.
//!
//! The `coder` provider takes them from its environment, inserts the server's address and the agent's kind of
//! authentication, and passes them to the template as `init_script`.
//!
//! # Source
//! coder `provisionersdk/agent.go`: the names of the variables, and which program substitutes what.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

const UNIX: &str = include_str!("bootstrap/unix.sh");
const WINDOWS: &str = include_str!("bootstrap/windows.ps1");

/// Platforms of agents: system, architecture, and for Unix the first bytes of a program.
const PLATFORMS: [(&str, &str, &str); 7] = [
    ("linux", "amd64", "7f454c46"),
    ("linux", "arm64", "7f454c46"),
    ("linux", "armv7", "7f454c46"),
    ("darwin", "amd64", "cffaedfe"),
    ("darwin", "arm64", "cffaedfe"),
    ("windows", "amd64", ""),
    ("windows", "arm64", ""),
];

/// Maximum size of a script in bytes: it is part of an environment variable, and of states.
const MAX_BYTES: u64 = 64 * 1024;

/// Returned if a site's own script cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("failed to read the bootstrap script `{}`", .path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The script contains a single quote, which templates put around it.
    #[error("the bootstrap script `{}` has a single quote in line {line}: templates put it into `sh -c` with such quotes", .path.display())]
    Quote {
        /// Path of the file.
        path: PathBuf,
        /// Number of the line, counted from 1.
        line: usize,
    },
    /// The script is too large.
    #[error("the bootstrap script `{}` has more than {MAX_BYTES} bytes", .path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
    },
    /// The directory does not exist, or contains no file with the name of a script.
    #[error("`{}` has no bootstrap script: they are called linux.sh, darwin.sh, windows.ps1, or linux_arm64.sh for one architecture", .dir.display())]
    None {
        /// Path of the directory.
        dir: PathBuf,
    },
}

/// Returns the scripts by `OS_ARCH`. A site's own scripts in `dir` replace ours: `linux_arm64.sh` for one platform,
/// `linux.sh` for all architectures. `${ARCH}` is replaced in each of them; `${ACCESS_URL}` and `${AUTH_TYPE}` are
/// left to the provider.
///
/// # Errors
/// [`BootstrapError`] names the file.
pub fn scripts(dir: Option<&Path>) -> Result<BTreeMap<String, String>, BootstrapError> {
    let mut scripts = BTreeMap::new();
    let mut is_any = false;
    for (os, arch, magic) in PLATFORMS {
        let own = dir.map_or(Ok(None), |dir| site_s(dir, os, arch))?;
        is_any |= own.is_some();
        let text = match (own, os) {
            (Some(own), _) => own,
            (None, "windows") => WINDOWS.to_owned(),
            (None, _) => UNIX.replace("${OS}", os).replace("${MAGIC}", magic),
        };
        scripts.insert(format!("{os}_{arch}"), text.replace("${ARCH}", arch));
    }
    match dir {
        Some(dir) if !is_any => Err(BootstrapError::None {
            dir: dir.to_owned(),
        }),
        _ => Ok(scripts),
    }
}

fn site_s(dir: &Path, os: &str, arch: &str) -> Result<Option<String>, BootstrapError> {
    let ending = if os == "windows" { "ps1" } else { "sh" };
    for name in [format!("{os}_{arch}.{ending}"), format!("{os}.{ending}")] {
        let path = dir.join(name);
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BootstrapError::Read { path, source }),
        };
        if size > MAX_BYTES {
            return Err(BootstrapError::TooLarge { path });
        }
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(BootstrapError::Read { path, source }),
        };
        if let Some(at) = text.find('\'') {
            let line = text[..at].matches('\n').count() + 1;
            return Err(BootstrapError::Quote { path, line });
        }
        return Ok(Some(text));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_has_a_script_that_templates_can_quote() {
        let scripts = scripts(None).unwrap();

        assert_eq!(scripts.len(), PLATFORMS.len());
        for (platform, text) in scripts {
            assert!(!text.contains('\''), "{platform}");
            assert!(text.len() as u64 <= MAX_BYTES, "{platform}");
            for left in ["${ACCESS_URL}bin/coder-", "${AUTH_TYPE}"] {
                assert!(text.contains(left), "{left} is not in {platform}");
            }
            for done in ["${ARCH}", "${OS}", "${MAGIC}"] {
                assert!(!text.contains(done), "{done} is in {platform}");
            }
            let name = platform.replace('_', "-");
            assert!(text.contains(&format!("bin/coder-{name}")), "{platform}");
        }
    }

    #[test]
    fn a_site_s_own_script_takes_the_place_of_ours_for_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("linux.sh", "echo all ${ARCH}");
        write("linux_arm64.sh", "echo arm");

        let own = scripts(Some(dir.path())).unwrap();
        assert_eq!(own["linux_amd64"], "echo all amd64");
        assert_eq!(own["linux_arm64"], "echo arm");
        assert_eq!(
            own["windows_amd64"],
            scripts(None).unwrap()["windows_amd64"]
        );

        write("linux.sh", "true\necho 'x'");
        let error = scripts(Some(dir.path())).unwrap_err().to_string();
        assert!(
            error.contains("linux.sh") && error.contains("line 2"),
            "{error}"
        );
        let empty = tempfile::tempdir().unwrap();
        let error = scripts(Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains("has no bootstrap script"), "{error}");
    }
}
