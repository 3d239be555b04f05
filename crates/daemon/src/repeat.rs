//! Repeated calls: for when the server cannot be reached, or does not accept us while credentials change.

use std::{future::pending, time::Duration};

use outpost_net::back_off::Pauses;
use outpost_provision::{JobSource, SourceError};
use tokio::time::sleep;
use tracing::{debug, warn};

/// First and longest pause between two attempts: the call is the end of a job, or a job waits for it.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Repeats `call` of `source` until the server has answered it, at once when somebody else has reconnected. `None`
/// once `given_up` ends, even in the middle of a call.
pub(super) async fn until_answered<T, F>(
    what: &'static str,
    source: &dyn JobSource,
    given_up: impl Future<Output = ()>,
    mut call: impl FnMut() -> F,
) -> Option<Result<T, SourceError>>
where
    F: Future<Output = Result<T, SourceError>>,
{
    let repeated = async {
        let (mut pauses, mut is_first) = (Pauses::new(BACK_OFF), true);
        loop {
            match call().await {
                Err(error) if may_pass(&error) => note(what, &error, is_first),
                answer => return answer,
            }
            tokio::select! {
                () = sleep(pauses.next_pause()) => {}
                () = reconnected(source) => {}
            }
            is_first = false;
        }
    };
    tokio::select! {
        biased;
        answer = repeated => Some(answer),
        () = given_up => None,
    }
}

/// Waits until there is a connection that was not there before.
pub(super) async fn reconnected(source: &dyn JobSource) {
    let Some(mut connected) = source.connected() else {
        return pending().await;
    };
    let was_connected = *connected.borrow_and_update();
    let comes = async {
        if was_connected {
            connected.wait_for(|connected| !connected).await?;
        }
        connected.wait_for(|connected| *connected).await.map(drop)
    };
    if comes.await.is_err() {
        pending().await // Nobody connects any more.
    }
}

/// Returns whether the same call may succeed later.
pub(super) fn may_pass(error: &SourceError) -> bool {
    match error {
        SourceError::Lost(_) | SourceError::Unauthorized(_) | SourceError::Unsuitable(_) => true,
        SourceError::Refused(_)
        | SourceError::Gone(_)
        | SourceError::Ended(_)
        | SourceError::TooLarge { .. }
        | SourceError::Invalid(_) => false,
    }
}

/// Logs a failure: the first one for the operator, the others only for debugging.
fn note(what: &'static str, error: &SourceError, is_first: bool) {
    let error = error as &dyn std::error::Error;
    if is_first {
        warn!(error, what, "no answer from the server; retrying");
    } else {
        debug!(error, what, "no answer from the server; retrying");
    }
}
