//! How many connections somebody may have at a time, wherever they come from.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::answer::Refusal;
use crate::control::model::{AgentId, UserId};

/// Connections of one agent: it has one, and others that broke may not have been noticed yet.
const OF_AGENT: usize = 16;
/// Connections of programs with one agent's token, which must not take the places of the agent.
const OF_HELPERS: usize = 16;
/// Connections of one person's clients: each login has one to the agent, and one that watches the workspace. Five hundred
/// logins may begin together.
const OF_PERSON: usize = 1024;

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// An agent.
    Agent(AgentId),
    /// Programs with the token of an agent.
    Helper(AgentId),
    /// Whoever started clients.
    Person(UserId),
}

/// Those who are connected. A clone counts the same.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<Holder, usize>>>);

/// A connection that counts until this is dropped.
pub(super) struct Place {
    places: Places,
    holder: Holder,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        // A count is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, unless the holder has all that it may have.
    pub(super) fn take(&self, holder: Holder) -> Result<Place, Refusal> {
        let limit = match holder {
            Holder::Agent(_) => OF_AGENT,
            Holder::Helper(_) => OF_HELPERS,
            Holder::Person(_) => OF_PERSON,
        };
        let mut counts = self.lock();
        let count = counts.entry(holder).or_default();
        if *count >= limit {
            return Err(Refusal::too_many_connections(limit));
        }
        *count += 1;
        Ok(Place {
            places: self.clone(),
            holder,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.lock();
        if let Some(count) = counts.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_has_so_many_connections_and_others_do_not_suffer() {
        let places = Places::default();
        let one = Holder::Agent(AgentId::random());
        let mut held: Vec<Place> = (0..OF_AGENT)
            .map(|_| places.take(one).ok().unwrap())
            .collect();

        assert!(places.take(one).is_err());
        assert!(places.take(Holder::Agent(AgentId::random())).is_ok());

        held.pop();
        assert!(places.take(one).is_ok());
        held.clear();
        assert!(places.lock().is_empty());
    }
}
