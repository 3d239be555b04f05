//! Connection of one daemon: each stream is a call, and their number is bounded.

use std::sync::Arc;

use outpost_transport::yamux;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{Instrument as _, debug, debug_span, info};

use super::{files, rpc, upgrade::Socket};
use crate::services::{calls::Calls, gate::Share};

/// Number of one daemon's streams at the same time; it needs four, and further ones are reset.
const STREAMS: usize = 64;
/// Number of one daemon's calls that are answered at the same time. The others wait, with at most a window of each in
/// memory.
const CALLS: usize = 16;

/// A daemon, with its share of the common budgets.
pub(super) struct Session {
    pub(super) calls: Calls,
    pub(super) share: Arc<Share>,
    pub(super) uploads: files::Uploads,
}

impl Session {
    /// Serves the daemon until its connection ends or the server stops; calls in progress are finished first.
    pub(super) async fn run(self, socket: Socket) {
        let plane = self.calls.plane.clone();
        let name = self.calls.daemon.name.clone();
        let opened = socket.open(self.share.unfinished());
        let socket = match timeout(plane.limits().header_timeout, opened).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                return debug!(name, %error, "a daemon disconnected before the upgrade");
            }
            Err(_) => return debug!(name, "upgrade of a daemon's connection timed out"),
        };
        let config = yamux::Config {
            max_streams: STREAMS,
            unread: Some(self.share.unread.clone()),
            ..yamux::Config::default()
        };
        let (connection, mut incoming) =
            yamux::Connection::start(socket, yamux::Role::Server, config);
        info!(name, "daemon connected");
        let mut running = JoinSet::new();
        let mut beat = interval(plane.limits().heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = connection.closed() => break,
                () = plane.stop().draining() => break,
                Some(_) = running.join_next() => {}
                Some(stream) = incoming.accept(), if running.len() < CALLS => {
                    let serving = rpc::serve(
                        self.calls.clone(),
                        self.share.packets.clone(),
                        self.uploads.clone(),
                        stream,
                    );
                    running.spawn(serving.instrument(debug_span!("call", daemon = name)));
                }
                _ = beat.tick() => {
                    if let Err(error) = plane.alive(&self.calls.daemon).await {
                        debug!(name, %error, "cannot record that a daemon is connected");
                    }
                }
            }
        }
        // No call is aborted: it may be storing a job, or returning one. All of them have a deadline or notice the
        // end.
        while running.join_next().await.is_some() {}
        info!(name, "daemon disconnected");
    }
}
