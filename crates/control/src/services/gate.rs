//! Identification of gRPC callers from the headers, before anything of the message is read, so that what is read then
//! counts against its sender.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::Extensions,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use outpost_net::{
    budget::{Account, Allowance, Refusals, Shared},
    listener::{Budgets, Held},
    websocket::UnfinishedLimit,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, metadata::MetadataMap};

use super::{
    caller,
    metered::{MessageReservations, Meter, Metered},
    responses::ResponseLimit,
};
use crate::{
    model::{AgentId, DaemonId, UserId},
    plane::Plane,
};

/// Number of one sender's calls at the same time. Five hundred logins of a person may begin together.
const CALLS: usize = 1024;
/// Number of callers that are identified at the same time. Each may have sent a part of a message meanwhile.
const LOOKUPS: usize = 512;
/// Limit of a message of a caller that needs no token or is registering, in bytes.
const SMALLEST: usize = 4 << 10;
const REGISTRATION: usize = 64 << 10;
/// Bytes of a message that carries neither an archive nor a state. One of many empty parts takes up to a hundred times
/// as much once it is read.
const ORDINARY: usize = 1 << 20;
/// Budget for small messages of one sender, in bytes.
const SMALL_OF_SENDER: usize = 4 << 20;

/// Budget for large dRPC packets of one sender in bytes: four of them. An agent sends its logs in packets of 1 MiB,
/// and a daemon of Coder's has one job at a time.
const PACKETS_OF_SENDER: usize = 16 << 20;
/// Bytes of one sender that arrived on yamux streams and were not read: 64 streams that wait for their turn, each with
/// a quarter of its window.
const UNREAD_OF_SENDER: usize = 4 << 20;
/// Numbers of unfinished WebSocket messages over 16 KiB: of one sender, of all together, and of the relay's clients
/// with a credential and without one. Each may have 256 KiB.
const UNFINISHED_OF_SENDER: usize = 32;
const UNFINISHED: usize = 128;
const UNFINISHED_AT_RELAY: usize = 64;
const UNFINISHED_OF_STRANGERS: usize = 16;

const CONTROL: &str = "/outpost.v1.ControlService/";
/// Calls that are answered piece by piece, for as long as their callers want.
const STREAMED: [&str; 2] = [
    "/outpost.v1.ControlService/StreamLogs",
    "/outpost.v1.ControlService/StreamAgentLogs",
];
const DAEMON: &str = "/outpost.v1.DaemonService/";
/// Calls that carry archives, states or job results.
const LARGE: [&str; 5] = [
    "/outpost.v1.ControlService/CreateVersion",
    "/outpost.v1.ControlService/PushState",
    "/outpost.v1.DaemonService/UpdateJob",
    "/outpost.v1.DaemonService/FailJob",
    "/outpost.v1.DaemonService/CompleteJob",
];

/// Sender whose messages are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    /// A person, with any of their tokens.
    Person(UserId),
    /// An agent, and programs with its token.
    Agent(AgentId),
    /// A daemon that has registered.
    Daemon(DaemonId),
    /// All daemons that are registering, together.
    Newcomer,
}

/// Budgets of one sender.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) messages: Arc<Account>,
    /// Budget for large packets on its dRPC calls.
    pub(super) packets: Arc<Account>,
    /// Budget for unread data on its yamux sessions.
    pub(super) unread: Allowance,
    unfinished: [UnfinishedLimit; 2],
    calls: Arc<Semaphore>,
    responses: ResponseLimit,
}

