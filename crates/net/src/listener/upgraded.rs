//! What becomes of a connection that is HTTP no more.
//!
//! It stays in the hands of the listener, which counts it, and ends it with the server.

use std::{net::IpAddr, pin::Pin};

use tokio::sync::mpsc;

use super::visit;

pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who asks. Stands in the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Stands in the extensions of each request: a handler that upgrades its connection says here what follows.
#[derive(Clone)]
pub struct Upgraded(mpsc::Sender<Work>);

/// The other end, for the connection.
pub struct Becomes(mpsc::Receiver<Work>);

impl Upgraded {
    /// Both ends, for one connection.
    pub fn channel() -> (Self, Becomes) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), Becomes(receiver))
    }

    /// Hands over what the connection does once its HTTP has ended, unless what the request was made with is revoked
    /// before; the first handler counts.
    pub fn set(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.try_send(visit::become_part(work)).ok();
    }
}

impl Becomes {
    /// Does what follows, if anything does.
    pub async fn run(&mut self) {
        if let Ok(work) = self.0.try_recv() {
            work.await;
        }
    }
}
