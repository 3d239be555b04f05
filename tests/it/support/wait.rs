//! Waits for what tells nobody: files, processes of others, answers of a server.

use std::{fmt::Display, time::Duration};

use tokio::time::{sleep, timeout};

use crate::control::PATIENCE;

/// Time between two looks: short beside what is waited for, long beside what a look costs.
const LOOK: Duration = Duration::from_millis(20);

/// Looks again and again until it is so.
///
/// # Panics
/// If it is not so after [`PATIENCE`], with `what` in the text.
pub async fn until(what: impl Display, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            sleep(LOOK).await;
        }
    };
    let so = timeout(PATIENCE, looking).await;
    assert!(so.is_ok(), "not so after {PATIENCE:?}: {what}");
}
