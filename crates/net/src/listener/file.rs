//! Files that are sent from the system's cache to a socket without passing through this process.
//!
//! The HTTP library handles only bytes in memory. So the body of such a response consists of placeholder bytes: they
//! are at one address, by which the socket recognizes that a part of a file is meant. Any copy of the bytes on their
//! way would break that, so it is used only for HTTP/1 without TLS.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::MetadataExt as _,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{body::Body, response::Response};
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::file_body::FileBody;

/// Most bytes of a file that are sent by one call of the system. A socket accepts up to about as many at a time, and
/// several smaller calls would cost more.
const AT_ONCE: usize = 4 << 20;

/// Placeholder for the bytes of files, which is never sent itself. Nobody touches it, so that it has addresses but takes
/// no memory.
static STAND_IN: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; AT_ONCE]);

/// Stamp that identifies a file as the one that was read before. Its names and its mode may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    number: u64,
    size: u64,
    /// Time when its content was last written, in seconds and nanoseconds.
    written: (i64, i64),
}

impl FileStamp {
    /// Returns the stamp of an open file, as it is now.
    ///
    /// # Errors
    /// An I/O error.
    pub fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            device: found.dev(),
            number: found.ino(),
            size: found.size(),
            written: (found.mtime(), found.mtime_nsec()),
        })
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Refuses a file that has been written since.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`], or an I/O error.
    pub fn check(&self, file: &File) -> io::Result<()> {
        match Self::of(file)? == *self {
            true => Ok(()),
            false => {
                let why = "a file was changed while it was sent";
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }
}

/// Part of a file that is the body of a response, in whose extensions this is stored.
#[derive(Clone, Debug)]
pub struct FilePart {
    /// Open file to read from.
    pub file: Arc<File>,
    /// Stamp of the file when it was opened: the response breaks off if it changes.
    pub stamp: FileStamp,
    /// Offset of the part in bytes.
    pub offset: u64,
    /// Length of the part in bytes.
    pub length: u64,
}

impl FilePart {
    /// Returns the part as a body, for when the system does not send it by itself.
    pub fn body(&self) -> Body {
        Body::new(FileBody::new(self.clone()))
    }
}

/// Parts that a connection still has to send, first come, first served.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(Arc<Mutex<VecDeque<FilePart>>>);

impl Parts {
    /// Lets the socket send the body if it is a part of a file.
    pub(super) fn take_over(&self, mut response: Response) -> Response {
        if let Some(part) = response.extensions_mut().remove::<FilePart>() {
            let (parts, left) = (self.clone(), part.length);
            let part = Some(part);
            *response.body_mut() = Body::new(StandIn { parts, part, left });
        }
        response
    }

    /// Sends up to `wanted` bytes of the first part to `socket`, and returns their number and whether the socket is full.
    fn send(&self, socket: &TcpStream, wanted: usize) -> io::Result<(usize, bool)> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.front_mut().ok_or(io::ErrorKind::NotFound)?;
        let count = part.length.min(wanted as u64);
        // Checked each time, so that no client gets a complete response from a file that has changed.
        part.stamp.check(&part.file)?;
        let sent = send_file(socket, part, count)? as u64;
        let is_full = sent < count;
        if is_full {
            // Otherwise the file may have become shorter, and nothing would wake a wait for the socket.
            part.stamp.check(&part.file)?;
        }
        if sent == 0 {
            let why = "a file became shorter while it was sent";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        part.offset += sent;
        part.length -= sent;
        if part.length == 0 {
            parts.pop_front();
        }
        Ok((sent as usize, is_full))
    }
}

fn send_file(socket: &TcpStream, part: &FilePart, count: u64) -> io::Result<usize> {
    let mut offset = i64::try_from(part.offset).map_err(io::Error::other)?;
    let count = usize::try_from(count).map_err(io::Error::other)?;
    Ok(nix::sys::sendfile::sendfile(
        socket,
        &part.file,
        Some(&mut offset),
        count,
    )?)
}

/// Body of placeholder bytes for those of a file.
struct StandIn {
    parts: Parts,
    /// Part that is queued once the first byte is requested: an unwanted body is not sent.
    part: Option<FilePart>,
    left: u64,
}

impl hyper::body::Body for StandIn {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(part) = self.part.take() {
            let mut parts = self.parts.0.lock().unwrap_or_else(PoisonError::into_inner);
            parts.push_back(part);
        }
        let count = self.left.min(STAND_IN.len() as u64);
        self.left -= count;
        let bytes = Bytes::from_static(&STAND_IN[..count as usize]);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Socket that sends files in place of placeholder bytes.
pub(super) struct Socket {
    tcp: TcpStream,
    parts: Parts,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, parts: Parts) -> Self {
        Self { tcp, parts }
    }

    fn poll_send(&self, context: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(context))?;
            let mut count = 0;
            let send = || {
                let (sent, is_full) = self.parts.send(&self.tcp, wanted)?;
                count = sent;
                match is_full {
                    // So that the runtime waits for space at once, not after another call that sends nothing.
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(sent),
                }
            };
            match self.tcp.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && count > 0 => {
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

fn stands_in(bytes: &[u8]) -> bool {
    STAND_IN.as_ptr_range().contains(&bytes.as_ptr())
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match stands_in(bytes) {
            true => self.poll_send(context, bytes.len()),
            false => Pin::new(&mut self.tcp).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let empty = slices.iter().take_while(|slice| slice.is_empty()).count();
        let slices = &slices[empty..];
        let is_file = slices.first().is_some_and(|slice| stands_in(slice));
        let alike = slices.iter().take_while(|it| stands_in(it) == is_file);
        if is_file {
            return self.poll_send(context, alike.map(|slice| slice.len()).sum());
        }
        let count = alike.count();
        Pin::new(&mut self.tcp).poll_write_vectored(context, &slices[..count])
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::SocketAddr, time::Duration};

    use axum::{Router, extract::Path, response::IntoResponse as _, routing::get};
    use outpost_base::stop::Stop;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::listener::{Limits, Listener};

    const OFFSET: usize = 7;

    /// Serves N bytes of the file at `/N`, and zeros where only the body counts.
    async fn serve(path: &std::path::Path) -> (SocketAddr, Stop) {
        let (file, stop) = (Arc::new(File::open(path).unwrap()), Stop::new());
        let stamp = FileStamp::of(&file).unwrap();
        let answer = move |Path(length): Path<u64>| async move {
            let mut response = vec![0_u8; length as usize].into_response();
            let offset = OFFSET as u64;
            response.extensions_mut().insert(FilePart {
                file,
                stamp,
                offset,
                length,
            });
            response
        };
        let routes = Router::new()
            .route("/{length}", get(answer))
            .route("/text", get(async || "only text"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any, None, Limits::standard()).await.unwrap();
        let address = listener.address();
        tokio::spawn(listener.serve(routes, stop.clone()));
        (address, stop)
    }

    fn file() -> (tempfile::NamedTempFile, Vec<u8>) {
        let content: Vec<u8> = (0..5_000_000_u64)
            .map(|i| (i.wrapping_mul(i) >> 9) as u8)
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &content).unwrap();
        (file, content)
    }

    /// Returns all responses to these requests on one connection, without a header of each.
    async fn ask(address: SocketAddr, requests: &[&str]) -> Vec<Vec<u8>> {
        let mut socket = TcpStream::connect(address).await.unwrap();
        for request in requests {
            let request = format!("{request} HTTP/1.1\r\nhost: here\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
        }
        let mut answers = Vec::new();
        for request in requests {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.split_once("content-length: ").unwrap().1;
            let length = length.split_once('\r').unwrap().0.parse().unwrap();
            let is_head = request.starts_with("HEAD");
            let mut body = vec![0; if is_head { 0 } else { length }];
            match socket.read_exact(&mut body).await {
                Ok(_) => answers.push(body),
                Err(_) => break,
            }
        }
        answers
    }

    #[tokio::test]
    async fn files_come_whole_and_in_order_also_between_others() {
        let (file, content) = file();
        let (address, _stop) = serve(file.path()).await;
        let part = |length| content[OFFSET..OFFSET + length].to_vec();

        let asked = [
            "GET /4900000",
            "GET /text",
            "HEAD /4900000",
            "GET /3",
            "GET /300000",
            "GET /0",
            "GET /text",
        ];
        let answers = tokio::time::timeout(Duration::from_secs(60), ask(address, &asked));
        let answers = answers.await.unwrap();

        let text = b"only text".to_vec();
        let (large, small) = (part(4_900_000), part(300_000));
        let expected = [large, text.clone(), vec![], part(3), small, vec![], text];
        assert_eq!(answers.len(), expected.len());
        for ((asked, answer), expected) in asked.iter().zip(answers).zip(expected) {
            assert!(answer == expected, "{asked}");
        }
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_ends_the_connection() {
        let (file, _) = file();
        let (address, _stop) = serve(file.path()).await;
        file.as_file().set_len(1_000_000).unwrap();

        let answers = tokio::time::timeout(
            Duration::from_secs(60),
            ask(address, &["GET /4900000", "GET /text"]),
        );
        assert!(answers.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_file_that_was_changed_ends_the_connection() {
        let (file, mut content) = file();
        let (address, _stop) = serve(file.path()).await;
        content[4_000_000] ^= 1;
        fs::write(file.path(), content).unwrap();

        let answers = tokio::time::timeout(
            Duration::from_secs(60),
            ask(address, &["GET /4900000", "GET /text"]),
        );
        assert!(answers.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn http2_takes_the_body() {
        let (file, _) = file();
        let (address, _stop) = serve(file.path()).await;
        crate::install_crypto_provider();
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .no_proxy()
            .build()
            .unwrap();

        let answer = client.get(format!("http://{address}/9")).send().await;
        assert_eq!(&answer.unwrap().bytes().await.unwrap()[..], [0; 9]);
    }
}
