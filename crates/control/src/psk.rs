//! Pre-shared keys of daemons. Two are valid at a time, so that they can be rotated: daemons change from the old key to
//! the new one in any order, and then the old one is removed.
//!
//! A server reads the file with its keys again when it changes; a daemon reads its own for each connection.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use outpost_base::secret::Secret;
use subtle::ConstantTimeEq as _;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::{config::ConfigError, tokens::Hashed};

/// Minimum length in characters: shorter keys could be guessed over the network; generated ones have 43.
pub(crate) const SHORTEST: usize = 16;

/// Maximum number of valid keys: during a rotation, the old one and the new one.
const MAX_KEYS: usize = 2;

/// Maximum size of a file with keys, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Keys that a server accepts: those of its options, and those in a file.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    given: Vec<Secret>,
    file: Option<KeyFile>,
}

#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    newest: Mutex<Newest>,
}

/// The newest usable keys of a file, and the file's stamp when it was last looked at, `None` if there was no regular
/// file.
#[derive(Debug)]
struct Newest {
    stamp: Option<Stamp>,
    keys: Vec<Secret>,
}

/// Inode, size, and times of the last change of content and of inode.
type Stamp = (u64, u64, [i64; 4]);

impl Accepted {
    /// Takes the keys of the options and reads those in `file`, whose errors name it.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or has no key, or if there are too many keys or a short one.
    pub(crate) fn new(given: Vec<Secret>, file: Option<&Path>) -> Result<Self, ConfigError> {
        let file = file.map(|path| -> Result<_, ConfigError> {
            let newest = Newest {
                stamp: stamp(path),
                keys: read(path, &given)?,
            };
            Ok(KeyFile {
                path: path.to_owned(),
                newest: Mutex::new(newest),
            })
        });
        check(&given)?;
        Ok(Self {
            file: file.transpose()?,
            given,
        })
    }

    /// Returns whether `key` is accepted at the moment.
    pub(crate) fn contains(&self, key: &Secret) -> bool {
        is_one_of(key, &self.all())
    }

    /// Returns a fingerprint of each key that is accepted at the moment.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        fingerprints(&self.all())
    }

    /// Reads the file again if it has changed, and returns the keys that are no longer accepted. The old keys stay
    /// valid if it cannot be used: somebody may be writing it.
    pub(crate) fn refresh(&self) -> Vec<Hashed> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let path = file.path.display();
        let mut newest = file.newest();
        let stamp = stamp(&file.path);
        if newest.stamp == stamp {
            return Vec::new();
        }
        newest.stamp = stamp;
        // Opening a pipe would wait for somebody who writes into it.
        let keys = match newest.stamp {
            Some(_) => read(&file.path, &self.given),
            None => Err(unusable(
                &file.path,
                "it is missing, or is no regular file".to_owned(),
            )),
        };
        match keys {
            Ok(keys) => {
                let fingerprints = fingerprints(&keys).join(", ");
                info!(%path, fingerprints, "pre-shared keys were read again, because their file has changed");
                let old = std::mem::replace(&mut newest.keys, keys);
                let left = [&self.given, newest.keys.as_slice()].concat();
                let gone = old.iter().filter(|key| !is_one_of(key, &left));
                gone.map(Hashed::of).collect()
            }
            Err(error) => {
                warn!(%path, %error, "pre-shared keys cannot be read again, so the earlier ones remain valid");
                Vec::new()
            }
        }
    }

    fn all(&self) -> Vec<Secret> {
        let read = self.file.as_ref().map(|file| file.newest().keys.clone());
        [self.given.clone(), read.unwrap_or_default()].concat()
    }
}

impl KeyFile {
    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let it = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let times = [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()];
    Some((it.ino(), it.size(), times))
}

fn unusable(path: &Path, reason: String) -> ConfigError {
    ConfigError::PskFile {
        path: path.to_owned(),
        reason,
    }
}

/// Reads the keys in a file, one per line, and checks them together with the given ones.
fn read(path: &Path, given: &[Secret]) -> Result<Vec<Secret>, ConfigError> {
    let unusable = |reason| unusable(path, reason);
    let failed = |error: io::Error| unusable(error.to_string());
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(failed)?;
    let mut file = file.take(MAX_FILE_BYTES);
    file.read_to_string(&mut text).map_err(failed)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Vec<Secret> = lines.map(Secret::new).collect();
    if keys.is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    check(&[given, &keys].concat())?;
    Ok(keys)
}

