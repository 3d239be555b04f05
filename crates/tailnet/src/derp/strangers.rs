//! Clients whose keys nobody has announced yet.
//!
//! While a relay waits for that, it passes single bytes between those of one address, and nothing else: Coder's health
//! check (`coder netcheck`) takes a relay for broken that does not, and comes with new keys and without a credential.
//!
//! # Source
//! coder `coderd/healthcheck/derphealth/derp.go`, `doExchangeMessage`.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use super::{
    connection::{Reader, write},
    frame::Frame,
};
use crate::key::Key;

/// Number of bytes that one of them may send: a check sends one a second until it gets an answer.
const MAX_SENT: usize = 16;
/// Number of bytes that wait for one of them.
const MAX_WAITING: usize = 4;

type Byte = (Key, Bytes);

/// Those that are connected, by address and key.
#[derive(Default)]
pub(super) struct Strangers(Mutex<HashMap<(IpAddr, Key), mpsc::Sender<Byte>>>);

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, HashMap<(IpAddr, Key), mpsc::Sender<Byte>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a stranger until `known`. Other frames than those with a single byte stay unread.
    ///
    /// # Errors
    /// If the connection breaks.
    pub(super) async fn meet<R, W>(
        &self,
        key: Key,
        address: IpAddr,
        (reader, writer): (&mut Reader<R>, &mut W),
        known: impl Future<Output = ()>,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (sender, mut waiting) = mpsc::channel(MAX_WAITING);
        let _here = self.enter(key, address, sender);
        let mut left = MAX_SENT;
        tokio::pin!(known);
        loop {
            tokio::select! {
                () = &mut known => return Ok(()),
                frame = reader.next_short(is_allowed) => match frame? {
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(Frame::Send { to, packet }) if left > 0 => {
                        left -= 1;
                        if let Some(other) = self.lock().get(&(address, to)) {
                            // One that does not read loses it.
                            let _ = other.try_send((key, packet));
                        }
                    }
                    Some(_) => {}
                },
                // Not cut off by the other branches, as half a frame would spoil the rest.
                Some((from, packet)) = waiting.recv() => {
                    write(writer, &Frame::Receive { from, packet }).await?;
                }
            }
        }
    }

    fn enter(&self, key: Key, address: IpAddr, sender: mpsc::Sender<Byte>) -> Here<'_> {
        self.lock().insert((address, key), sender.clone());
        Here {
            all: self,
            at: (address, key),
            sender,
        }
    }
}

fn is_allowed(frame: &Frame) -> bool {
    match frame {
        Frame::Send { packet, .. } => packet.len() <= 1,
        // Means nothing to this relay.
        Frame::Preferred(_) => true,
        _ => false,
    }
}

/// Presence of a stranger, which ends when this is dropped.
struct Here<'a> {
    all: &'a Strangers,
    at: (IpAddr, Key),
    sender: mpsc::Sender<Byte>,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // Another connection may have come with the same key.
        if all
            .get(&self.at)
            .is_some_and(|it| it.same_channel(&self.sender))
        {
            all.remove(&self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use outpost_base::stop::Stop;
    use tokio::io::DuplexStream;

    use super::*;
    use crate::{
        derp::{
            frame,
            server::{Guest, Relay},
        },
        key::Private,
    };

    /// Introduces a client without a credential to a relay, which has no answer for it yet.
    async fn come_in(relay: &Relay, private: &Private, address: u8) -> DuplexStream {
        let (mut client, io) = tokio::io::duplex(64 << 10);
        let guest = Guest {
            is_known: false,
            address: Some(Ipv4Addr::new(10, 0, 0, address).into()),
        };
        tokio::spawn(relay.clone().serve_guest(io, guest, Stop::new()));
        let greeting = Reader::new(&mut client).next().await;
        assert!(matches!(greeting, Ok(Some(Frame::ServerKey(_)))));
        let info = frame::client_info(private, relay.key());
        write(&mut client, &info).await.unwrap();
        client
    }

    async fn send(client: &mut DuplexStream, to: Key, packet: &'static [u8]) {
        let packet = Bytes::from_static(packet);
        let sent = write(client, &Frame::Send { to, packet }).await;
        sent.unwrap();
    }

    async fn next(client: &mut DuplexStream) -> Option<Frame> {
        Reader::new(client).next().await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_one_address_exchange_single_bytes_and_nothing_else() {
        let relay = Relay::guarded();
        let [one, two, three] = [(); 3].map(|()| Private::generate());
        let mut receiver = come_in(&relay, &one, 1).await;
        let mut elsewhere = come_in(&relay, &two, 2).await;
        let mut sender = come_in(&relay, &three, 1).await;

        send(&mut elsewhere, one.public(), b"x").await;
        send(&mut sender, one.public(), b"y").await;
        let received = Frame::Receive {
            from: three.public(),
            packet: Bytes::from_static(b"y"),
        };
        assert_eq!(next(&mut receiver).await, Some(received));

        // All three are sent away, with nothing from a longer packet and from what comes after it.
        send(&mut sender, one.public(), b"long").await;
        send(&mut sender, one.public(), b"z").await;
        for client in [&mut receiver, &mut elsewhere, &mut sender] {
            assert_eq!(next(client).await, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_announced_meanwhile_loses_nothing() {
        let relay = Relay::guarded();
        let [one, two] = [(); 2].map(|()| Private::generate());
        let mut receiver = come_in(&relay, &one, 1).await;
        let mut sender = come_in(&relay, &two, 2).await;
        write(&mut sender, &Frame::Preferred(true)).await.unwrap();
        send(&mut sender, one.public(), b"handshake").await;

        let _announced = relay.expect(one.public(), None);
        assert!(matches!(
            next(&mut receiver).await,
            Some(Frame::ServerInfo(_))
        ));
        let _announced = relay.expect(two.public(), None);
        let received = Frame::Receive {
            from: two.public(),
            packet: Bytes::from_static(b"handshake"),
        };
        assert_eq!(next(&mut receiver).await, Some(received));
    }
}
