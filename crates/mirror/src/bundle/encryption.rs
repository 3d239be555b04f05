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
