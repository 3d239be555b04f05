//! Bodies of gRPC requests whose messages are charged before they are read.
//!
//! Each message begins with a flag and its length. Once that has come, the length is reserved from everything that the
//! sender shares; until then nothing more of the body is taken from the connection, whose window holds the sender back.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{BoxError, body::Body};
use bytes::{Buf as _, Bytes};
use hyper::body::{Frame, SizeHint};
use outpost_net::budget::{Account, Overdrawn, Reserved};
use tonic::Status;

/// Length of a message's header: a flag and four bytes of length.
const HEAD: usize = 5;

/// Budgets that a message is charged to, in the same order for all messages.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    /// Size of the largest message, in bytes.
    pub(super) limit: usize,
    pub(super) accounts: Vec<Arc<Account>>,
}

/// Reservations for the message that is being read. They outlive the body: the message stays in memory until the call
/// has been answered.
#[derive(Clone, Debug, Default)]
pub(super) struct MessageReservations(Arc<Mutex<Vec<Reserved>>>);

impl MessageReservations {
    fn set(&self, reserved: Vec<Reserved>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reserved;
    }
}

impl Meter {
    /// Reserves `bytes` from each account.
    pub(super) async fn reserve(self, bytes: usize) -> Result<Vec<Reserved>, Overdrawn> {
        let limit = self.limit;
        if bytes > limit {
            return Err(Overdrawn::TooLarge { bytes, limit });
        }
        let mut reserved = Vec::with_capacity(self.accounts.len());
        for account in &self.accounts {
            reserved.push(account.reserve(bytes).await?);
        }
        Ok(reserved)
    }
}

type Reserving = Pin<Box<dyn Future<Output = Result<Vec<Reserved>, Overdrawn>> + Send>>;

/// A body that is read no faster than its messages can be charged.
pub(super) struct Metered {
    inner: Body,
    meter: Meter,
    reservations: MessageReservations,
    /// Part of the next message's header that has arrived.
    head: Vec<u8>,
    /// Missing bytes of the message that is being read.
    missing: usize,
    /// Part of the body that waits until its messages are charged.
    waiting: Option<(Reserving, Bytes)>,
}

impl Metered {
    pub(super) fn new(inner: Body, meter: Meter, reservations: MessageReservations) -> Self {
        Self {
            inner,
            meter,
            reservations,
            head: Vec::with_capacity(HEAD),
            missing: 0,
            waiting: None,
        }
    }

    /// Total size of the messages that begin in `part`; `None` if none does.
    fn begun(&mut self, mut part: &[u8]) -> Option<usize> {
        let mut begun = None;
        while !part.is_empty() {
            if self.missing > 0 {
                let taken = self.missing.min(part.len());
                self.missing -= taken;
                part.advance(taken);
                continue;
            }
            let taken = (HEAD - self.head.len()).min(part.len());
            self.head.extend_from_slice(&part[..taken]);
            part.advance(taken);
            if let [_, a, b, c, d] = *self.head {
                self.head.clear();
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                begun = Some(begun.unwrap_or(0_usize).saturating_add(self.missing));
            }
        }
        begun
    }
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some((reserving, part)) = &mut self.waiting {
                let reserved = ready!(reserving.as_mut().poll(context));
                let part = mem::take(part);
                self.waiting = None;
                self.reservations.set(reserved.map_err(refused)?);
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(frame) => frame?,
                None => return Poll::Ready(None),
            };
            let part = match frame.into_data() {
                Ok(part) => part,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            let Some(bytes) = self.begun(&part) else {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            };
            // The reservation of the previous message is released first, or two bodies could wait for each other.
            self.reservations.set(Vec::new());
            self.waiting = Some((Box::pin(self.meter.clone().reserve(bytes)), part));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Status that the call ends with. The words about the size are those of the gRPC library.
fn refused(error: Overdrawn) -> BoxError {
    Box::new(match error {
        Overdrawn::TooLarge { bytes, limit } => Status::out_of_range(format!(
            "Error, decoded message length too large: found {bytes} bytes, the limit is: {limit} bytes"
        )),
        Overdrawn::Busy => Status::unavailable(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _, stream};

    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let head = [&[0][..], &length.to_be_bytes()].concat();
        [head, vec![7; length as usize]].concat()
    }

    fn account(bytes: usize) -> Arc<Account> {
        Arc::new(Account::new(bytes, bytes))
    }

    fn metered(
        parts: Vec<Vec<u8>>,
        limit: usize,
        accounts: &[&Arc<Account>],
    ) -> (Metered, MessageReservations) {
        let parts = parts.into_iter().map(Ok::<_, BoxError>);
        let accounts = accounts.iter().map(|account| Arc::clone(account)).collect();
        let reservations = MessageReservations::default();
        let body = Body::from_stream(stream::iter(parts));
        let meter = Meter { limit, accounts };
        (
            Metered::new(body, meter, reservations.clone()),
            reservations,
        )
    }

    async fn read(body: Metered) -> Result<Vec<u8>, String> {
        let mut parts = Body::new(body).into_data_stream();
        let mut all = Vec::new();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| {
                let status = Status::from_error(Box::new(error));
                format!("{:?}: {}", status.code(), status.message())
            });
            all.extend_from_slice(&part?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let all = [message(3), message(0), message(300), message(1)].concat();
        for size in [1, 2, 5, 7, 64, 1000] {
            let parts = all.chunks(size).map(<[u8]>::to_vec).collect();
            let (body, _) = metered(parts, 1000, &[&account(1000)]);
            assert_eq!(read(body).await.unwrap(), all, "{size}");
        }
    }

    #[tokio::test]
    async fn a_message_is_read_on_only_once_it_is_paid_for_and_counts_until_the_call_ends() {
        let (connection, sender) = (account(1000), account(100));
        let (one, reservations) = metered(vec![message(60)], 100, &[&connection, &sender]);
        read(one).await.unwrap();

        let (two, _) = metered(vec![message(50)], 100, &[&connection, &sender]);
        let mut two = Box::pin(read(two));
        assert!(two.as_mut().now_or_never().is_none());
        drop(reservations);
        assert_eq!(two.await.unwrap(), message(50));
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused_at_its_head() {
        let head = message(2000)[..6].to_vec();
        let (body, _) = metered(vec![head], 1000, &[&account(1000)]);

        let refused = read(body).await.unwrap_err();
        assert_eq!(
            refused,
            "OutOfRange: Error, decoded message length too large: found 2000 bytes, the limit is: 1000 bytes"
        );
    }
}
