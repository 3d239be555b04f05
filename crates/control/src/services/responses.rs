//! Responses that one caller's requests make at a time. Each is made as a whole, and lies in memory until it is sent.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Responses of one caller at a time; further ones wait. One about a workspace of two hundred agents takes a megabyte.
const AT_A_TIME: usize = 16;
/// Time that a request waits for its turn before it is refused.
const WAIT: Duration = Duration::from_secs(60);

/// Limit of one caller's responses. A clone counts the same.
#[derive(Clone, Debug)]
pub(super) struct ResponseLimit(Arc<Semaphore>);

/// Reason for which a request is refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{AT_A_TIME} responses to your other requests are waiting to be read")]
pub(super) struct Unread;

impl Default for ResponseLimit {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl ResponseLimit {
    /// Waits until a response may be made; it is in progress until the permit is dropped.
    ///
    /// # Errors
    /// [`Unread`], after a minute.
    pub(super) async fn wait(&self) -> Result<OwnedSemaphorePermit, Unread> {
        let permit = timeout(WAIT, self.0.clone().acquire_owned()).await;
        permit
            .map_err(|_| Unread)?
            .map_err(|_| unreachable!("nobody closes it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_responses_are_made_at_a_time_and_others_wait_for_a_while() {
        let limit = ResponseLimit::default();
        let mut responses = Vec::new();
        for _ in 0..AT_A_TIME {
            responses.push(limit.wait().await.unwrap());
        }

        let late = limit.wait().await.unwrap_err();
        assert!(late.to_string().starts_with("16 responses"), "{late}");
        let waiting = limit.wait();
        responses.pop();
        drop(waiting.await.unwrap());
    }
}
