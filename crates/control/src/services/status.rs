//! Refused calls as gRPC statuses.

use outpost_base::error_chain::error_chain;
use tonic::Status;
use tracing::error;

use crate::{plane::RequestError, store::StoreError};

/// Returns the status for `error`. Details of the storage go only to the log.
pub(super) fn status(error: RequestError) -> Status {
    match &error {
        RequestError::NotFound { .. } | RequestError::Gone(_) => {
            Status::not_found(error.to_string())
        }
        RequestError::Invalid(_) | RequestError::Parameters(_) => {
            Status::invalid_argument(error.to_string())
        }
        RequestError::Conflict(_) => Status::failed_precondition(error.to_string()),
        RequestError::Forbidden(_) | RequestError::Suspended => {
            Status::permission_denied(error.to_string())
        }
        RequestError::Unauthenticated(_) => Status::unauthenticated(error.to_string()),
        RequestError::Stopping | RequestError::Busy(_) => Status::unavailable(error.to_string()),
        RequestError::Store(StoreError::DiskFull) => {
            error!("disk with the database is full; nothing is stored until there is space");
            Status::unavailable(error.to_string())
        }
        RequestError::Store(store) => {
            error!(error = %error_chain(store), "unexpected database error");
            Status::unavailable(error.to_string())
        }
        RequestError::Sealed { .. } => {
            error!(error = %error_chain(&error), "cannot read stored data");
            Status::data_loss(error_chain(&error))
        }
    }
}
