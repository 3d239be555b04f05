//! Archives of modules, which travel in pieces.

use tokio::sync::Semaphore;

use super::rpc::{Question, refuse};
use crate::{
    control::services::calls::{CallError, Calls},
    proto::{
        provisioner::{DataUploadType, FailedFile, FileUpload, file_upload::Type},
        provisionerd::{Empty, FileRequest},
    },
    transport::{FileBuilder, drpc::CallError as WireError},
};

/// Keeps an archive, which the end of its import then names by its hash.
pub(super) async fn upload(
    calls: &Calls,
    uploads: &Semaphore,
    mut answer: Question,
) -> Result<(), WireError> {
    let Ok(_place) = uploads.acquire().await else {
        return Ok(());
    };
    let mut file = FileBuilder::default();
    while let Some(piece) = answer.receive::<FileUpload>().await? {
        let wrong = wrong_type(&piece);
        let pushed = wrong.map_or_else(|| file.push(piece).map_err(|e| e.to_string()), Err);
        if let Err(error) = pushed {
            return answer.fail(&error).await;
        }
    }
    let content = match file.finish() {
        Ok(content) => content,
        Err(error) => return answer.fail(&error.to_string()).await,
    };
    match calls.plane.upload_modules(content).await {
        Ok(()) => answer.reply(&Empty {}).await,
        Err(error) => refuse(answer, &CallError::from(error)).await,
    }
}

/// Sends an archive that an import left. Why not is part of the answer, not an error of the call.
pub(super) async fn download(calls: &Calls, mut answer: Question) -> Result<(), WireError> {
    let Some(request) = answer.receive::<FileRequest>().await? else {
        return Ok(());
    };
    if request.upload_type() != DataUploadType::UploadTypeModuleFiles {
        let error = unsupported(request.upload_type());
        return answer.reply(&failed(error)).await;
    }
    let mut pieces = match calls.download_file(request).await {
        Ok(pieces) => pieces.peekable(),
        Err(error) => return answer.reply(&failed(error.to_string())).await,
    };
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return answer.reply(&piece).await;
        }
        answer.send(&piece).await?;
    }
    Ok(())
}

fn wrong_type(piece: &FileUpload) -> Option<String> {
    match &piece.r#type {
        Some(Type::DataUpload(head))
            if head.upload_type() != DataUploadType::UploadTypeModuleFiles =>
        {
            Some(unsupported(head.upload_type()))
        }
        _ => None,
    }
}

fn unsupported(kind: DataUploadType) -> String {
    format!("unsupported file upload type: {}", kind.as_str_name())
}

fn failed(error: String) -> FileUpload {
    FileUpload {
        r#type: Some(Type::Error(FailedFile { error })),
    }
}
