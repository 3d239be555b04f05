//! The place of a state while a template is played on mocks: a server for one file.
//!
//! An engine with a local state compares and writes all of it after each resource, so that an apply of thousands takes time
//! with the square of their number. With a server it does so once at its end, and every twenty seconds before.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::get,
};
use outpost_base::stop::Stop;
use outpost_files::beneath::{DEADLINE, Dir, within};
use outpost_net::listener::{Limits, ListenError, Listener};
use outpost_terraform::state_file;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// The directory with the state's file; `None` before there is one.
type Place = Arc<Mutex<Option<PathBuf>>>;

/// A server for the state of one session, until this is dropped.
#[derive(Debug)]
pub struct StateServer {
    address: String,
    place: Place,
    _task: AbortOnDropHandle<()>,
}

impl StateServer {
    /// Listens at any free port of the loopback device, at a path that nobody can guess.
    ///
    /// # Errors
    /// If there is no loopback device, or no port.
    pub async fn start() -> Result<Self, ListenError> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(anywhere, None, Limits::standard()).await?;
        let path = format!("/{}", Uuid::new_v4().simple());
        let address = format!("{}{path}", listener.url().as_str().trim_end_matches('/'));
        let place = Place::default();
        let routes = Router::new()
            .route(&path, get(read).post(write))
            .layer(DefaultBodyLimit::max(state_file::MAX_BYTES))
            .with_state(Arc::clone(&place));
        let task = tokio::spawn(listener.serve(routes, Stop::new()));
        Ok(Self {
            address,
            place,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The backend's settings in the template.
    pub(super) fn backend(&self) -> String {
        let address = &self.address;
        format!("terraform {{\n  backend \"http\" {{\n    address = \"{address}\"\n  }}\n}}\n")
    }

    /// Takes the state's file in a session's directory from now on.
    pub fn serve(&self, dir: &Path) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(dir.to_owned());
    }
}

fn dir(place: &Place) -> io::Result<Dir> {
    let place = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Dir::open(&place.ok_or(io::ErrorKind::NotFound)?)
}

async fn read(State(place): State<Place>) -> Result<Bytes, StatusCode> {
    let read = within(DEADLINE, move || state_file::read(&dir(&place)?)).await;
    match read.flatten() {
        Ok(Some(state)) => Ok(state),
        Ok(None) => Err(StatusCode::NOT_FOUND),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn write(State(place): State<Place>, state: Bytes) -> StatusCode {
    let written = within(DEADLINE, move || {
        dir(&place)?.write_private(state_file::NAME, &state)
    });
    match written.await.flatten() {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
