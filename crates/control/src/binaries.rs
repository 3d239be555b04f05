//! Agent binaries: those in a directory, and this program for its own platform.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Agent binaries that the server can hand out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Binaries {
    directory: Option<PathBuf>,
}

/// Platform of this program, in Coder's words.
fn own_platform() -> (&'static str, &'static str) {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        os => os,
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "armv7",
        other => other,
    };
    (os, architecture)
}

/// Name of the file that bootstrap scripts request: `coder-linux-amd64`, with `.exe` for Windows.
fn name(os: &str, architecture: &str) -> String {
    let end = if os == "windows" { ".exe" } else { "" };
    format!("coder-{os}-{architecture}{end}")
}

impl Binaries {
    /// Uses the binaries in this directory, and this program for its own platform.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Returns whether there is a binary for a platform.
    pub(crate) fn has(&self, os: &str, architecture: &str) -> bool {
        self.find(&name(os, architecture)).is_some()
    }

    /// Returns how the operator can provide a missing binary.
    pub(crate) fn remedy(os: &str, architecture: &str) -> String {
        let name = name(os, architecture);
        format!("put the binary `{name}` into the server's directory --agent-binaries")
    }

    /// Opens the binary of this name.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    pub(crate) fn open(&self, name: &str) -> io::Result<File> {
        File::open(self.find(name).ok_or(io::ErrorKind::NotFound)?)
    }

    fn find(&self, wanted: &str) -> Option<PathBuf> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        if !wanted.starts_with("coder-") || !wanted.chars().all(is_plain) {
            return None;
        }
        let given = self
            .directory
            .as_ref()
            .map(|directory| directory.join(wanted));
        if let Some(path) = given.filter(|path| path.is_file()) {
            return Some(path);
        }
        let (os, architecture) = own_platform();
        if wanted != name(os, architecture) {
            return None;
        }
        // This link leads to the running program even if its file has been replaced.
        let running = Path::new("/proc/self/exe");
        match running.exists() {
            true => Some(running.to_owned()),
            false => std::env::current_exe().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_our_own_and_what_the_directory_has_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("coder-windows-arm64.exe"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let binaries = Binaries::new(Some(dir.path().to_owned()));
        let (os, architecture) = own_platform();

        assert!(binaries.has(os, architecture));
        assert!(binaries.has("windows", "arm64"));
        assert!(!binaries.has("plan9", "mips"));
        for hostile in ["secret", "coder-../secret", "coder-", "/etc/passwd"] {
            assert!(binaries.open(hostile).is_err(), "{hostile}");
        }
        assert!(Binaries::remedy("darwin", "arm64").contains("`coder-darwin-arm64`"));
    }
}
