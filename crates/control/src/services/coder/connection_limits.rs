//! Limits on how many connections one peer may have at the same time, wherever they come from.
//!
//! The listener limits connections as well, by address and before it knows whose they are (`net/listener/places.rs`):
//! there a newcomer may displace another connection, here it is refused.

use std::sync::Arc;

use outpost_net::budget::Shared;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Refusal;
use crate::model::{AgentId, UserId};

/// Connections of one agent: it has one, and others may have broken without the server noticing yet.
const OF_AGENT: usize = 16;
/// Connections of programs with one agent's token, which must not take the agent's own limits.
const OF_HELPERS: usize = 16;
/// Connections of one person's clients: each login has one to the agent, and one that watches the workspace. Five hundred
/// logins may begin together.
const OF_PERSON: usize = 1024;

/// Owner of connections that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// The agent itself, by its id.
    Agent(AgentId),
    /// Programs with the token of an agent.
    Helper(AgentId),
    /// Person who started the clients.
    Person(UserId),
}

/// Open connections by owner. Clones share the counts.
#[derive(Clone, Default)]
pub(super) struct ConnectionLimits(Arc<Shared<Holder, Semaphore>>);

/// A place of a connection, which counts until this is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl ConnectionLimits {
    /// Takes a place, unless the holder already has as many as it may have.
    pub(super) fn take(&self, holder: Holder) -> Result<Place, Refusal> {
        let limit = match holder {
            Holder::Agent(_) => OF_AGENT,
            Holder::Helper(_) => OF_HELPERS,
            Holder::Person(_) => OF_PERSON,
        };
        let limits = self.0.of(holder, || Semaphore::new(limit));
        match limits.try_acquire_owned() {
            Ok(_permit) => Ok(Place { _permit }),
            Err(_) => Err(Refusal::too_many_connections(limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_has_so_many_connections_and_others_do_not_suffer() {
        let limits = ConnectionLimits::default();
        let one = Holder::Agent(AgentId::random());
        let mut held: Vec<Place> = (0..OF_AGENT)
            .map(|_| limits.take(one).ok().unwrap())
            .collect();

        assert!(limits.take(one).is_err());
        assert!(limits.take(Holder::Agent(AgentId::random())).is_ok());

        held.pop();
        held.push(limits.take(one).ok().unwrap());
        assert!(limits.take(one).is_err());
        drop(held);
        assert!(limits.take(one).is_ok());
    }
}
