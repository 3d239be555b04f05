//! Limit on how many answers one token's requests make at the same time. Each is made as a whole, and stays in memory
//! until it is sent.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use outpost_net::{budget::Shared, listener::Held};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, time::timeout};

use super::{admission, answer::Refusal};

/// Number of answers at the same time; others wait.
const ANSWERS: usize = 16;
/// Longest wait of a request for its turn before it is refused.
const WAIT: Duration = Duration::from_secs(60);

/// Answers in progress, by the digest of the token that they are for. A clone counts the same.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Shared<[u8; 32], Semaphore>>);

/// Makes a request wait until its answer may be made. WebSockets do not count, and a request without a token gets a
/// short answer.
pub(super) async fn limited(
    State(answers): State<Answers>,
    request: Request,
    next: Next,
) -> Response {
    let token = admission::session_token(request.headers());
    let Some(token) = token.filter(|_| !request.headers().contains_key(header::UPGRADE)) else {
        return next.run(request).await;
    };
    let digest = Sha256::digest(token.expose().as_bytes());
    let places = answers.0.of(digest.into(), || Semaphore::new(ANSWERS));
    match timeout(WAIT, places.acquire_owned()).await {
        Ok(Ok(place)) => {
            let response = next.run(request).await;
            response.map(|body| Body::new(Held::new(body, place)))
        }
        _ => {
            let why = format!("{ANSWERS} responses to your other requests are waiting to be read.");
            Refusal::busy(why).into_response()
        }
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
        for _ in 0..ANSWERS {
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
