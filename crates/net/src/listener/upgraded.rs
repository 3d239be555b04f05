//! Upgraded connections, which are no longer HTTP.
//!
//! They stay with the listener, which counts them, and ends them with the server.

use std::{net::IpAddr, pin::Pin};

use tokio::sync::mpsc;

use super::visit;

pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Address of the client. Stored in the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Sender for a handler that upgrades its connection, stored in the extensions of each request: it passes on what
/// follows.
#[derive(Clone)]
pub struct Upgraded(mpsc::Sender<Work>);

/// Receives the work that takes over an upgraded connection.
pub struct UpgradeReceiver(mpsc::Receiver<Work>);

impl Upgraded {
    /// Creates both ends for one connection.
    pub fn channel() -> (Self, UpgradeReceiver) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), UpgradeReceiver(receiver))
    }

    /// Passes on what the connection does once its HTTP has ended, unless the credential of the request is revoked
    /// before; the first handler counts.
    pub fn set(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.try_send(visit::become_part(work)).ok();
    }
}

impl UpgradeReceiver {
    /// Runs what follows, if there is anything.
    pub async fn run(&mut self) {
        if let Ok(work) = self.0.try_recv() {
            work.await;
        }
    }
}
