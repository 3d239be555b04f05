//! What is open with each credential, and ends when that is revoked.

use std::sync::Arc;

use jiff::Timestamp;
use outpost_net::access::Access;
use tracing::info;

use super::{Plane, RequestError};
use crate::model::{KeyId, TokenId, UserId};

/// What somebody proved to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Proof {
    /// The value of a token.
    Token(TokenId),
    /// That of a provisioner key.
    Key(KeyId),
}

impl Plane {
    /// The access that everything opened with this shares.
    pub(super) fn access(&self, proof: Proof, expires_at: Option<Timestamp>) -> Arc<Access> {
        self.granted.of(proof, || Access::until(expires_at))
    }

    /// Ends everything that was opened with this.
    pub(super) fn revoke(&self, proof: Proof) {
        let ended = self.granted.remove(&proof);
        self.let_go(ended.into_iter().collect());
    }

    /// Ends everything that was opened with any token of a user.
    pub(super) async fn revoke_tokens(&self, user: UserId) -> Result<(), RequestError> {
        for token in self.store.tokens(Some(user)).await? {
            self.revoke(Proof::Token(token.id));
        }
        Ok(())
    }

    /// Lets everybody go whose token has expired.
    pub(super) fn revoke_expired(&self) {
        let now = self.now();
        self.let_go(self.granted.remove_if(|access| access.has_expired(now)));
    }

    fn let_go(&self, ended: Vec<Arc<Access>>) {
        if ended.is_empty() {
            return;
        }
        for access in &ended {
            access.revoke();
        }
        info!("closing connections whose token or key was revoked or has expired");
        // Of those who are not connected now, too.
        self.coordinator().forget_revoked();
        self.relay().forget_revoked();
    }
}
