//! What one connection is used for: its requests in progress, and whether somebody on it has proved who they are.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{BoxError, body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tracing::debug;

use super::{places::Conduct, upgraded::Work};
use crate::net::access::Access;

tokio::task_local! {
    /// The request that is answered in this task, or what its connection became.
    static VISIT: Visit;
}

/// A request, the connection that it came on, and the access that it was granted.
#[derive(Clone)]
pub(super) struct Visit {
    conduct: Arc<Conduct>,
    access: Arc<OnceLock<Arc<Access>>>,
}

impl Visit {
    fn begin(conduct: Arc<Conduct>) -> Self {
        let access = Arc::default();
        Self { conduct, access }
    }

    /// Waits until the access that it was granted has ended.
    async fn revoked(&self) {
        match self.access.get() {
            Some(access) => access.revoked().await,
            None => std::future::pending().await,
        }
    }
}

/// Says that whoever is answered in this task has proved who they are, so that their connection is a stranger's no more.
/// The answer, or what the connection becomes, ends with `access`. Outside of a listener's requests it does nothing.
pub fn vouch(access: Option<&Arc<Access>>) {
    let _ = VISIT.try_with(|visit| {
        visit.conduct.know();
        if let Some(access) = access {
            // The first one counts; a request has no more than one.
            visit.access.set(access.clone()).ok();
        }
    });
}

/// Answers a request of a connection.
pub(super) async fn answer<E>(
    conduct: Arc<Conduct>,
    answering: impl Future<Output = Result<Response, E>>,
) -> Result<Response, E> {
    let request = InProgress::begin(conduct.clone());
    let visit = Visit::begin(conduct);
    let response = VISIT.scope(visit.clone(), answering).await?;
    Ok(response.map(|body| Body::new(Answer::new(body, request, visit))))
}

/// What a connection becomes, which is in progress and answered for by the request that is answered in this task.
pub(super) fn become_part(work: impl Future<Output = ()> + Send + 'static) -> Work {
    let Ok(visit) = VISIT.try_with(Visit::clone) else {
        return Box::pin(work);
    };
    Box::pin(async move {
        let _request = InProgress::begin(visit.conduct.clone());
        tokio::select! {
            () = VISIT.scope(visit.clone(), work) => {}
            () = visit.revoked() => debug!("a connection ends, as its credential was revoked or has expired"),
        }
    })
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

/// An answer in progress, which breaks off when what it was asked with is revoked.
struct Answer {
    body: Held<InProgress>,
    /// Waited for only where the answer takes its time.
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    visit: Visit,
}

impl Answer {
    fn new(body: Body, request: InProgress, visit: Visit) -> Self {
        Self {
            body: Held::new(body, request),
            revoked: None,
            visit,
        }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.visit.access.get().is_none() {
            return Poll::Pending;
        }
        let visit = self.visit.clone();
        let revoked = self
            .revoked
            .get_or_insert_with(|| Box::pin(async move { visit.revoked().await }));
        ready!(revoked.as_mut().poll(context));
        let why = "what the request was made with has been revoked";
        Poll::Ready(Some(Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            why,
        )
        .into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
