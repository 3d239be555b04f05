//! Errors as Coder writes them: a status, and JSON with the reason.

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use serde_json::json;
use tracing::error;

use super::rate;
use crate::plane::RequestError;

/// Error that is returned for a request.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: Cow<'static, str>,
    detail: String,
    /// Name of the invalid parameter, if the error is about one.
    field: Option<&'static str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            detail: String::new(),
            field: None,
            headers: Vec::new(),
        }
    }

    /// Adds details to the error.
    pub(super) fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Names the invalid parameter and the reason.
    pub(super) fn at(mut self, field: &'static str, detail: impl Into<String>) -> Self {
        self.field = Some(field);
        self.because(detail)
    }

    pub(super) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    pub(super) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "API key or external provisioner authentication required, but none provided",
        )
    }

    /// Error for a peer that asked too often; it should come back after a window.
    pub(super) fn too_many(limit: u32) -> Self {
        let window = rate::WINDOW.as_secs();
        let message = format!(
            "You've been rate limited for sending more than {limit} requests in {window}s."
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).with(header::RETRY_AFTER, "60")
    }

    /// Error for a peer that has as many connections as it may have; one of them may be about to end.
    pub(super) fn too_many_connections(limit: usize) -> Self {
        let message = format!("You already have {limit} connections, which is the limit.");
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).with(header::RETRY_AFTER, "10")
    }

    /// Error for a peer with too many bodies waiting already; it should come back a moment later.
    pub(super) fn busy(why: String) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many of your requests are waiting to be received.",
        )
        .because(why)
        .with(header::RETRY_AFTER, "1")
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "Resource not found or you do not have access to this resource",
        )
    }

    /// Maps an error so that a client tries again if that may help: clients give up at any other fault of the
    /// server's.
    pub(super) fn unavailable(error: RequestError) -> Self {
        match error {
            RequestError::NotFound { .. } => Self::not_found(),
            RequestError::Forbidden(why) | RequestError::Gone(why) => {
                Self::not_found().because(why)
            }
            RequestError::Invalid(why) => Self::new(StatusCode::BAD_REQUEST, why),
            RequestError::Conflict(why) => Self::new(StatusCode::CONFLICT, why),
            error @ RequestError::Parameters(_) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
            }
            error => {
                error!(error = &error as &dyn std::error::Error, "cannot answer");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The server cannot answer at the moment.",
                )
                .with(header::RETRY_AFTER, "1")
            }
        }
    }

    /// Logs a failure of the storage and returns an error without details.
    pub(super) fn internal(error: RequestError) -> Self {
        error!(
            error = &error as &dyn std::error::Error,
            "cannot answer a daemon"
        );
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal error creating provisioner daemon.",
        )
        .because(error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "message": self.message });
        match self.field {
            Some(field) => body["validations"] = json!([{ "field": field, "detail": self.detail }]),
            None if self.detail.is_empty() => {}
            None => body["detail"] = self.detail.into(),
        }
        let headers = AppendHeaders(self.headers);
        (self.status, headers, Json(body)).into_response()
    }
}