/// Checks the number and the length of the keys.
///
/// # Errors
/// [`ConfigError`] names the key, not its value.
pub(crate) fn check(psks: &[Secret]) -> Result<(), ConfigError> {
    if psks.len() > MAX_KEYS {
        return Err(ConfigError::TooManyPsks(psks.len()));
    }
    let lengths = psks.iter().map(|psk| psk.expose().chars().count());
    match lengths.enumerate().find(|(_, length)| *length < SHORTEST) {
        Some((index, length)) => Err(ConfigError::ShortPsk {
            number: index + 1,
            length,
        }),
        None => Ok(()),
    }
}

/// Returns whether `given` is one of `accepted`, in constant time: it is compared with all of them.
fn is_one_of(given: &Secret, accepted: &[Secret]) -> bool {
    let given = Hashed::of(given);
    accepted
        .iter()
        .map(|accepted| Hashed::of(accepted).0.ct_eq(&given.0))
        .fold(subtle::Choice::from(0), |any, equal| any | equal)
        .into()
}

/// Returns a fingerprint of each key.
fn fingerprints(psks: &[Secret]) -> Vec<String> {
    psks.iter()
        .map(|psk| Hashed::of(psk).fingerprint())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::generate;

    #[test]
    fn keys_follow_their_file_but_not_into_one_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("psk");
        let (given, old, new) = (generate(), generate(), generate());
        let write = |text: &str| fs::write(&path, text).unwrap();
        write(&format!("{}\n", old.expose()));
        let keys = Accepted::new(vec![given.clone()], Some(&path)).unwrap();
        let has = |wanted: [bool; 3]| {
            assert_eq!([&given, &old, &new].map(|key| keys.contains(key)), wanted);
        };
        has([true, true, false]);
        assert_eq!(keys.refresh(), []);

        write(&format!("\n{}\n", new.expose()));
        assert_eq!(keys.refresh(), [Hashed::of(&old)]);
        has([true, false, true]);
        assert_eq!(keys.fingerprints().len(), 2);

        for unusable in ["", "short", &format!("{0}\n{0}\n{0}", old.expose())] {
            write(unusable);
            assert_eq!(keys.refresh(), []);
            has([true, false, true]);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(keys.refresh(), []);
        has([true, false, true]);
        // A key that the options have as well stays valid.
        write(given.expose());
        assert_eq!(keys.refresh(), [Hashed::of(&new)]);
        write(old.expose());
        assert_eq!(keys.refresh(), []);
        has([true, true, false]);
    }

    /// As with `--psk-file <(COMMAND)`, whose writer is gone when the server looks again.
    #[test]
    fn a_pipe_is_read_at_the_start_and_never_waited_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("psk");
        let (piped, later) = (generate(), generate());
        let make_pipe = || {
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
        };
        make_pipe();
        let writer = std::thread::spawn({
            let (path, piped) = (path.clone(), piped.clone());
            move || fs::write(path, piped.expose())
        });
        let keys = Accepted::new(Vec::new(), Some(&path)).unwrap();
        writer.join().unwrap().unwrap();

        // Without a writer, opening the pipe would never end.
        assert_eq!(keys.refresh(), []);
        assert!(keys.contains(&piped));
        fs::remove_file(&path).unwrap();
        fs::write(&path, later.expose()).unwrap();
        assert_eq!(keys.refresh(), [Hashed::of(&piped)]);
        fs::remove_file(&path).unwrap();
        make_pipe();
        assert_eq!(keys.refresh(), []);
        assert!(keys.contains(&later));
    }

    #[test]
    fn a_file_without_a_usable_key_is_named_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("psk");
        for text in [None, Some(""), Some("\n \n")] {
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            let error = Accepted::new(Vec::new(), Some(&path)).unwrap_err();
            assert!(error.to_string().contains("psk"), "{error}");
        }
    }

    #[test]
    fn up_to_two_keys_of_some_length_are_accepted() {
        let check = |psks: &[&str]| {
            let psks: Vec<Secret> = psks.iter().map(|psk| Secret::new(*psk)).collect();
            check(&psks)
        };
        let good = "0123456789abcdef";

        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[good, good]), Ok(()));
        assert_eq!(check(&[good; 3]), Err(ConfigError::TooManyPsks(3)));
        let short = ConfigError::ShortPsk {
            number: 2,
            length: 6,
        };
        assert_eq!(check(&[good, "secret"]), Err(short));
    }

    #[test]
    fn any_of_several_keys_is_accepted_and_nothing_else() {
        let (old, new) = (generate(), generate());
        let accepted = [old.clone(), new.clone()];

        assert!(is_one_of(&old, &accepted) && is_one_of(&new, &accepted));
        assert!(!is_one_of(&generate(), &accepted));
        assert!(!is_one_of(&Secret::default(), &accepted));
        assert!(!is_one_of(&old, &[]));
    }
}
