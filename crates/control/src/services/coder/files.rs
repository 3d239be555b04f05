//! Archives of modules, which are transferred in pieces.

use std::time::Duration;

use outpost_net::budget::{Budget, Overdrawn, Refusals, Reserved};
use outpost_transport::{FileBuilder, drpc::CallError as WireError};
use outpost_wire::proto::{
    provisioner::{DataUploadType, FailedFile, FileUpload, file_upload::Type},
    provisionerd::{Empty, FileRequest},
};
use tokio::time::timeout;

use super::rpc::{IncomingCall, is_passing, refuse};
use crate::services::calls::{CallError, Calls};

/// Archives up to this size, in bytes, do not wait behind larger ones.
const SMALL: usize = 4 << 20;
/// Budgets for archives that are being received, in bytes: for small ones, and for larger ones, where one of the
/// largest fits.
const UPLOADS_BYTES: (usize, usize) = (16 << 20, 100 << 20);

/// Budgets for archives that are being received, over all daemons. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Uploads {
    small: Budget,
    large: Budget,
}

impl Uploads {
    pub(super) fn new(refusals: &Refusals) -> Self {
        Self {
            small: Budget::new(UPLOADS_BYTES.0).counted_by(refusals),
            large: Budget::new(UPLOADS_BYTES.1).counted_by(refusals),
        }
    }

    /// Waits until `bytes` are available.
    async fn reserve(&self, bytes: usize) -> Result<Reserved, Overdrawn> {
        let budget = if bytes <= SMALL {
            &self.small
        } else {
            &self.large
        };
        budget.reserve(bytes).await
    }
}

/// Time for a piece of an archive, whose bytes others wait for: two minutes for 2 MiB are 140 kbit/s.
const PIECE_TIMEOUT: Duration = Duration::from_secs(120);

/// Stores an archive, which the end of its import then names by its hash. Its bytes are reserved before they are
/// read.
pub(super) async fn upload(
    calls: &Calls,
    uploads: &Uploads,
    mut answer: IncomingCall,
) -> Result<(), WireError> {
    let (mut file, mut reserved) = (FileBuilder::default(), None);
    loop {
        let received = timeout(PIECE_TIMEOUT, answer.receive::<FileUpload>()).await;
        let Ok(received) = received else {
            let error = format!("no piece of the archive came for {PIECE_TIMEOUT:?}");
            return answer.fail(&error).await;
        };
        let Some(piece) = received? else { break };
        let wrong = wrong_type(&piece);
        let pushed = wrong.map_or_else(|| file.push(piece).map_err(|e| e.to_string()), Err);
        if let Err(error) = pushed {
            return answer.fail(&error).await;
        }
        if reserved.is_none() {
            match uploads.reserve(file.announced_bytes()).await {
                Ok(bytes) => reserved = Some(bytes),
                Err(error) => return answer.fail(&error.to_string()).await,
            }
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

/// Sends an archive from an import. The reason why that fails is part of the answer, not an error of the call, unless
/// a repetition may succeed.
pub(super) async fn download(calls: &Calls, mut answer: IncomingCall) -> Result<(), WireError> {
    let Some(request) = answer.receive::<FileRequest>().await? else {
        return Ok(());
    };
    if request.upload_type() != DataUploadType::UploadTypeModuleFiles {
        let error = unsupported(request.upload_type());
        return answer.reply(&failed(error)).await;
    }
    let mut pieces = match calls.download_file(request).await {
        Ok(pieces) => pieces.peekable(),
        Err(error) if is_passing(&error) => return refuse(answer, &error).await,
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn large_archives_wait_for_each_other_and_small_ones_do_not() {
        let uploads = Uploads::new(&Refusals::default());
        let large = uploads.reserve(60 << 20).await.unwrap();
        let mut second = Box::pin(uploads.reserve(60 << 20));

        assert!((&mut second).now_or_never().is_none());
        let small: Vec<_> = (0..4)
            .map(|_| uploads.reserve(SMALL).now_or_never())
            .collect();
        assert!(small.iter().all(Option::is_some));
        drop(large);
        second.await.unwrap();
        // An impossible reservation fails at once.
        assert!(uploads.reserve(UPLOADS_BYTES.1 + 1).await.is_err());
    }
}
