//! Git's smart protocol, implemented by git's own `upload-pack`: a shallow clone (`?depth=1`) needs it, because files
//! of the dumb protocol cannot provide one. Where there is no git, the dumb protocol is what clients get.
//!
//! # Source
//! <https://git-scm.com/docs/http-protocol> and <https://git-scm.com/docs/protocol-v2>

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    path::Path,
    process::Stdio,
    sync::Arc,
    thread,
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdout, Command},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::Snapshot;
use crate::generation::GitRepository;

/// Maximum size of a client's request in bytes: the commits that it wants, and those that it has.
pub(super) const MAX_REQUEST_BYTES: usize = 8 << 20;
/// Maximum duration of a clone.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Maximum time that a client waits for its turn.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read from git at once.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of git's error output that are kept.
const COMPLAINT_BYTES: u64 = 4 << 10;
/// Maximum length of a reference's name in bytes; longer ones are ignored.
const MAX_NAME_BYTES: usize = 255;

/// Reason why git gives no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SmartError {
    /// Git is missing, or cannot be started.
    #[error("`git` cannot be run")]
    Spawn(#[source] io::Error),
    /// Too many clones are running.
    #[error("too many clones run at once")]
    Busy,
    /// The repository cannot be laid out.
    #[error("the repository cannot be unpacked for git")]
    Layout(#[source] io::Error),
}

/// Kind of a request to git.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The repository's references and the server's capabilities.
    Advertisement,
    /// A request with this body.
    Request(Vec<u8>),
}

/// Runs git for a limited number of clients at a time.
pub(super) struct Backend {
    places: Arc<Semaphore>,
}

impl Default for Backend {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(2, Into::into);
        // A clone alternates between computing and waiting for its client.
        let places = Arc::new(Semaphore::new(4 * cores));
        Self { places }
    }
}

impl Backend {
    /// Returns git's answer as a stream. `protocol` is the client's `Git-Protocol` header.
    pub(super) async fn answer(
        &self,
        snapshot: Arc<Snapshot>,
        dir: Arc<TempDir>,
        ask: Ask,
        protocol: Option<&str>,
    ) -> Result<Body, SmartError> {
        let place = timeout(PATIENCE, self.places.clone().acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or(SmartError::Busy)?;
        let mut child = upload_pack(dir.path(), &ask, protocol)
            .spawn()
            .map_err(SmartError::Spawn)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(mut stderr)) = pipes else {
            return Err(SmartError::Spawn(io::ErrorKind::BrokenPipe.into()));
        };
        let (begin, request) = match ask {
            // Protocol version 2 begins without the line that names the service.
            Ask::Advertisement if is_second(protocol) => (Bytes::new(), Vec::new()),
            Ask::Advertisement => (
                Bytes::from_static(b"001e# service=git-upload-pack\n0000"),
                Vec::new(),
            ),
            Ask::Request(request) => (Bytes::new(), request),
        };
        let writing = async move {
            // Git may exit before it has read everything; its status decides.
            let _ = stdin.write_all(&request).await;
        };
        let writing = tokio::spawn(writing.in_current_span());
        let complaint = async move {
            let mut said = Vec::new();
            let _ = (&mut stderr)
                .take(COMPLAINT_BYTES)
                .read_to_end(&mut said)
                .await;
            // A full pipe would block git.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            String::from_utf8_lossy(&said).trim().to_owned()
        };
        let complaint = tokio::spawn(complaint.in_current_span());
        let running = Running {
            begin,
            child,
            stdout,
            complaint: AbortOnDropHandle::new(complaint),
            deadline: Instant::now() + DEADLINE,
            is_over: false,
            _writing: AbortOnDropHandle::new(writing),
            _place: place,
            _dir: dir,
            _snapshot: snapshot,
        };
        Ok(Body::from_stream(futures::stream::unfold(
            running,
            Running::next,
        )))
    }
}

