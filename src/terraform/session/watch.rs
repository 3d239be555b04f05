//! The state file of an apply, read whenever it has changed: what the engine has written outlives it and us.

use std::{convert::Infallible, fs, path::PathBuf, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};

use crate::{provision::Witness, terraform::state_file};

/// Time between two looks. Not every file system tells of changes, and an apply takes much longer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Tells `witness` each version of the file that is whole, until this is dropped.
pub(super) async fn state_file(path: PathBuf, witness: Option<Arc<dyn Witness>>) -> Infallible {
    let Some(witness) = witness else {
        return std::future::pending().await;
    };
    let version = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len()))
    };
    let mut seen = version(&path); // What was there before the apply is known.
    loop {
        sleep(LOOK_EVERY).await;
        let now = version(&path);
        if now == seen {
            continue;
        }
        let file = path.clone();
        // One that is being written is looked at again.
        if let Ok(Ok(Some(state))) = spawn_blocking(move || state_file::read(&file)).await {
            witness.state(state);
            seen = now;
        }
    }
}
