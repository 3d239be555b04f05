//! The audit log: a JSON line for each answer, in files that are rotated.
//!
//! A server answers whether or not its log can be written; lost lines are counted, and the next line has their
//! number.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{body::HttpBody as _, extract::Request, response::Response};
use http::{HeaderMap, Method, Uri, header};
use jiff::Timestamp;
use outpost_net::listener::Peer;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::links::Client;

/// Size of a file in bytes at which the next one begins.
const MAX_BYTES: u64 = 64 << 20;
/// Number of earlier files that are kept.
const KEPT: usize = 4;
/// Maximum number of lines that wait for the disk.
const WAITING: usize = 8192;
/// Maximum length of a path or user agent in a line, in bytes.
const TEXT_BYTES: usize = 512;

/// The log of a server. Clones write into the same file.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: Sender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

/// The receiving end of an [`Audit`], which writes the lines.
#[derive(Debug)]
pub struct Writer {
    lines: Receiver<Vec<u8>>,
    lost: Arc<AtomicU64>,
    log: Log,
}

/// The request that an answer belongs to.
pub(super) struct Asked {
    method: String,
    path: String,
    address: Option<IpAddr>,
    agent: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    address: Option<IpAddr>,
    /// Name of the token; `None` if it was refused, or if no token is required.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    status: u16,
    /// Announced length of the answer's body.
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
}

impl Audit {
    /// Opens a log that appends to `path`. The caller must run the writer.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<(Self, Writer)> {
        Self::with_limit(path, MAX_BYTES)
    }

    fn with_limit(path: &Path, max_bytes: u64) -> io::Result<(Self, Writer)> {
        let log = Log::open(path, max_bytes)?;
        let (sender, lines) = channel(WAITING);
        let lost = Arc::<AtomicU64>::default();
        let audit = Self {
            lines: sender,
            lost: Arc::clone(&lost),
        };
        Ok((audit, Writer { lines, lost, log }))
    }

    /// Adds a line for an answer.
    pub(super) fn add(&self, asked: Asked, response: &Response) {
        let client = response.extensions().get::<Client>();
        let token = client.map(|client| &*client.0);
        let announced = response.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        let line = Line {
            time: Timestamp::now(),
            address: asked.address,
            token: token.filter(|name| !name.is_empty()),
            method: &asked.method,
            path: &asked.path,
            status: response.status().as_u16(),
            bytes: match asked.method.as_str() {
                "HEAD" => 0,
                _ => announced
                    .or_else(|| response.body().size_hint().exact())
                    .unwrap_or_default(),
            },
            agent: asked.agent.as_deref(),
        };
        let line = serde_json::to_vec(&line).map(|mut line| {
            line.push(b'\n');
            line
        });
        // An answer must not wait for the disk, so a line that finds no room is only counted.
        let is_noted = line.is_ok_and(|line| self.lines.try_send(line).is_ok());
        if !is_noted {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Asked {
    pub(super) fn of(request: &Request) -> Self {
        let agent = request.headers().get(header::USER_AGENT);
        let peer = request.extensions().get::<Peer>();
        Self {
            method: request.method().to_string(),
            // Without the query, which may be a signature.
            path: short(request.uri().path()),
            address: peer.map(|peer| peer.0),
            agent: agent.and_then(|agent| agent.to_str().ok()).map(short),
        }
    }

    /// Returns the same for a request for a file of another host.
    pub(super) fn elsewhere(
        host: &str,
        uri: &Uri,
        method: &Method,
        headers: &HeaderMap,
        peer: Peer,
    ) -> Self {
        let agent = headers.get(header::USER_AGENT);
        Self {
            method: method.to_string(),
            path: short(&format!("https://{host}{}", uri.path())),
            address: Some(peer.0),
            agent: agent.and_then(|agent| agent.to_str().ok()).map(short),
        }
    }
}

fn short(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl Writer {
    /// Writes lines until `end`, and then the remaining ones.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        let mut batch = Vec::new();
        loop {
            let is_over = tokio::select! {
                biased;
                count = self.lines.recv_many(&mut batch, WAITING) => count == 0,
                () = &mut end => true,
            };
            if is_over {
                while let Ok(line) = self.lines.try_recv() {
                    batch.push(line);
                }
            }
            let lines = std::mem::take(&mut batch);
            let (mut log, lost) = (self.log, Arc::clone(&self.lost));
            let written = tokio::task::spawn_blocking(move || {
                log.write(&lines, &lost);
                log
            });
            match written.await {
                Ok(log) => self.log = log,
                Err(error) => return tracing::error!(%error, "audit log stopped"),
            }
            if is_over {
                return;
            }
        }
    }
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
}

impl Log {
    fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let file = append(path)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: file.metadata()?.len(),
            file,
            max_bytes,
        })
    }

    fn write(&mut self, lines: &[Vec<u8>], lost: &AtomicU64) {
        let before = lost.swap(0, Ordering::Relaxed);
        if before > 0 {
            tracing::error!(
                lines = before,
                "some answers are missing from the audit log"
            );
        }
        for (number, line) in lines.iter().enumerate() {
            if let Err(error) = self.append(line) {
                let left = lines.len() - number;
                tracing::error!(%error, path = %self.path.display(), lines = left, "cannot write the audit log");
                return;
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.begin_next()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Renames `FILE` to `FILE.1`, and so on; the oldest file is removed.
    fn begin_next(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Opens a file that only its owner can read, because the log shows what machines use.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_do_not_grow_and_the_newest_lines_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let lost = AtomicU64::new(0);
        let lines: Vec<_> = (0..100).map(|n| format!("{n:03}\n").into_bytes()).collect();

        for part in lines.chunks(7) {
            // Opened anew each time, as after a restart.
            Log::open(&path, 40).unwrap().write(part, &lost);
        }

        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        assert_eq!(names.len(), 1 + KEPT);
        let all: String = names[1..]
            .iter()
            .rev()
            .chain(&names[..1])
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        let expected: String = (50..100).map(|n| format!("{n:03}\n")).collect();
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn what_waits_for_the_disk_is_bounded_and_written_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let (audit, writer) = Audit::open(&path).unwrap();
        let asked = || Asked {
            method: "GET".to_owned(),
            path: "/blobs/x".to_owned(),
            address: None,
            agent: None,
        };

        for _ in 0..WAITING + 3 {
            audit.add(asked(), &Response::new(axum::body::Body::from("1234")));
        }
        assert_eq!(audit.lost.load(Ordering::Relaxed), 3);
        writer.run(std::future::ready(())).await;

        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), WAITING);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&line["bytes"], &line["path"]),
            (&4.into(), &"/blobs/x".into())
        );
    }
}
