//! Identity of a caller of our gRPC API, from the metadata of a call. Coder's wire has `coder/authentication.rs`.

use outpost_base::secret::Secret;
use tonic::{Status, metadata::MetadataMap};

use super::status::status;
use crate::{
    model::{Daemon, DaemonId},
    plane::{Caller, Credential, Plane},
};

/// Names in the metadata; the first two are Coder's headers.
const PSK: &str = "coder-provisioner-daemon-psk";
const KEY: &str = "coder-provisioner-daemon-key";
const DAEMON_ID: &str = "outpost-daemon-id";
const STATE_ID: &str = "outpost-state-id";
const AUTHORIZATION: &str = "authorization";

fn secret(metadata: &MetadataMap, name: &str) -> Option<Secret> {
    let value = metadata.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| Secret::new(value))
}

/// Returns the token that a call carries.
pub(super) fn bearer(metadata: &MetadataMap) -> Option<Secret> {
    let value = secret(metadata, AUTHORIZATION)?;
    value.expose().strip_prefix("Bearer ").map(Secret::new)
}

/// Returns the person whose token a call carries.
pub(super) async fn person(plane: &Plane, metadata: &MetadataMap) -> Result<Caller, Status> {
    let Some(token) = bearer(metadata) else {
        return Err(Status::unauthenticated(
            "a token is required: `authorization: Bearer TOKEN`",
        ));
    };
    plane.authenticate(&token).await.map_err(status)
}

/// Returns the pre-shared key or provisioner key that a call carries.
pub(super) async fn credential(
    plane: &Plane,
    metadata: &MetadataMap,
) -> Result<Credential, Status> {
    let (psk, key) = (secret(metadata, PSK), secret(metadata, KEY));
    plane
        .daemon_credential(psk.as_ref(), key.as_ref())
        .await
        .map_err(status)
}

/// Returns the daemon that calls, which must have registered before.
pub(super) async fn daemon(plane: &Plane, metadata: &MetadataMap) -> Result<Daemon, Status> {
    let credential = credential(plane, metadata).await?;
    let id = metadata
        .get(DAEMON_ID)
        .and_then(|id| id.to_str().ok())
        .and_then(|id| id.parse::<DaemonId>().ok())
        .ok_or_else(|| Status::invalid_argument("outpost-daemon-id is missing or not a UUID"))?;
    let mut daemon = plane.daemon(&credential, id).await.map_err(status)?;
    let state_id = metadata.get(STATE_ID).and_then(|id| id.to_str().ok());
    daemon.state_id = state_id.unwrap_or_default().to_owned();
    Ok(daemon)
}
