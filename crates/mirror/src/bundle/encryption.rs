//! Bundles that nobody on the way can read, in the format of age.
//!
//! Whom a bundle is for says nothing of who made it: the signatures are inside, and are checked as ever.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use age::{
    Decryptor, Encryptor, IdentityFile, NoCallbacks, stream::StreamWriter, x25519::Recipient,
};

/// How an encrypted file begins.
pub(super) const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// Of a file with identities.
const MAX_IDENTITY_BYTES: u64 = 64 * 1024;

/// Why something was not encrypted or not decrypted.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// Not a recipient.
    #[error("`{text}` is not an age recipient: those begin with `age1`")]
    Recipient {
        /// What was given; it is not secret.
        text: String,
    },
    /// The file has no identity.
    #[error("failed to read the identity `{}`", .path.display())]
    Identity {
        /// The file.
        path: std::path::PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Nobody said how to decrypt it.
    #[error("the bundle is encrypted")]
    Sealed,
    /// The system's reason.
    #[error("failed to encrypt the bundle")]
    Write(#[source] io::Error),
    /// It is for somebody else, or damaged.
    #[error("the bundle cannot be decrypted")]
    Decrypt(#[source] age::DecryptError),
    /// Nothing could be read.
    #[error("failed to read the bundle")]
    Read(#[source] io::Error),
}

impl EncryptionError {
    /// What to try next.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::Sealed)
            .then_some("name the file with your age identity: --identity FILE")
    }
}

/// Encrypts for all of `recipients` what is written, into `out`. The writer has to be finished.
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

/// A bundle that is read as it was signed.
pub struct Opened {
    /// Its bytes.
    pub content: Box<dyn Read + Send>,
    /// Whether they were decrypted on the way.
    pub is_encrypted: bool,
}

/// What `input` has: as it is, or decrypted with the identities in a file.
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
