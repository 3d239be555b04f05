//! How long a connection may stay: until the credential that it came with is revoked or has expired.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

/// What a credential gives while it is valid. Everything that was opened with it holds this, and ends with it.
#[derive(Debug, Default)]
pub struct Access {
    revoked: CancellationToken,
    expires_at: Option<Timestamp>,
}

impl Access {
    /// Access until then, or until it is revoked.
    pub fn until(expires_at: Option<Timestamp>) -> Self {
        let revoked = CancellationToken::new();
        Self {
            revoked,
            expires_at,
        }
    }

    /// Ends it, and with it everything that was opened with it.
    pub fn revoke(&self) {
        self.revoked.cancel();
    }

    /// Whether it has ended.
    pub fn is_revoked(&self) -> bool {
        self.revoked.is_cancelled()
    }

    /// Whether it has to end by `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Waits until it ends.
    pub async fn revoked(&self) {
        self.revoked.cancelled().await;
    }
}
