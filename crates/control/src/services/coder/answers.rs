//! The limit of responses, by the token that a request has.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use outpost_net::{budget::Shared, listener::Held};
use sha2::{Digest as _, Sha256};

use super::{super::responses::ResponseLimit, answer::Refusal, authentication};

/// Answers in progress, by the digest of the token that they are for. A clone counts the same.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Shared<[u8; 32], ResponseLimit>>);

/// Makes a request wait until its answer may be made. WebSockets do not count, and a request without a token gets a
/// short answer.
pub(super) async fn limited(
    State(answers): State<Answers>,
    request: Request,
    next: Next,
) -> Response {
    let token = authentication::session_token(request.headers());
    let Some(token) = token.filter(|_| !request.headers().contains_key(header::UPGRADE)) else {
        return next.run(request).await;
    };
    let digest = Sha256::digest(token.expose().as_bytes());
    let limit = answers.0.of(digest.into(), ResponseLimit::default);
    match limit.wait().await {
        Ok(place) => {
            let response = next.run(request).await;
            // The limit is kept with its place, as later requests would get a new one.
            response.map(|body| Body::new(Held::new(body, (limit, place))))
        }
        Err(unread) => Refusal::busy(format!("{unread}.")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn_with_state, routing::get};
    use futures::FutureExt as _;
    use http::StatusCode;
    use tower::ServiceExt as _;

    use super::*;

    fn ask(routes: &Router, token: &str, upgrade: Option<&str>) -> impl Future<Output = Response> {
        let request = http::Request::get("/").header("Coder-Session-Token", token);
        let request = upgrade.iter().fold(request, |request, protocol| {
            request.header("Upgrade", *protocol)
        });
        let answer = routes.clone().oneshot(request.body(Body::empty()).unwrap());
        async { answer.await.unwrap() }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_reads_keep_others_of_the_same_token_waiting() {
        let routes: Router = Router::new()
            .route("/", get(|| async { "answer" }))
            .layer(from_fn_with_state(Answers::default(), limited));
        let mut unread = Vec::new();
        for _ in 0..16 {
            unread.push(ask(&routes, "one", None).await);
        }

        let mut waiting = Box::pin(ask(&routes, "one", None));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(ask(&routes, "another", None).await.status(), StatusCode::OK);
        let socket = ask(&routes, "one", Some("websocket")).await;
        assert_eq!(socket.status(), StatusCode::OK);
        unread.pop();
        assert_eq!(waiting.await.status(), StatusCode::OK);

        unread.push(ask(&routes, "one", None).await);
        let late = ask(&routes, "one", None).await;
        assert_eq!(late.status(), StatusCode::TOO_MANY_REQUESTS);
    }
}
