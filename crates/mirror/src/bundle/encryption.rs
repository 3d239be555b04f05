//! Bundles that are encrypted on the way, in the format of age.
//!
//! The recipients of a bundle say nothing about who made it: the signatures are inside, and are verified as usual.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use age::{
    Decryptor, Encryptor, IdentityFile, NoCallbacks, stream::StreamWriter, x25519::Recipient,
};

/// First bytes of an encrypted file.
pub(super) const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Maximum size of a file with identities.
const MAX_IDENTITY_BYTES: u64 = 64 * 1024;

/// Reason why something was not encrypted or not decrypted.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// A text is not a recipient.
    #[error("`{text}` is not an age recipient: those begin with `age1`")]
    Recipient {
        /// The text, which is not secret.
        text: String,
    },
    /// A file contains no identity.
    #[error("failed to read the identity `{}`", .path.display())]
    Identity {
        /// Path of the file.
        path: std::path::PathBuf,
        /// Reason why the identities cannot be read.
        source: io::Error,
    },
    /// The bundle is encrypted, and no identity was given.
    #[error("the bundle is encrypted")]
    Sealed,
    /// Error while writing the encrypted file.
    #[error("failed to encrypt the bundle")]
    Write(#[source] io::Error),
    /// The file is encrypted for other recipients, or damaged.
    #[error("the bundle cannot be decrypted")]
    Decrypt(#[source] age::DecryptError),
    /// The file cannot be read.
    #[error("failed to read the bundle")]
    Read(#[source] io::Error),
}

impl EncryptionError {
    /// Returns a suggestion for the next step.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::Sealed)
            .then_some("name the file with your age identity: --identity FILE")
    }
}

/// Returns a writer that encrypts for all `recipients` into `out`. The writer has to be finished.
///
/// # Errors
/// [`EncryptionError`].
pub fn encrypted<W: Write>(
    recipients: &[String],
    out: W,
) -> Result<StreamWriter<W>, EncryptionError> {
    let parse = |text: &String| {
        let text = text.trim();
        let wrong = |_| EncryptionError::Recipient {
            text: text.to_owned(),
        };
        text.parse::<Recipient>().map_err(wrong)
    };
    let recipients: Vec<_> = recipients.iter().map(parse).collect::<Result<_, _>>()?;
    let each = recipients.iter().map(|it| it as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(each)
        .map_err(|error| EncryptionError::Write(io::Error::other(error)))?;
    encryptor.wrap_output(out).map_err(EncryptionError::Write)
}

/// A bundle in the form in which it was signed.
pub struct Opened {
    /// Reader of the bundle's bytes.
    pub content: Box<dyn Read + Send>,
    /// `true` if the bytes are decrypted while they are read.
    pub is_encrypted: bool,
}

/// Returns the content of `input`: unchanged, or decrypted with the identities in a file.
///
/// # Errors
/// [`EncryptionError`]; [`EncryptionError::Sealed`] if it is encrypted and there is no identity.
pub fn decrypted(
    mut input: Box<dyn Read + Send>,
    identity: Option<&Path>,
) -> Result<Opened, EncryptionError> {
    let mut begin = Vec::new();
    (&mut input)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut begin)
        .map_err(EncryptionError::Read)?;
    let is_encrypted = begin == MAGIC;
    let input = io::Cursor::new(begin).chain(input);
    if !is_encrypted {
        let content = Box::new(input);
        return Ok(Opened {
            content,
            is_encrypted,
        });
    }
    let path = identity.ok_or(EncryptionError::Sealed)?;
    let identities = identities(path).map_err(|source| EncryptionError::Identity {
        path: path.to_owned(),
        source,
    })?;
    let decryptor = Decryptor::new(input).map_err(EncryptionError::Decrypt)?;
    let each = identities
        .iter()
        .map(|it| it.as_ref() as &dyn age::Identity);
    let plain = decryptor.decrypt(each).map_err(EncryptionError::Decrypt)?;
    Ok(Opened {
        content: Box::new(plain),
        is_encrypted,
    })
}

fn identities(path: &Path) -> io::Result<Vec<Box<dyn age::Identity>>> {
    let file = fs::File::open(path)?.take(MAX_IDENTITY_BYTES);
    let file = IdentityFile::from_buffer(io::BufReader::new(file))?;
    file.with_callbacks(NoCallbacks)
        .into_identities()
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use age::{secrecy::ExposeSecret as _, x25519::Identity};
    use tempfile::TempDir;

    use super::*;

    const CONTENT: &[u8] = b"a bundle, as it was signed";

    fn sealed_for(identities: &[&Identity]) -> Vec<u8> {
        let recipients = identities.iter().map(|it| it.to_public().to_string());
        let mut out = Vec::new();
        let mut writer = encrypted(&recipients.collect::<Vec<_>>(), &mut out).unwrap();
        writer.write_all(CONTENT).unwrap();
        writer.finish().unwrap();
        out
    }

    fn file_of(identity: &Identity) -> (TempDir, std::path::PathBuf) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("identity");
        fs::write(&path, identity.to_string().expose_secret()).unwrap();
        (dir, path)
    }

    fn open(bytes: &[u8], identity: Option<&Path>) -> Result<(Vec<u8>, bool), EncryptionError> {
        let mut opened = decrypted(Box::new(io::Cursor::new(bytes.to_vec())), identity)?;
        let mut content = Vec::new();
        let read = opened.content.read_to_end(&mut content);
        read.map_err(EncryptionError::Read)?;
        Ok((content, opened.is_encrypted))
    }

    #[test]
    fn each_recipient_reads_it_and_nobody_else() {
        let (ours, theirs, other) = (
            Identity::generate(),
            Identity::generate(),
            Identity::generate(),
        );
        let sealed = sealed_for(&[&ours, &theirs]);
        assert!(sealed.starts_with(MAGIC));

        for identity in [&ours, &theirs] {
            let (_dir, path) = file_of(identity);
            assert_eq!(
                open(&sealed, Some(&path)).unwrap(),
                (CONTENT.to_vec(), true)
            );
        }
        let (_dir, path) = file_of(&other);
        let error = open(&sealed, Some(&path)).unwrap_err();
        assert!(matches!(error, EncryptionError::Decrypt(_)), "{error:?}");
        let error = open(&sealed, None).unwrap_err();
        assert!(matches!(error, EncryptionError::Sealed), "{error:?}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn what_is_not_encrypted_stays_as_it_is_however_short() {
        for content in [CONTENT, b"", b"age", &MAGIC[..MAGIC.len() - 1]] {
            assert_eq!(open(content, None).unwrap(), (content.to_vec(), false));
        }
    }

    #[test]
    fn a_changed_or_shortened_bundle_is_an_error() {
        let ours = Identity::generate();
        let (_dir, path) = file_of(&ours);
        let sealed = sealed_for(&[&ours]);

        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(open(&changed, Some(&path)).is_err());
        assert!(open(&sealed[..sealed.len() - 1], Some(&path)).is_err());
    }

    #[test]
    fn a_wrong_recipient_and_a_file_without_identities_are_named() {
        let Err(error) = encrypted(&["ssh-ed25519 AAAA".to_owned()], Vec::new()) else {
            panic!("it is no recipient");
        };
        assert!(error.to_string().contains("`ssh-ed25519 AAAA`"), "{error}");

        let (_dir, path) = file_of(&Identity::generate());
        let sealed = sealed_for(&[&Identity::generate()]);
        fs::write(&path, "no identity").unwrap();
        let error = open(&sealed, Some(&path)).unwrap_err();
        let name = path.display().to_string();
        assert!(error.to_string().contains(&name), "{error}");
    }
}
