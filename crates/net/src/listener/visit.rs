//! Use of one connection: its requests in progress, and whether somebody on it has authenticated.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use axum::{BoxError, body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tracing::debug;

use super::{places::ConnectionActivity, upgraded::Work};
use crate::access::Access;

tokio::task_local! {
    /// Request that is answered in this task, or what its connection became.
    static VISIT: Visit;
}

/// A request, its connection, and the access that it was granted.
#[derive(Clone)]
pub(super) struct Visit {
    activity: Arc<ConnectionActivity>,
    access: Arc<OnceLock<Arc<Access>>>,
}

impl Visit {
    fn begin(activity: Arc<ConnectionActivity>) -> Self {
        let access = Arc::default();
        Self { activity, access }
    }

    /// Waits until the access that it was granted has ended.
    async fn revoked(&self) {
        match self.access.get() {
            Some(access) => access.revoked().await,
            None => std::future::pending().await,
        }
    }

    /// Returns the error with which a response ends whose access has ended.
    fn break_off(&self) -> BoxError {
        self.activity.note_revocation();
        let why = "credential that the request came with was revoked or has expired";
        io::Error::new(io::ErrorKind::PermissionDenied, why).into()
    }
}

/// Records that the caller answered in this task has authenticated, so that the connection no longer counts as
/// unauthenticated. The response, or what the connection becomes, ends with `access`. Outside of a listener's
/// requests this does nothing.
pub fn mark_authenticated(access: Option<&Arc<Access>>) {
    let _ = VISIT.try_with(|visit| {
        visit.activity.mark_authenticated();
        if let Some(access) = access {
            // The first access counts; a request has at most one.
            visit.access.set(access.clone()).ok();
        }
    });
}

/// Answers a request of a connection.
pub(super) async fn answer<E>(
    activity: Arc<ConnectionActivity>,
    answering: impl Future<Output = Result<Response, E>>,
) -> Result<Response, E> {
    let request = InProgress::begin(activity.clone());
    let visit = Visit::begin(activity);
    let response = VISIT.scope(visit.clone(), answering).await?;
    Ok(response.map(|body| Body::new(Answer::new(body, request, visit))))
}

/// Wraps the work of an upgraded connection, which stays in progress as part of the request that is answered in this
/// task, and ends with its access.
pub(super) fn become_part(work: impl Future<Output = ()> + Send + 'static) -> Work {
    let Ok(visit) = VISIT.try_with(Visit::clone) else {
        return Box::pin(work);
    };
    Box::pin(async move {
        let _request = InProgress::begin(visit.activity.clone());
        tokio::select! {
            () = VISIT.scope(visit.clone(), work) => {}
            () = visit.revoked() => {
                visit.activity.note_revocation();
                debug!("closing a connection whose credential was revoked or has expired");
            }
        }
    })
}

/// A request that is in progress until this is dropped.
struct InProgress(Arc<ConnectionActivity>);

impl InProgress {
    fn begin(activity: Arc<ConnectionActivity>) -> Self {
        activity.begin();
        Self(activity)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.end(tokio::time::Instant::now().into_std());
    }
}

/// A response in progress, which breaks off when its credential is revoked.
struct Answer {
    body: Held<InProgress>,
    /// Wait for the revocation, started only if the response takes time.
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Set if the request itself ended its access, as when a token is rotated: the response is still sent.
    is_of_revocation: bool,
    visit: Visit,
}

impl Answer {
    fn new(body: Body, request: InProgress, visit: Visit) -> Self {
        let access = visit.access.get();
        Self {
            body: Held::new(body, request),
            revoked: None,
            is_of_revocation: access.is_some_and(|access| access.is_revoked()),
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
        let Some(access) = self.visit.access.get() else {
            return Pin::new(&mut self.body).poll_frame(context);
        };
        if access.is_revoked() && !self.is_of_revocation {
            return Poll::Ready(Some(Err(self.visit.break_off())));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let visit = self.visit.clone();
        let revoked = self
            .revoked
            .get_or_insert_with(|| Box::pin(async move { visit.revoked().await }));
        ready!(revoked.as_mut().poll(context));
        Poll::Ready(Some(Err(self.visit.break_off())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Body that holds a value until it has been sent.
pub struct Held<T> {
    body: Body,
    _held: T,
}

impl<T> Held<T> {
    /// Lets `body` hold a value.
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

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Instant};

    use axum::body::BodyDataStream;
    use futures::{StreamExt as _, stream};

    use super::*;
    use crate::listener::ConnectionCounters;

    /// Returns the response to a request with this access.
    async fn answer_with(
        counters: &Arc<ConnectionCounters>,
        access: &Arc<Access>,
        body: Body,
        ends_access: bool,
    ) -> BodyDataStream {
        let answering = async {
            mark_authenticated(Some(access));
            if ends_access {
                access.revoke();
            }
            Ok::<_, io::Error>(Response::new(body))
        };
        let activity = ConnectionActivity::new(counters.clone(), false, Instant::now());
        let answer = answer(activity, answering).await.unwrap();
        answer.into_body().into_data_stream()
    }

    #[tokio::test]
    async fn an_answer_that_never_waits_breaks_off_when_its_access_is_revoked() {
        let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(b"x")));
        let access = Arc::new(Access::default());
        let counters = Arc::default();
        let body = Body::from_stream(endless);
        let mut frames = answer_with(&counters, &access, body, false).await;

        assert!(frames.next().await.unwrap().is_ok());
        access.revoke();
        assert!(frames.next().await.unwrap().is_err());
        assert_eq!(counters.revoked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_answer_to_a_request_that_ends_its_own_access_is_sent() {
        let access = Arc::new(Access::default());
        let (counters, body) = (Arc::default(), Body::from("a new token"));
        let mut frames = answer_with(&counters, &access, body, true).await;

        assert_eq!(frames.next().await.unwrap().unwrap(), "a new token");
        assert!(frames.next().await.is_none());
        assert_eq!(counters.revoked.load(Ordering::Relaxed), 0);
    }
}