/// A git process for one client, with everything that it needs until its end. It is killed on drop.
struct Running {
    begin: Bytes,
    child: Child,
    stdout: ChildStdout,
    complaint: AbortOnDropHandle<String>,
    deadline: Instant,
    is_over: bool,
    _writing: AbortOnDropHandle<()>,
    _place: OwnedSemaphorePermit,
    _dir: Arc<TempDir>,
    _snapshot: Arc<Snapshot>,
}

impl Running {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if self.is_over {
            return None;
        }
        if !self.begin.is_empty() {
            return Some((Ok(std::mem::take(&mut self.begin)), self));
        }
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = timeout_at(self.deadline, self.stdout.read_buf(&mut piece)).await;
        let failure = match read {
            Ok(Ok(0)) => self.end().await?,
            Ok(Ok(_)) => return Some((Ok(piece.freeze()), self)),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        // The client must notice that the answer is incomplete.
        tracing::warn!(error = %failure, "a clone from the mirror failed");
        self.is_over = true;
        Some((Err(failure), self))
    }

    /// Waits for git's end; returns its error.
    async fn end(&mut self) -> Option<io::Error> {
        let status = match timeout_at(self.deadline, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => return None,
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => return Some(error),
            Err(_) => return Some(io::ErrorKind::TimedOut.into()),
        };
        let said = (&mut self.complaint).await.unwrap_or_default();
        let text = format!("`git upload-pack` ended with {status}: {said}");
        Some(io::Error::other(text))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "git is found where this program finds its tools"
)]
fn upload_pack(dir: &Path, ask: &Ask, protocol: Option<&str>) -> Command {
    let mut command = Command::new("git");
    command
        // A template may name a commit that no branch contains any more.
        .args(["-c", "uploadpack.allowAnySHA1InWant=true"])
        .args(["-c", "pack.threads=1"])
        .args(["upload-pack", "--strict", "--stateless-rpc"])
        .args((*ask == Ask::Advertisement).then_some("--advertise-refs"))
        .arg(dir)
        .current_dir(dir)
        // Neither the mirror's environment nor its user's git configuration may change what clients get.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(protocol) = protocol.filter(|text| is_plain(text)) {
        command.env("GIT_PROTOCOL", protocol);
    }
    command
}

/// Returns whether a header has only keys and values, such as `version=2`.
fn is_plain(protocol: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"=:.-".contains(&b);
    protocol.len() <= 64 && protocol.bytes().all(is_good)
}

fn is_second(protocol: Option<&str>) -> bool {
    protocol.is_some_and(|text| is_plain(text) && text.split(':').any(|it| it == "version=2"))
}

/// Returns the body of a request, decompressed if necessary; `None` if it is too long or damaged.
pub(super) fn unpacked(body: &[u8], is_packed: bool) -> Option<Vec<u8>> {
    if !is_packed {
        return Some(body.to_vec());
    }
    let mut all = Vec::new();
    let unpacking = flate2::read::GzDecoder::new(body);
    let read = unpacking
        .take(MAX_REQUEST_BYTES as u64 + 1)
        .read_to_end(&mut all);
    (read.is_ok() && all.len() <= MAX_REQUEST_BYTES).then_some(all)
}

/// Returns the branch or tag that a client looks for by its name, if the repository has neither.
///
/// Git names all places where it could be: `v1`, `refs/tags/v1`, `refs/heads/v1` and some more.
pub(super) fn missed_reference(request: &[u8], repository: &GitRepository) -> Option<String> {
    let lines = lines(request);
    if lines.first() != Some(&"command=ls-refs") {
        return None;
    }
    let prefixes = lines.iter().filter_map(|it| it.strip_prefix("ref-prefix "));
    let prefixes: BTreeSet<&str> = prefixes.collect();
    let places = |name: &str| [format!("refs/tags/{name}"), format!("refs/heads/{name}")];
    let is_looked_for = |name: &&&str| {
        let is_name = name.len() <= MAX_NAME_BYTES && !name.starts_with("refs/");
        let is_name = is_name && !name.contains(char::is_control);
        is_name && places(name).iter().all(|it| prefixes.contains(&**it))
    };
    let name = prefixes.iter().find(is_looked_for)?;
    let is_there = |place: &String| repository.refs.contains_key(place);
    (!places(name).iter().any(is_there)).then(|| (*name).to_owned())
}

