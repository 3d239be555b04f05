//! Secrets of the owner that are written to files.
//!
//! # Source
//! coder `agent/agent.go` `writeSecretFiles`; unlike there, an existing file that others can read is closed to them.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use outpost_files as files;
use outpost_wire::proto::coder::agent::v2::WorkspaceSecret;
use tracing::{debug, warn};

/// Permissions of the files.
const MODE: u32 = 0o600;
/// Permission bits of anybody but the owner.
const OTHERS: u32 = 0o077;

/// Writes the secrets that have a path. A failure is logged with its name, never with its value.
pub(super) fn write(secrets: &[WorkspaceSecret], home: &Path) {
    let mut written = BTreeSet::new();
    for secret in secrets.iter().filter(|it| !it.file_path.is_empty()) {
        let Some(path) = place(&secret.file_path, home) else {
            warn!(
                path = secret.file_path,
                "skipping a secret whose path begins with neither `/` nor `~/`"
            );
            continue;
        };
        if !written.insert(path.clone()) {
            warn!(path = %path.display(), "several secrets have this path; using the last one");
        }
        match write_one(&path, &secret.value) {
            Ok(()) => debug!(path = %path.display(), "wrote a secret"),
            Err(error) => warn!(path = %path.display(), %error, "cannot write a secret"),
        }
    }
}

/// Returns the path of a secret's file. Variables in it are not expanded, because the server has checked it as it is.
fn place(path: &str, home: &Path) -> Option<PathBuf> {
    match path.strip_prefix("~/") {
        Some(rest) => Some(home.join(rest.trim_start_matches('/'))),
        None => path.starts_with('/').then(|| PathBuf::from(path)),
    }
}

fn write_one(path: &Path, value: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        files::create_private_dir(parent)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).mode(MODE).open(path)?;
    close_to_others(&file)?;
    // Written only now, after the permissions: users who could read the old file must not see the value.
    file.set_len(0)?;
    file.write_all(value)
}

fn close_to_others(file: &File) -> io::Result<()> {
    match file.metadata()?.permissions().mode() & OTHERS {
        0 => Ok(()),
        _ => file.set_permissions(Permissions::from_mode(MODE)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn secret(path: &str, value: &'static [u8]) -> WorkspaceSecret {
        WorkspaceSecret {
            env_name: String::new(),
            file_path: path.to_owned(),
            value: value.into(),
        }
    }

    #[test]
    fn a_secret_is_a_file_of_its_owner_s_alone_with_the_directories_above_it() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        fs::write(&open, "a longer text than the secret").unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
        let absolute = home.path().join("$A/b").display().to_string();

        write(
            &[
                secret("~/.config/x/token", b"\xff\0t"),
                secret("~/open", b"s"),
                secret(&absolute, b"a"),
                secret("relative", b"r"),
                secret("", b"only a variable"),
            ],
            home.path(),
        );

        for (path, value) in [
            (".config/x/token", &b"\xff\0t"[..]),
            ("open", b"s"),
            ("$A/b", b"a"),
        ] {
            let path = home.path().join(path);
            assert_eq!(fs::read(&path).unwrap(), value, "{}", path.display());
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, MODE, "{}", path.display());
        }
        let parent = fs::metadata(home.path().join(".config/x")).unwrap();
        assert_eq!(parent.permissions().mode() & 0o777, 0o700);
        assert!(!Path::new("relative").exists());
    }

    #[test]
    fn what_cannot_be_written_keeps_no_other_from_being_written() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();

        write(
            &[secret("~/file/below", b"a"), secret("~/b", b"b")],
            home.path(),
        );

        assert_eq!(fs::read(home.path().join("b")).unwrap(), b"b");
    }
}
