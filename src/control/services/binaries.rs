//! `/bin`: where bootstrap scripts fetch the agent. Nobody is asked who they are, as in the reference.

use std::{fs::File, io, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio_util::io::ReaderStream;

use crate::{control::plane::Plane, net::listener::FilePart};

pub(super) fn routes(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/bin/{name}", get(binary))
        .with_state(plane)
}

async fn binary(State(plane): State<Arc<Plane>>, Path(name): Path<String>) -> Response {
    let opened = plane.binaries().open(&name).and_then(|file| {
        let length = file.metadata()?.len();
        Ok((file, length))
    });
    match opened {
        Ok((file, length)) => whole(file, length).unwrap_or_else(|error| failed(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("this server has no `{name}`\n");
            (StatusCode::NOT_FOUND, text).into_response()
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> Response {
    tracing::warn!(%error, "cannot read an agent's binary");
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

fn whole(file: File, length: u64) -> io::Result<Response> {
    // Where the system sends the file, nobody reads this.
    let reader = tokio::fs::File::from_std(file.try_clone()?);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    let mut response = (headers, Body::from_stream(ReaderStream::new(reader))).into_response();
    let file = Arc::new(file);
    let part = FilePart {
        file,
        offset: 0,
        length,
    };
    response.extensions_mut().insert(part);
    Ok(response)
}
