//! Bodies of requests, which are read only once their sender is known.

use axum::{
    body::{self, Bytes},
    extract::Request,
    http::{StatusCode, header},
};
use outpost_net::budget::{Overdrawn, Reserved};
use serde::de::DeserializeOwned;

use super::answer::Refusal;
use crate::{
    plane::Caller,
    services::gate::{Sender, Shares},
};

/// Limit of a body that carries neither an archive nor a state, in bytes.
const ORDINARY: usize = 1 << 20;

/// Limits on the size of bodies, and the budgets of their senders. Clones share the budgets.
#[derive(Clone)]
pub(super) struct Bodies {
    limit: usize,
    shares: Shares,
}

/// A body in memory, accounted for until this is dropped.
pub(super) struct Body {
    pub(super) content: Bytes,
    _reserved: Vec<Reserved>,
}

impl Bodies {
    pub(super) fn new(limit: usize, shares: Shares) -> Self {
        Self { limit, shares }
    }

    /// Reads a body that may contain an archive or a state, which only administrators send.
    pub(super) async fn read(&self, caller: &Caller, request: Request) -> Result<Body, Refusal> {
        let limit = match caller.user.admin {
            true => self.limit,
            false => ORDINARY.min(self.limit),
        };
        let sender = Sender::Person(caller.user.id);
        self.read_up_to(limit, sender, request).await
    }

    /// Parses an ordinary body as JSON. Unknown fields are ignored: other versions have them.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        sender: Sender,
        request: Request,
    ) -> Result<T, Refusal> {
        let body = self.read_up_to(ORDINARY, sender, request).await?;
        parse(&body.content)
    }

    /// Reads a body. One of unknown size may become as large as is allowed.
    async fn read_up_to(
        &self,
        limit: usize,
        sender: Sender,
        request: Request,
    ) -> Result<Body, Refusal> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let meter = self.shares.meter(limit, sender, request.extensions());
        let reserved = meter.reserve(length.unwrap_or(limit)).await;
        let reserved = reserved.map_err(|error| match error {
            Overdrawn::TooLarge { .. } => too_large(limit, error.to_string()),
            Overdrawn::Busy => Refusal::busy(error.to_string()),
        })?;
        let content = body::to_bytes(request.into_body(), limit).await;
        Ok(Body {
            content: content.map_err(|error| too_large(limit, error.to_string()))?,
            _reserved: reserved,
        })
    }
}

/// Parses a body that has been read.
pub(super) fn parse<T: DeserializeOwned>(content: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(content).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, "Request body must be valid JSON.")
            .because(error.to_string())
    })
}

fn too_large(limit: usize, why: String) -> Refusal {
    let message = format!("Request body cannot be read, or has more than {limit} bytes.");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message).because(why)
}
