//! Transfer of files in pieces: archives of modules that are too large for a message.
//!
//! # Source
//! coder `provisionersdk/proto/dataupload.go`.

use bytes::{Bytes, BytesMut};
use outpost_provision::SourceError;
use outpost_wire::proto::provisioner::{
    ChunkPiece, DataUpload, DataUploadType, FileUpload, file_upload::Type,
};
use sha2::{Digest, Sha256};

/// Length of one piece in bytes; the receiver relies on exactly this size.
const CHUNK_BYTES: usize = 2 << 20;

/// Longest file in bytes.
const MAX_FILE_BYTES: usize = 100 << 20;

/// Returns the hash that names a file.
pub(super) fn hash(file: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(file))
}

/// Returns the messages that carry `file`, which must not be empty.
pub fn pieces(file: &Bytes) -> impl Iterator<Item = FileUpload> + use<> {
    let data_hash = hash(file);
    let head = DataUpload {
        upload_type: DataUploadType::UploadTypeModuleFiles.into(),
        data_hash: data_hash.clone(),
        file_size: file.len() as i64,
        chunks: i32::try_from(file.len().div_ceil(CHUNK_BYTES)).unwrap_or(i32::MAX),
    };
    let file = file.clone();
    let chunk = move |start: usize| {
        let data = file.slice(start..file.len().min(start + CHUNK_BYTES));
        let piece_index = i32::try_from(start / CHUNK_BYTES).unwrap_or(i32::MAX);
        Type::ChunkPiece(ChunkPiece {
            data,
            full_data_hash: data_hash.clone(),
            piece_index,
        })
    };
    let starts = (0..usize::try_from(head.file_size).unwrap_or(0)).step_by(CHUNK_BYTES);
    std::iter::once(Type::DataUpload(head))
        .chain(starts.map(chunk))
        .map(|part| FileUpload { r#type: Some(part) })
}

/// Assembler that puts a file together again and checks it.
#[derive(Debug, Default)]
pub struct FileBuilder {
    head: Option<DataUpload>,
    data: BytesMut,
    next_piece: i32,
}

impl FileBuilder {
    /// Adds the next message of the file.
    ///
    /// # Errors
    /// [`SourceError::Refused`] with the peer's reason for sending none; [`SourceError::Invalid`] for pieces that do
    /// not make a file.
    pub fn push(&mut self, upload: FileUpload) -> Result<(), SourceError> {
        match (upload.r#type, &self.head) {
            (Some(Type::Error(failure)), _) => Err(SourceError::Refused(failure.error)),
            (Some(Type::DataUpload(head)), None) => self.begin(head),
            (Some(Type::ChunkPiece(piece)), Some(head)) => {
                let is_next =
                    piece.piece_index == self.next_piece && piece.full_data_hash == head.data_hash;
                let room = usize::try_from(head.file_size).unwrap_or(0) - self.data.len();
                let is_too_many = piece.piece_index >= head.chunks;
                if !is_next || is_too_many || piece.data.len() > room {
                    return Err(invalid("unexpected piece of a file"));
                }
                self.next_piece += 1;
                self.data.extend_from_slice(&piece.data);
                Ok(())
            }
            _ => Err(invalid("messages out of order")),
        }
    }

    /// Length that the file will have, in bytes; nothing is accepted before its header.
    pub fn announced_bytes(&self) -> usize {
        let head = self.head.as_ref();
        head.map_or(0, |head| usize::try_from(head.file_size).unwrap_or(0))
    }

    /// Returns the complete file.
    ///
    /// # Errors
    /// [`SourceError::Invalid`] if it is not the announced one.
    pub fn finish(self) -> Result<Bytes, SourceError> {
        let head = self.head.ok_or_else(|| invalid("no file was sent"))?;
        if self.data.len() as i64 != head.file_size || hash(&self.data) != head.data_hash {
            return Err(invalid("size or hash of the file is wrong"));
        }
        Ok(self.data.freeze())
    }

    fn begin(&mut self, head: DataUpload) -> Result<(), SourceError> {
        let size = usize::try_from(head.file_size)
            .ok()
            .filter(|size| *size <= MAX_FILE_BYTES);
        // As in the reference: pieces may be larger than agreed, but not smaller.
        let fits = |size: usize| {
            usize::try_from(head.chunks).is_ok_and(|chunks| chunks <= size.div_ceil(CHUNK_BYTES))
        };
        if head.data_hash.len() != 32 || !size.is_some_and(fits) {
            return Err(invalid("impossible size or hash of a file"));
        }
        self.head = Some(head);
        Ok(())
    }
}

fn invalid(what: &str) -> SourceError {
    SourceError::Invalid(format!("the peer sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rebuilt(pieces: impl Iterator<Item = FileUpload>) -> Result<Bytes, SourceError> {
        let mut builder = FileBuilder::default();
        for piece in pieces {
            builder.push(piece)?;
        }
        builder.finish()
    }

    #[test]
    fn a_file_survives_its_pieces() {
        for size in [1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let file = Bytes::from(vec![7; size]);

            assert_eq!(pieces(&file).count(), 1 + size.div_ceil(CHUNK_BYTES));
            assert_eq!(rebuilt(pieces(&file)).unwrap(), file);
        }
    }

    #[test]
    fn a_missing_repeated_or_changed_piece_is_refused() {
        let file = Bytes::from(vec![7; 3 * CHUNK_BYTES]);

        assert!(rebuilt(pieces(&file).take(3)).is_err());
        assert!(rebuilt(pieces(&file).take(2).chain(pieces(&file).skip(1))).is_err());
        let changed = pieces(&file).map(|mut upload| {
            if let Some(Type::ChunkPiece(piece)) = &mut upload.r#type {
                piece.data = vec![8; piece.data.len()].into();
            }
            upload
        });
        assert!(rebuilt(changed).is_err());
    }

    #[test]
    fn a_file_over_the_limit_is_refused_at_its_head() {
        let head = DataUpload {
            data_hash: vec![0; 32].into(),
            file_size: i64::MAX,
            ..DataUpload::default()
        };

        assert!(
            FileBuilder::default()
                .push(FileUpload {
                    r#type: Some(Type::DataUpload(head))
                })
                .is_err()
        );
    }
}
