//! Connections that are open with each credential, which end when it is revoked.

use std::sync::Arc;

use jiff::Timestamp;
use outpost_net::access::Access;
use tracing::info;

use super::{Plane, RequestError};
use crate::{
    model::{KeyId, TokenId, UserId},
    tokens::Hashed,
};

/// A credential that a peer presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Proof {
    /// A token of a person.
    Token(TokenId),
    /// A provisioner key of a daemon.
    Key(KeyId),
    /// Hash of a pre-shared key.
    Psk(Hashed),
}

impl Plane {
    /// Returns the access that everything opened with this credential shares.
    pub(super) fn access(&self, proof: Proof, expires_at: Option<Timestamp>) -> Arc<Access> {
        self.granted.of(proof, || Access::until(expires_at))
    }

    /// Ends everything that was opened with this credential.
    pub(super) fn revoke(&self, proof: Proof) {
        let ended = self.granted.remove(&proof);
        self.let_go(ended.into_iter().collect());
    }

    /// Ends everything that was opened with any of a user's tokens.
    pub(super) async fn revoke_tokens(&self, user: UserId) -> Result<(), RequestError> {
        for token in self.store.tokens(Some(user)).await? {
            self.revoke(Proof::Token(token.id));
        }
        Ok(())
    }

    /// Reads the file with pre-shared keys again if it has changed, and ends everything that was opened with keys that
    /// are no longer in it.
    pub(super) fn refresh_psks(&self) {
        for gone in self.psks.refresh() {
            self.revoke(Proof::Psk(gone));
        }
    }

    /// Ends the connections of all tokens that have expired.
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
        // Also forget clients that are not connected at the moment.
        self.coordinator().forget_revoked();
        self.relay().forget_revoked();
    }
}
