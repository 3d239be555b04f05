//! Bodies that are parts of files, for when the system cannot send them by itself: with TLS, and in HTTP/2.
//!
//! Bytes in the page cache are read at once; only those that have to come from a disk go through a thread that may
//! block.

use std::{
    io::{self, IoSliceMut},
    os::unix::fs::FileExt as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Bytes, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

use super::file::FilePart;

/// Largest frame in bytes: one TLS record, and one frame of HTTP/2. Larger ones only take more memory.
const FRAME_BYTES: u64 = 16 << 10;

/// Remaining part of a file.
pub(super) struct FileBody {
    part: FilePart,
    /// A read that waits for a disk.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    pub(super) fn new(part: FilePart) -> Self {
        let reading = None;
        Self { part, reading }
    }

    fn buffer(&self) -> Vec<u8> {
        vec![0; self.part.length.min(FRAME_BYTES) as usize]
    }

    /// Returns the next bytes if the page cache has them.
    fn cached(&self) -> io::Result<Bytes> {
        let mut buffer = self.buffer();
        let slice = &mut [IoSliceMut::new(&mut buffer)];
        let (file, offset) = (&self.part.file, self.part.offset);
        let count = preadv2(file, slice, offset, ReadWriteFlags::NOWAIT)?;
        buffer.truncate(count);
        Ok(buffer.into())
    }

    fn read(&self) -> JoinHandle<io::Result<Bytes>> {
        let (file, offset, mut buffer) = (self.part.file.clone(), self.part.offset, self.buffer());
        spawn_blocking(move || {
            let count = file.read_at(&mut buffer, offset)?;
            buffer.truncate(count);
            Ok(buffer.into())
        })
    }
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.part.length == 0 {
            return Poll::Ready(None);
        }
        let bytes = match &mut self.reading {
            Some(reading) => ready!(Pin::new(reading).poll(context))?,
            None => match self.cached() {
                Err(error) if is_not_cached(&error) => {
                    self.reading = Some(self.read());
                    return self.poll_frame(context);
                }
                read => read,
            },
        };
        self.reading = None;
        let bytes = bytes?;
        self.part.stamp.check(&self.part.file)?;
        if bytes.is_empty() {
            let why = "a file became shorter while it was sent";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))));
        }
        self.part.offset += bytes.len() as u64;
        self.part.length -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.part.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.part.length)
    }
}

/// Returns whether a read has to wait, or its file system cannot tell.
fn is_not_cached(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR)
    )
}

#[cfg(test)]
mod tests {
    use std::{fs::File, sync::Arc};

    use http_body_util::BodyExt as _;
    use rustix::fs::{Advice, fadvise};

    use super::*;
    use crate::listener::FileStamp;

    const LENGTH: u64 = 300_000;

    fn file() -> (tempfile::NamedTempFile, Vec<u8>) {
        let content: Vec<u8> = (0..LENGTH + 20)
            .map(|i| (i.wrapping_mul(i) >> 5) as u8)
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &content).unwrap();
        (file, content)
    }

    fn body(file: &tempfile::NamedTempFile, length: u64) -> FileBody {
        let file = Arc::new(File::open(file.path()).unwrap());
        FileBody::new(FilePart {
            stamp: FileStamp::of(&file).unwrap(),
            file,
            offset: 10,
            length,
        })
    }

    #[tokio::test]
    async fn a_part_comes_whole_from_the_page_cache_and_from_the_disk() {
        let (file, content) = file();
        for is_dropped_from_cache in [false, true] {
            if is_dropped_from_cache {
                file.as_file().sync_all().unwrap();
                fadvise(file.as_file(), 0, None, Advice::DontNeed).unwrap();
            }
            let sent = body(&file, LENGTH).collect().await.unwrap().to_bytes();
            assert!(sent == content[10..10 + LENGTH as usize]);
        }
        let nothing = body(&file, 0).collect().await.unwrap().to_bytes();
        assert!(nothing.is_empty());
    }

    #[tokio::test]
    async fn a_part_is_an_error_if_its_file_became_shorter() {
        let (file, _) = file();
        let body = body(&file, LENGTH);
        file.as_file().set_len(100_000).unwrap();

        let error = body.collect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_part_is_an_error_before_its_end_if_its_file_was_changed() {
        let (file, mut content) = file();
        let mut body = body(&file, LENGTH);
        let first = body.frame().await.unwrap().unwrap();
        let length = first.into_data().unwrap().len();
        assert!(length < LENGTH as usize);
        *content.last_mut().unwrap() ^= 1;
        std::fs::write(file.path(), content).unwrap();

        let error = body.collect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
