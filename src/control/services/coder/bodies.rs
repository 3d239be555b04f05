//! Bodies of requests, which are read only once it is known who sends them.

use std::sync::Arc;

use axum::{
    body::{self, Bytes},
    extract::Request,
    http::{StatusCode, header},
};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Refusal;

/// Bytes of a body that is read at once, in memory.
const SMALL: usize = 1 << 20;
/// Larger bodies that are in memory at a time.
const LARGE_AT_A_TIME: usize = 4;

/// How large bodies may be, and how many large ones there are at a time. A clone counts the same.
#[derive(Clone)]
pub(super) struct Bodies {
    limit: usize,
    large: Arc<Semaphore>,
}

/// A body, in memory until this is dropped.
pub(super) struct Body {
    pub(super) content: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            large: Arc::new(Semaphore::new(LARGE_AT_A_TIME)),
        }
    }

    /// A body of any size that is allowed, such as an archive or a state. One that does not say its size is large.
    pub(super) async fn read(&self, request: Request) -> Result<Body, Refusal> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let place = match length {
            Some(0..=SMALL) => None,
            // The semaphore is never closed.
            Some(_) | None => self.large.clone().acquire_owned().await.ok(),
        };
        let content = read(request, self.limit).await?;
        Ok(Body {
            content,
            _place: place,
        })
    }
}

/// What a small body carries in JSON; unknown fields are those of other versions.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    parse(&read(request, SMALL).await?)
}

/// The same of a body that was read.
pub(super) fn parse<T: DeserializeOwned>(content: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(content).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, "Request body must be valid JSON.")
            .because(error.to_string())
    })
}

async fn read(request: Request, limit: usize) -> Result<Bytes, Refusal> {
    let read = body::to_bytes(request.into_body(), limit).await;
    read.map_err(|error| {
        let message = format!("Request body cannot be read, or has more than {limit} bytes.");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message).because(error.to_string())
    })
}
