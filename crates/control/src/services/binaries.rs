//! Route `/bin`, from which bootstrap scripts fetch the agent. It needs no credential, as in the reference.

use std::{fs::File, io, sync::Arc};

use crate::plane::Plane;
use axum::{
    Extension, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use outpost_net::listener::{FilePart, FileStamp};

pub(super) fn routes(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/bin/{name}", get(binary))
        .with_state(plane)
}

async fn binary(State(plane): State<Arc<Plane>>, Path(name): Path<String>) -> Response {
    let opened = plane.binaries().open(&name).and_then(|file| {
        let stamp = FileStamp::of(&file)?;
        Ok((file, stamp))
    });
    match opened {
        Ok((file, stamp)) => whole(file, stamp),
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

fn whole(file: File, stamp: FileStamp) -> Response {
    let length = stamp.size();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    let part = FilePart {
        file: Arc::new(file),
        stamp,
        offset: 0,
        length,
    };
    let body = part.body();
    (headers, Extension(part), body).into_response()
}
