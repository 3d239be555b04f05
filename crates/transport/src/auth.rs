//! Credentials of a daemon: pre-shared key, provisioner key or session token.

use http::{HeaderName, HeaderValue};
use outpost_base::secret::Secret;

/// Credential that a daemon presents. Servers refuse two of them at once.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A pre-shared key; only in the default organization.
    Psk(Secret),
    /// A provisioner key, which belongs to an organization and has tags of its own.
    Key(Secret),
    /// A session token of a user.
    SessionToken(Secret),
}

/// Source that reads the credential anew for each connection, so that rotation needs no restart.
pub trait CredentialSource: Send + Sync {
    /// Returns the credential to connect with.
    ///
    /// # Errors
    /// Why it cannot be read, in words for the operator.
    fn credential(&self) -> Result<Credential, String>;
}

impl Credential {
    /// Secret value of the credential.
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Psk(value) | Self::Key(value) | Self::SessionToken(value) => value,
        }
    }

    /// Returns the header that carries it, with its value marked as sensitive. `None` if it has characters that no
    /// header can contain.
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
