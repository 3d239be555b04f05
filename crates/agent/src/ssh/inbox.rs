//! Input of a channel that waits for a program to read it.
//!
//! russh carries all channels of a connection in one loop and stands still while a channel does not take what arrived
//! for it: nothing is sent either, then. A program that reads only while its output is read, such as `cat`, and a client
//! that sends faster than it receives would wait for each other for ever. So input is taken although nobody reads it
//! yet, more slowly the more of it waits.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};

/// Bytes that wait without slowing the client down.
const FREE: usize = 2 << 20;
/// Bytes that may wait. A client that sends more waits until some are read.
const LIMIT: usize = 16 << 20;
/// Pause after a piece if almost [`LIMIT`] bytes wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// End that puts pieces in; the input ends when it is dropped.
pub(super) struct Sender {
    pieces: mpsc::UnboundedSender<Bytes>,
    room: Arc<Semaphore>,
}

/// End that takes pieces out. When it is dropped, pieces are thrown away.
pub(super) struct Receiver {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    room: Arc<Semaphore>,
}

/// Creates an empty inbox.
pub(super) fn inbox() -> (Sender, Receiver) {
    let (sender, pieces) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(LIMIT));
    let receiver = Receiver {
        pieces,
        room: room.clone(),
    };
    let pieces = sender;
    (Sender { pieces, room }, receiver)
}

impl Sender {
    /// Puts a piece in, and returns when the next one may follow.
    pub(super) async fn send(&self, piece: Bytes) {
        let Ok(room) = self.room.acquire_many(size(&piece)).await else {
            return;
        };
        room.forget();
        let _ = self.pieces.send(piece);
        let waiting = LIMIT.saturating_sub(self.room.available_permits());
        let pause = pause(waiting);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

impl Receiver {
    /// Takes the next piece out; `None` once the input has ended.
    pub(super) async fn recv(&mut self) -> Option<Bytes> {
        let piece = self.pieces.recv().await?;
        self.room.add_permits(size(&piece) as usize);
        Some(piece)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.room.close();
    }
}

/// Room that a piece takes; packets are far smaller than [`LIMIT`].
fn size(piece: &Bytes) -> u32 {
    u32::try_from(piece.len().min(LIMIT)).unwrap_or(u32::MAX)
}

fn pause(waiting: usize) -> Duration {
    let part = waiting.saturating_sub(FREE) as f64 / (LIMIT - FREE) as f64;
    // Hardly noticed at first: what lets a client receive more arrives behind what it has sent.
    LONGEST_PAUSE.mul_f64(part.powi(3))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const PIECE: usize = 32 << 10;

    #[tokio::test(start_paused = true)]
    async fn input_that_nobody_reads_is_taken_ever_more_slowly_up_to_a_limit() {
        let (sender, mut receiver) = inbox();
        let piece = Bytes::from(vec![0; PIECE]);
        let begun = Instant::now();
        for _ in 0..FREE / PIECE {
            sender.send(piece.clone()).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in FREE / PIECE..LIMIT / PIECE {
            sender.send(piece.clone()).await;
        }
        assert!(begun.elapsed() > Duration::from_secs(60));

        let hour = Duration::from_secs(3600);
        assert!(timeout(hour, sender.send(piece.clone())).await.is_err());
        assert_eq!(receiver.recv().await, Some(piece.clone()));
        timeout(hour, sender.send(piece.clone())).await.unwrap();

        drop(sender);
        let mut rest = 0;
        while receiver.recv().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, LIMIT / PIECE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_does_not_wait_for_a_receiver_that_is_gone() {
        let (sender, receiver) = inbox();
        drop(receiver);
        for _ in 0..2 * LIMIT / PIECE {
            sender.send(Bytes::from(vec![0; PIECE])).await;
        }
    }
}
