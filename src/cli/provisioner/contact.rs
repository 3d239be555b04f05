//! First contact with the server: a daemon waits for it, and ends if it is refused.

use std::sync::Arc;

use futures::future::try_join_all;
use tracing::info;
use url::{Position, Url};

use crate::{
    daemon::DaemonError,
    provision::{JobSource, SourceError},
    stop::Stop,
};

/// Waits until the server has accepted every source once, or `stop` drains. The sources themselves pause between
/// attempts, and log why one failed.
///
/// # Errors
/// [`DaemonError::Unauthorized`] if the server refuses one before it ever accepted it.
pub(super) async fn first(
    sources: &[Arc<dyn JobSource>],
    url: &Url,
    stop: &Stop,
) -> anyhow::Result<()> {
    let all = try_join_all(sources.iter().map(|source| accepted(source.as_ref(), url)));
    tokio::select! {
        accepted = all => accepted.map(drop),
        () = stop.draining() => Ok(()),
    }
}

async fn accepted(source: &dyn JobSource, url: &Url) -> anyhow::Result<()> {
    let mut has_said = false;
    loop {
        match source.connect().await {
            Ok(()) => return Ok(()),
            Err(error @ (SourceError::Unauthorized(_) | SourceError::Unsuitable(_)))
                if !source.was_accepted() =>
            {
                return Err(DaemonError::Unauthorized(error).into());
            }
            Err(_) if !has_said => {
                has_said = true;
                let server = &url[Position::BeforeHost..Position::AfterPort];
                info!(server, "waiting for the server to answer");
            }
            Err(_) => {}
        }
    }
}
