//! The state file of an apply, read whenever it changes, so that a state survives both the engine and us.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use outpost_provision::ApplyObserver;
use tokio::time::sleep;

use super::files::{Files, Version};

/// Time between two checks. Not every file system reports changes, and an apply takes much longer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Reports each complete version of the file that differs from `known` to `observer`, until the future is dropped.
/// `seen` is the last one.
pub(super) async fn state_file(
    files: Files,
    observer: Option<Arc<dyn ApplyObserver>>,
    mut known: Option<Version>,
    seen: &Mutex<Option<Bytes>>,
) -> Infallible {
    let Some(observer) = observer else {
        return std::future::pending().await;
    };
    loop {
        sleep(LOOK_EVERY).await;
        let now = files.state_version().await;
        if now == known {
            continue;
        }
        // A file that is being written is read again.
        if let Ok(Some(state)) = files.state().await {
            let mut seen = seen
                .lock()
                .expect("nothing panics while it holds the state");
            *seen = Some(state.clone());
            drop(seen);
            observer.state(state);
            known = now;
        }
    }
}
