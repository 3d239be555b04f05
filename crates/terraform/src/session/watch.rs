//! The state file of an apply, read whenever it has changed: what the engine has written outlives it and us.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use outpost_provision::ApplyObserver;
use tokio::time::sleep;

use super::files::{Files, Version};

/// Time between two looks. Not every file system tells of changes, and an apply takes much longer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Tells `observer` each version of the file that is whole and not the `known` one, until this is dropped. The last one
/// is in `seen`.
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
        // One that is being written is looked at again.
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
