//! Lifetime of connections, which end when the credential that they came with is revoked or expires.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

/// Access that a credential grants while it is valid. Everything that was opened with the credential holds this, and
/// ends with it.
#[derive(Debug, Default)]
pub struct Access {
    revoked: CancellationToken,
    expires_at: Option<Timestamp>,
}

impl Access {
    /// Grants access until this time, or until it is revoked; `None` for no expiry.
    pub fn until(expires_at: Option<Timestamp>) -> Self {
        let revoked = CancellationToken::new();
        Self {
            revoked,
            expires_at,
        }
    }

    /// Ends the access, and everything that was opened with it.
    pub fn revoke(&self) {
        self.revoked.cancel();
    }

    /// Returns whether the access has been revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.is_cancelled()
    }

    /// Returns whether the access must end by `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Waits until the access is revoked.
    pub async fn revoked(&self) {
        self.revoked.cancelled().await;
    }
}