/// Returns the lines of a request, without the separators between its parts.
fn lines(request: &[u8]) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), request);
    while let Some((length, more)) = rest.split_at_checked(4) {
        let length = std::str::from_utf8(length).ok();
        let length = length.and_then(|text| usize::from_str_radix(text, 16).ok());
        match length {
            Some(length @ 4..) => {
                let Some((line, more)) = more.split_at_checked(length - 4) else {
                    break;
                };
                if let Ok(line) = std::str::from_utf8(line) {
                    lines.push(line.trim_end_matches('\n'));
                }
                rest = more;
            }
            Some(_) => rest = more,
            None => break,
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn request(lines: &[&str]) -> Vec<u8> {
        let line = |text: &&str| format!("{:04x}{text}\n", text.len() + 5);
        let mut all: String = lines.iter().map(line).collect();
        all.insert_str(line(&lines[0]).len(), "0001");
        all.push_str("0000");
        all.into_bytes()
    }

    #[test]
    fn a_name_that_a_client_looks_for_in_vain_is_read_from_its_request() {
        let repository = GitRepository {
            url: "https://git.example/acme/mods.git".to_owned(),
            refs: [("refs/tags/v1".to_owned(), "0".repeat(40))].into(),
            head: None,
            pack: Digest::of(b""),
            index: Digest::of(b""),
        };
        let ask = |name: &str| {
            let more = ["", "refs/", "refs/tags/", "refs/heads/"];
            let prefixes = more.map(|it| format!("ref-prefix {it}{name}"));
            let mut lines = vec!["command=ls-refs", "peel", "symrefs", "ref-prefix HEAD"];
            lines.extend(prefixes.iter().map(String::as_str));
            missed_reference(&request(&lines), &repository)
        };

        assert_eq!(ask("v2").as_deref(), Some("v2"));
        assert_eq!(ask("v1"), None);
        let all = [
            "command=ls-refs",
            "ref-prefix refs/heads/",
            "ref-prefix refs/tags/",
        ];
        assert_eq!(missed_reference(&request(&all), &repository), None);
        let other = ["command=fetch", "ref-prefix v2"];
        assert_eq!(missed_reference(&request(&other), &repository), None);
        for bad in [
            &b"zzzz"[..],
            b"00",
            b"ffffcommand=ls-refs",
            b"\xff\xff\xff\xff",
        ] {
            assert_eq!(missed_reference(bad, &repository), None);
        }
    }

    #[test]
    fn a_request_is_unpacked_up_to_its_limit() {
        use std::io::Write as _;
        let packed = |length: usize| {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            writer.write_all(&vec![b'a'; length]).unwrap();
            writer.finish().unwrap()
        };

        assert_eq!(unpacked(b"ab", false).as_deref(), Some(&b"ab"[..]));
        assert_eq!(unpacked(&packed(2), true).as_deref(), Some(&b"aa"[..]));
        assert_eq!(unpacked(&packed(MAX_REQUEST_BYTES + 1), true), None);
        assert_eq!(unpacked(b"rubbish", true), None);
    }

    #[test]
    fn only_a_plain_protocol_header_reaches_git() {
        assert!(is_second(Some("version=2")) && is_second(Some("object-format=sha1:version=2")));
        assert!(!is_second(Some("version=1")) && !is_second(None));
        assert!(!is_plain("version=2\n") && !is_plain(&"a".repeat(65)));
    }
}
