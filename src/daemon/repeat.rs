//! Calls that are worth repeating: the server cannot be reached, or does not know us while credentials change.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, warn};

use crate::provision::SourceError;

/// First and longest pause between two tries.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Repeats `call` until the server has answered it. `None` once `given_up` ends, even in the middle of a call.
pub(super) async fn until_answered<T, F>(
    what: &'static str,
    given_up: impl Future<Output = ()>,
    mut call: impl FnMut() -> F,
) -> Option<Result<T, SourceError>>
where
    F: Future<Output = Result<T, SourceError>>,
{
    let repeated = async {
        let mut pause = BACK_OFF.0;
        loop {
            match call().await {
                Err(error) if may_pass(&error) => note(what, &error, pause),
                answer => return answer,
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    };
    tokio::select! {
        biased;
        answer = repeated => Some(answer),
        () = given_up => None,
    }
}

/// Whether the same call may succeed later.
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

/// The first failure is for the operator, the others only for whoever looks closely.
fn note(what: &'static str, error: &SourceError, pause: Duration) {
    let error = error as &dyn std::error::Error;
    if pause == BACK_OFF.0 {
        warn!(error, what, "the server did not answer, trying again");
    } else {
        debug!(error, what, "the server did not answer, trying again");
    }
}
