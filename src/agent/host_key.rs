//! The SSH server's key: random, and the same as long as its file is there.

use std::{fs, path::Path};

use russh::keys::{Algorithm, PrivateKey, ssh_key::LineEnding};
use tracing::warn;

use crate::files;

/// Reads the key, or makes it. One that cannot be kept serves as long as we run.
pub(super) fn load(path: &Path) -> PrivateKey {
    if let Ok(text) = fs::read_to_string(path) {
        match PrivateKey::from_openssh(&text) {
            Ok(key) => return key,
            Err(error) => {
                warn!(path = %path.display(), %error, "no usable host key; making another one")
            }
        }
    }
    let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)
        .expect("Ed25519 keys can be made");
    if let Err(error) = keep(path, &key) {
        warn!(path = %path.display(), %error, "the host key cannot be kept");
    }
    key
}

fn keep(path: &Path, key: &PrivateKey) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        files::create_private_dir(directory)?;
    }
    let text = key.to_openssh(LineEnding::LF)?;
    Ok(files::write_private(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_stays_and_a_damaged_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/key");

        let first = load(&path);
        assert_eq!(load(&path).public_key(), first.public_key());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, "no key").unwrap();
        let second = load(&path);
        assert_ne!(second.public_key(), first.public_key());
        assert_eq!(load(&path).public_key(), second.public_key());
    }
}
