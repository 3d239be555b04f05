//! What one connection is used for: its requests in progress, and whether somebody on it has proved who they are.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{BoxError, body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::places::Conduct;

tokio::task_local! {
    /// The connection whose request is answered in this task.
    static VISITED: Arc<Conduct>;
}

/// Says that whoever is answered in this task has proved who they are, so that their connection is a stranger's no more.
/// Outside of a listener's requests it does nothing.
pub fn vouch() {
    let _ = VISITED.try_with(|conduct| conduct.know());
}

/// Answers a request of a connection.
pub(super) async fn answer<E>(
    conduct: Arc<Conduct>,
    answering: impl Future<Output = Result<Response, E>>,
) -> Result<Response, E> {
    let request = InProgress::begin(conduct.clone());
    let response = VISITED.scope(conduct, answering).await?;
    Ok(response.map(|body| Body::new(Held::new(body, request))))
}

/// Does what a connection has become; it is in progress until that ends.
pub(super) async fn go_on(conduct: Arc<Conduct>, work: impl Future<Output = ()>) {
    let _request = InProgress::begin(conduct.clone());
    VISITED.scope(conduct, work).await;
}

/// A request that is in progress until this is dropped.
struct InProgress(Arc<Conduct>);

impl InProgress {
    fn begin(conduct: Arc<Conduct>) -> Self {
        conduct.begin();
        Self(conduct)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

/// A body that holds something until it has been sent.
pub struct Held<T> {
    body: Body,
    _held: T,
}

impl<T> Held<T> {
    /// Lets `body` hold it.
    pub fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> hyper::body::Body for Held<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
