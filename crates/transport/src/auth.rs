//! How a daemon proves who it is.

use http::{HeaderName, HeaderValue};
use outpost_base::secret::Secret;

/// What a daemon shows. Two of them at once are refused by servers.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A pre-shared key; only in the default organisation.
    Psk(Secret),
    /// A provisioner key, which belongs to an organisation and has tags of its own.
    Key(Secret),
    /// A user's token.
    SessionToken(Secret),
}

/// Reads the credential anew for each connection, so that rotation needs no restart.
pub trait CredentialSource: Send + Sync {
    /// The credential to connect with.
    ///
    /// # Errors
    /// Why it cannot be read, in words for the operator.
    fn credential(&self) -> Result<Credential, String>;
}

impl Credential {
    /// The secret itself.
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Psk(value) | Self::Key(value) | Self::SessionToken(value) => value,
        }
    }

    /// The header that carries it; its value is marked as sensitive. `None` if it has characters that no header can
    /// carry.
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let (name, secret) = match self {
            Self::Psk(value) => ("coder-provisioner-daemon-psk", value),
            Self::Key(value) => ("coder-provisioner-daemon-key", value),
            Self::SessionToken(value) => ("coder-session-token", value),
        };
        let mut value = HeaderValue::from_str(secret.expose()).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_static(name), value))
    }
}
