//! A coordinator's peers: their queues, and the lock under which [`Core`] decides.
//!
//! All of it happens at once. A peer that does not take what it is told is cut off, so that none can make another one
//! wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::coordinator::{Auth, Connection, Core, Output, Refusal};
use crate::proto::coder::tailnet::v2::{
    CoordinateRequest, CoordinateResponse, Node, coordinate_response::peer_update::Kind,
};

/// Answers that wait for a peer to take them.
const QUEUE: usize = 512;

#[derive(Default)]
struct State {
    core: Core,
    queues: HashMap<Connection, mpsc::Sender<CoordinateResponse>>,
}

/// The coordinator. A clone is the same one.
#[derive(Clone, Default)]
pub struct Coordinator(Arc<Mutex<State>>);

/// A peer's connection. Dropped without [`Seat::leave`], the peer counts as lost.
pub struct Seat {
    coordinator: Coordinator,
    id: Uuid,
    connection: Connection,
}

impl Coordinator {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a peer in, in the place of whoever had its id before; its answers end when it is cut off.
    pub fn connect(&self, id: Uuid, auth: Auth) -> (Seat, mpsc::Receiver<CoordinateResponse>) {
        let (queue, answers) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        let connection = state.core.connect(id, auth);
        state.queues.insert(connection, queue);
        state.settle();
        drop(state);
        let coordinator = self.clone();
        let seat = Seat {
            coordinator,
            id,
            connection,
        };
        (seat, answers)
    }

    /// What a peer said last of itself.
    pub fn node(&self, id: Uuid) -> Option<Arc<Node>> {
        self.lock().core.node(id)
    }

    /// Whether a peer is connected.
    pub fn is_connected(&self, id: Uuid) -> bool {
        self.lock().core.is_connected(id)
    }
}

impl Seat {
    /// Does what the peer asks for.
    ///
    /// # Errors
    /// [`Refusal`]: then the peer is to be told, and cut off.
    pub fn request(&self, request: CoordinateRequest) -> Result<(), Refusal> {
        let mut state = self.coordinator.lock();
        let done = state.core.request(self.id, self.connection, request);
        state.settle();
        done
    }

    /// Ends in an orderly way.
    pub fn leave(self) {
        self.end(Kind::Disconnected);
    }

    fn end(&self, kind: Kind) {
        let mut state = self.coordinator.lock();
        state.core.leave(self.id, self.connection, kind);
        state.settle();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.end(Kind::Lost);
    }
}

impl State {
    /// Does what the core wants done, and what it then wants of those who did not take an answer.
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
