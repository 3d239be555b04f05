//! Peers of a coordinator: their queues, and the lock under which [`Core`] decides.
//!
//! Nothing in here waits. A peer that does not read its updates is disconnected, so that no peer can make another one
//! wait.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use outpost_net::access::Access;
use outpost_wire::proto::coder::tailnet::v2::{
    CoordinateRequest, CoordinateResponse, Node, coordinate_response::peer_update::Kind,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::coordinator::{Auth, Connection, Core, Output, Refusal};

/// Number of responses that wait for a peer to read them.
const QUEUE: usize = 512;

/// Number of tunnels of clients whose connection broke and who may come back, over all of them.
const MAX_ABSENT: usize = 1 << 16;

#[derive(Default)]
struct State {
    core: Core,
    queues: HashMap<Connection, mpsc::Sender<CoordinateResponse>>,
    /// Clients whose connection broke, in that order: agents wait for them.
    absent: VecDeque<Absent>,
}

/// A client whose connection broke, and the access with which it may come back.
struct Absent {
    id: Uuid,
    agents: BTreeSet<Uuid>,
    access: Arc<Access>,
}

/// Coordinator of agents and clients. Clones are the same coordinator.
#[derive(Clone, Default)]
pub struct Coordinator(Arc<Mutex<State>>);

/// Connection of a peer. If it is dropped without [`PeerConnection::leave`], the peer counts as lost.
pub struct PeerConnection {
    coordinator: Coordinator,
    id: Uuid,
    connection: Connection,
    access: Option<Arc<Access>>,
}

impl Coordinator {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a peer, which replaces any former connection with its id; its responses end when it is disconnected.
    pub fn connect(
        &self,
        id: Uuid,
        auth: Auth,
    ) -> (PeerConnection, mpsc::Receiver<CoordinateResponse>) {
        let (queue, answers) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        let connection = state.core.connect(id, auth);
        state.absent.retain(|absent| absent.id != id);
        state.queues.insert(connection, queue);
        state.settle();
        drop(state);
        let coordinator = self.clone();
        let peer = PeerConnection {
            coordinator,
            id,
            connection,
            access: None,
        };
        (peer, answers)
    }

    /// Makes agents forget clients that are not connected, and whose access has ended.
    pub fn forget_revoked(&self) {
        let mut state = self.lock();
        let absent = std::mem::take(&mut state.absent);
        let (gone, absent): (Vec<_>, Vec<_>) = absent
            .into_iter()
            .partition(|absent| absent.access.is_revoked());
        state.absent = absent.into();
        for Absent { id, agents, .. } in gone {
            state.core.dismiss(id, agents);
        }
        state.settle();
    }

    /// Numbers of agents and of clients that are connected.
    pub fn counts(&self) -> (usize, usize) {
        self.lock().core.counts()
    }

    /// Returns the newest node update of a peer.
    pub fn node(&self, id: Uuid) -> Option<Arc<Node>> {
        self.lock().core.node(id)
    }

    /// Returns whether a peer is connected.
    pub fn is_connected(&self, id: Uuid) -> bool {
        self.lock().core.is_connected(id)
    }
}

impl PeerConnection {
    /// Limits the peer to `access`: agents forget it when that ends, even if its connection broke before.
    #[must_use]
    pub fn until(mut self, access: Arc<Access>) -> Self {
        self.access = Some(access);
        self
    }

    /// Handles a request of the peer.
    ///
    /// # Errors
    /// [`Refusal`]: then the peer is to be told, and cut off.
    pub fn request(&self, request: CoordinateRequest) -> Result<(), Refusal> {
        let mut state = self.coordinator.lock();
        let done = state.core.request(self.id, self.connection, request);
        state.settle();
        done
    }

    /// Ends the connection in an orderly way.
    pub fn leave(self) {
        self.end(Kind::Disconnected);
    }

    fn end(&self, kind: Kind) {
        let mut state = self.coordinator.lock();
        state.core.leave(self.id, self.connection, kind);
        state.settle();
    }
}

impl Drop for PeerConnection {
    fn drop(&mut self) {
        let Some(access) = self.access.take() else {
            return self.end(Kind::Lost);
        };
        let (id, coordinator) = (self.id, self.coordinator.clone());
        let mut state = coordinator.lock();
        let agents = state.core.tunnels(id, self.connection);
        if access.is_revoked() {
            state.core.leave(id, self.connection, Kind::Disconnected);
            state.core.dismiss(id, agents);
        } else {
            state.core.leave(id, self.connection, Kind::Lost);
            state.wait_for(id, agents, access);
        }
        state.settle();
    }
}

impl State {
    /// Remembers a client that agents wait for.
    fn wait_for(&mut self, id: Uuid, agents: BTreeSet<Uuid>, access: Arc<Access>) {
        if agents.is_empty() {
            return;
        }
        self.absent.push_back(Absent { id, agents, access });
        let count = |absent: &VecDeque<Absent>| -> usize {
            absent.iter().map(|absent| absent.agents.len()).sum()
        };
        while count(&self.absent) > MAX_ABSENT {
            self.absent.pop_front();
        }
    }

    /// Carries out the core's actions, and those that follow from peers that did not accept a response.
    fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Answer {
                    id,
                    connection,
                    answer,
                } => {
                    let queue = self.queues.get(&connection);
                    if queue.is_some_and(|queue| queue.try_send(answer).is_err()) {
                        self.core.leave(id, connection, Kind::Lost);
                    }
                }
                Output::End(connection) => drop(self.queues.remove(&connection)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