/// Place of one call among those of its sender. It keeps the share, else the sender's next call would count on a new one.
#[derive(Debug)]
struct Place {
    _share: Arc<Share>,
    _call: OwnedSemaphorePermit,
    _response: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes a place for a call, and waits for one for its response if that is limited.
    async fn place(self: Arc<Self>, is_limited: bool) -> Result<Place, Status> {
        let full = || format!("you have {CALLS} calls in progress, which is the limit");
        let call = self.calls.clone().try_acquire_owned();
        let call = call.map_err(|_| Status::unavailable(full()))?;
        let response = match is_limited {
            true => Some(self.responses.wait().await),
            false => None,
        };
        let response = response.transpose();
        let response = response.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Place {
            _share: self,
            _call: call,
            _response: response,
        })
    }

    /// Permits for large messages on its WebSockets.
    pub(super) fn unfinished(&self) -> [UnfinishedLimit; 2] {
        self.unfinished.clone()
    }
}

/// Budgets of all senders. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    by_sender: Arc<Shared<Sender, Share>>,
    refusals: Refusals,
    all: Arc<Account>,
    unfinished: UnfinishedLimit,
    at_relay: UnfinishedLimit,
    of_strangers: UnfinishedLimit,
    message_bytes: usize,
}

impl Shares {
    /// Sizes the budgets: the largest message has `message_bytes`; one sender may have one of them, and all together
    /// two.
    pub(super) fn new(message_bytes: usize, refusals: &Refusals) -> Self {
        let all = Account::new(64 << 20, message_bytes.saturating_mul(2));
        Self {
            refusals: refusals.clone(),
            by_sender: Arc::default(),
            all: Arc::new(all.counted_by(refusals)),
            unfinished: UnfinishedLimit::new(UNFINISHED),
            at_relay: UnfinishedLimit::new(UNFINISHED_AT_RELAY),
            of_strangers: UnfinishedLimit::new(UNFINISHED_OF_STRANGERS),
            message_bytes,
        }
    }

    /// Permits for large messages on the WebSocket of a relay's client; fewer without a known credential.
    pub(super) fn at_relay(&self, is_known: bool) -> [UnfinishedLimit; 2] {
        let own = match is_known {
            true => &self.at_relay,
            false => &self.of_strangers,
        };
        [own.clone(), self.unfinished.clone()]
    }

    /// Counter of what the budgets refuse.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    pub(super) fn of(&self, sender: Sender) -> Arc<Share> {
        let account = |large| {
            let account = Account::new(SMALL_OF_SENDER, large);
            Arc::new(account.counted_by(&self.refusals))
        };
        self.by_sender.of(sender, || Share {
            messages: account(self.message_bytes),
            packets: account(PACKETS_OF_SENDER),
            unread: Allowance::counted_by(UNREAD_OF_SENDER, &self.refusals),
            unfinished: [
                UnfinishedLimit::new(UNFINISHED_OF_SENDER),
                self.unfinished.clone(),
            ],
            calls: Arc::new(Semaphore::new(CALLS)),
            responses: ResponseLimit::default(),
        })
    }

    /// Returns the meter that charges a message of `sender` on the connection of `request`.
    pub(super) fn meter(&self, limit: usize, sender: Sender, request: &Extensions) -> Meter {
        let connection = request.get::<Budgets>().map(|budgets| budgets.0.clone());
        let sender = self.of(sender).messages.clone();
        Meter {
            limit,
            accounts: connection
                .into_iter()
                .chain([sender, self.all.clone()])
                .collect(),
        }
    }
}

/// State that the gate needs.
#[derive(Clone)]
pub(super) struct Gate {
    plane: Arc<Plane>,
    shares: Shares,
    lookups: Arc<Semaphore>,
}

/// Answers a call whose sender is known, and refuses any other without reading its message.
pub(super) async fn admit(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.pass(request, next).await {
        Ok(response) => response,
        Err(status) => status.into_http::<Body>().into_response(),
    }
}

impl Gate {
    pub(super) fn new(plane: Arc<Plane>, shares: Shares) -> Self {
        Self {
            plane,
            shares,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    async fn pass(&self, mut request: Request, next: Next) -> Result<Response, Status> {
        let path = request.uri().path().to_owned();
        // No queue: each caller that waits may already have sent a part of a message.
        let lookup = self.lookups.try_acquire();
        let lookup = lookup.map_err(|_| Status::unavailable("too many new callers at once"))?;
        let Some((sender, is_trusted)) = self.sender(&path, &mut request).await? else {
            drop(lookup);
            let accounts = request.extensions().get::<Budgets>();
            let accounts = accounts.map(|budgets| budgets.0.clone());
            let meter = Meter {
                limit: SMALLEST,
                accounts: accounts.into_iter().collect(),
            };
            return Ok(next
                .run(metered(request, meter, MessageReservations::default()))
                .await);
        };
        drop(lookup);
        let limit = match path.as_str() {
            path if is_trusted && LARGE.contains(&path) => self.shares.message_bytes,
            _ if sender == Sender::Newcomer => REGISTRATION,
            _ => ORDINARY.min(self.shares.message_bytes),
        };
        let share = self.shares.of(sender);
        // Requests with an archive or a state have short answers, and may take long to arrive.
        let is_small = STREAMED.contains(&path.as_str()) || LARGE.contains(&path.as_str());
        let is_limited = matches!(sender, Sender::Person(_)) && !is_small;
        let place = share.place(is_limited).await?;
        let meter = self.shares.meter(limit, sender, request.extensions());
        let reservations = MessageReservations::default();
        let response = next
            .run(metered(request, meter, reservations.clone()))
            .await;
        // The messages have been handled, so others may have their memory while the response is sent.
        drop(reservations);
        Ok(response.map(|body| Body::new(Held::new(body, place))))
    }

    /// Identifies the caller, and leaves the result in the extensions for the service. Also returns whether the
    /// caller may send archives and states, as members may not. `None` for methods that need no credential.
    async fn sender(
        &self,
        path: &str,
        request: &mut Request,
    ) -> Result<Option<(Sender, bool)>, Status> {
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let (plane, known) = (&self.plane, request.extensions_mut());
        if path.starts_with(CONTROL) {
            let caller = caller::person(plane, &metadata).await?;
            let sender = (Sender::Person(caller.user.id), caller.user.admin);
            known.insert(caller);
            return Ok(Some(sender));
        }
        match path.strip_prefix(DAEMON) {
            None => Ok(None),
            Some("Register") => {
                known.insert(caller::credential(plane, &metadata).await?);
                Ok(Some((Sender::Newcomer, false)))
            }
            Some(_) => {
                let daemon = caller::daemon(plane, &metadata).await?;
                let sender = (Sender::Daemon(daemon.id), true);
                known.insert(daemon);
                Ok(Some(sender))
            }
        }
    }
}

fn metered(request: Request, meter: Meter, reservations: MessageReservations) -> Request {
    request.map(|body| Body::new(Metered::new(body, meter, reservations)))
}

/// Returns what the gate found out about the caller.
///
/// # Errors
/// [`Status`] if the gate was not passed, which no route allows.
pub(super) fn known<T: Clone + Send + Sync + 'static>(
    extensions: &tonic::Extensions,
) -> Result<T, Status> {
    let found = extensions.get::<T>().cloned();
    found.ok_or_else(|| Status::internal("the caller was not looked up"))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn responses_that_nobody_reads_count_for_later_calls_of_the_same_person() {
        let shares = Shares::new(1 << 20, &Refusals::default());
        let person = Sender::Person(UserId::random());
        let mut unread = Vec::new();
        for _ in 0..16 {
            unread.push(shares.of(person).place(true).await.unwrap());
        }

        let late = shares.of(person).place(true).await.unwrap_err();
        assert_eq!(late.code(), Code::Unavailable);
        drop(shares.of(person).place(false).await.unwrap());
        let other = shares.of(Sender::Person(UserId::random()));
        drop(other.place(true).await.unwrap());
        unread.pop();
        drop(shares.of(person).place(true).await.unwrap());
    }
}
