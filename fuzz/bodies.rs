//! What is fuzzed, as functions of bytes that panic when something is wrong. `cargo fuzz` calls them with coverage,
//! `tests/it/fuzz.rs` without, on any toolchain.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, HeaderValue, Request, StatusCode},
};
use bytes::{Bytes, BytesMut};
use outpost::{
    job::{CompletedJob, FailedJob, Job},
    mirror::{
        Digest, Generation, Store,
        bundle::{self, Manifest, Trust, Watch},
        fetch::{
            Answer,
            registry::{Found, Offered},
        },
        generation::Package,
        keys::{PublicKey, Rotation},
        serve::{Access, Server},
    },
    process::{Limits, Line, LineBuffer, Pipe},
    proto::{provisioner, provisionerd},
    provision::{JobUpdate, JobUpdated},
    registry::Platform,
    secret::Secret,
    stop::Stop,
    template::scenario,
    terraform::log_stream,
    transport::{
        drpc::wire::{Reader, Writer},
        yamux::{Config, Event, Role, Session, StreamId, WINDOW_BYTES},
    },
};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

#[path = "overlay.rs"]
mod overlay;

pub use overlay::{agent_calls, agent_texts, coordinator, derp, disco, engine, tailnet, tsmp};

/// A target's name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 19] = [
    ("yamux", yamux),
    ("drpc", drpc),
    ("messages", messages),
    ("log_reader", log_reader),
    ("bundle", bundle),
    ("manifest", manifest),
    ("zip", zip),
    ("scenario", scenario),
    ("range", range),
    ("link", link),
    ("registry", registry),
    ("derp", derp),
    ("disco", disco),
    ("tsmp", tsmp),
    ("tailnet", tailnet),
    ("agent_calls", agent_calls),
    ("agent_texts", agent_texts),
    ("engine", engine),
    ("coordinator", coordinator),
];

/// A session whose peer sends whatever it likes, and whose own side does anything at any time.
///
/// The first byte chooses the role. Then each byte is a deed: what has the highest bit set takes that many bytes
/// (the lower seven bits, times 8) as the peer's.
pub fn yamux(data: &[u8]) {
    let Some((&role, mut rest)) = data.split_first() else {
        return;
    };
    let role = if role & 1 == 0 {
        Role::Client
    } else {
        Role::Server
    };
    let config = Config {
        max_streams: 8,
        ..Config::default()
    };
    let mut now = Instant::now();
    let mut session = Session::new(role, config, now);
    let mut streams: Vec<StreamId> = Vec::new();
    while let Some((&deed, after)) = rest.split_first() {
        rest = after;
        let chosen = streams.get(usize::from(deed & 7)).copied();
        let result = match (deed >> 3, chosen) {
            (16.., _) => {
                let (bytes, after) = rest.split_at(rest.len().min(usize::from(deed & 0x7f) * 8));
                rest = after;
                session.handle_bytes(Bytes::copy_from_slice(bytes), now)
            }
            (0, _) => {
                streams.extend(session.open(now));
                Ok(())
            }
            (1, Some(id)) => {
                let _ = session.write(id, &[0x55; 70_000]);
                Ok(())
            }
            (2, Some(id)) => {
                if let Ok(Some(read)) = session.read(id, 4096) {
                    assert!(read.len() <= 4096);
                }
                Ok(())
            }
            (3, Some(id)) => {
                session.close_write(id, now);
                Ok(())
            }
            (4, Some(id)) => {
                session.abandon(id, now);
                Ok(())
            }
            (5, _) => {
                now = session.poll_timeout().max(now);
                session.handle_timeout(now)
            }
            (6, _) => {
                now += Duration::from_secs(1);
                session.handle_timeout(now)
            }
            _ => {
                while session.poll_transmit().is_some() {}
                assert!(!session.is_congested());
                Ok(())
            }
        };
        while let Some(event) = session.poll_event() {
            if let Event::StreamOpened(id) = event {
                streams.push(id);
            }
        }
        if result.is_err() {
            break;
        }
    }
    // Of no stream more waits to be read than the window that was granted.
    for id in streams {
        let mut waiting = 0;
        while let Ok(Some(read)) = session.read(id, usize::MAX) {
            if read.is_empty() {
                break;
            }
            waiting += read.len();
        }
        assert!(waiting <= WINDOW_BYTES as usize, "{waiting} bytes wait");
    }
}

/// Frames in pieces of any size give the packets that they give at once, and what is read can be written.
pub fn drpc(data: &[u8]) {
    const LIMIT: usize = 16 * 1024;
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut reader = Reader::new(LIMIT);
        let mut packets = Vec::new();
        for piece in pieces {
            reader.push(piece);
            loop {
                match reader.next_packet() {
                    Ok(Some(packet)) => packets.push(packet),
                    Ok(None) => break,
                    Err(error) => return (packets, Some(error)),
                }
            }
        }
        (packets, None)
    };
    let whole = read(&mut std::iter::once(bytes));
    let in_pieces = read(&mut bytes.chunks(usize::from(step) + 1));
    assert_eq!(whole, in_pieces);

    let (packets, _) = whole;
    assert!(packets.iter().all(|packet| packet.data.len() <= LIMIT));
    let mut written = BytesMut::new();
    let mut writer = Writer::default();
    packets
        .iter()
        .for_each(|packet| writer.write(packet.kind, &packet.data, &mut written));
    assert_eq!(read(&mut std::iter::once(&written[..])), (packets, None));
}

/// Each message that comes in, from a server or from a daemon. The first byte says which.
pub fn messages(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        0 => settles::<provisionerd::AcquiredJob, Job>(bytes),
        1 => settles::<provisionerd::UpdateJobRequest, JobUpdate>(bytes),
        2 => settles::<provisionerd::UpdateJobResponse, JobUpdated>(bytes),
        3 => settles::<provisionerd::FailedJob, FailedJob>(bytes),
        4 => settles::<provisionerd::CompletedJob, CompletedJob>(bytes),
        5 => drop(provisioner::FileUpload::decode(bytes)),
        6 => drop(provisionerd::CommitQuotaRequest::decode(bytes)),
        _ => drop(provisionerd::CommitQuotaResponse::decode(bytes)),
    }
}

/// What is taken in means the same after it went out and came back.
fn settles<W, T>(bytes: &[u8])
where
    W: Message + Default + From<T>,
    T: TryFrom<W>,
{
    let Ok(Ok(ours)) = W::decode(bytes).map(T::try_from) else {
        return;
    };
    let sent = W::from(ours).encode_to_vec();
    let restored = W::decode(&sent[..]).expect("what we encode can be decoded");
    let Ok(again) = T::try_from(restored) else {
        panic!("what we send is not accepted by ourselves");
    };
    assert_eq!(sorted(W::from(again).encode_to_vec()), sorted(sent));
}

/// Entries of maps have no order of their own, so only what stands there is compared.
fn sorted(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.sort_unstable();
    bytes
}

/// Whatever an engine prints, in whatever pieces: the same lines, of bounded size, and entries without NUL.
pub fn log_reader(data: &[u8]) {
    const LIMITS: Limits = Limits {
        request: outpost::process::Request::Interrupt,
        exit_timeout: Duration::ZERO,
        pipe_grace: Duration::ZERO,
        line_bytes: 64,
        precious_bytes: 256,
        must_keep_whole: log_stream::must_keep_whole,
    };
    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let lines = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut lines, mut buffer) = (Vec::new(), LineBuffer::new(&LIMITS));
        pieces.for_each(|piece| buffer.push(piece, |line| lines.push(line)));
        buffer.finish(|line| lines.push(line));
        lines
    };
    let whole: Vec<Line> = lines(&mut std::iter::once(bytes));
    let in_pieces = lines(&mut bytes.chunks(usize::from(step) + 1));
    assert_eq!(whole, in_pieces);

    for line in whole {
        assert!(line.bytes.len() <= LIMITS.precious_bytes);
        for pipe in [Pipe::Stdout, Pipe::Stderr] {
            let said = log_stream::read(pipe, line.clone());
            assert!(
                said.entries
                    .iter()
                    .all(|entry| !entry.output.contains('\0'))
            );
        }
    }
}

/// A bundle that somebody made. What is read of it is within limits, and what is taken for its head is written as it
/// was read.
pub fn bundle(data: &[u8]) {
    let stop = Stop::new();
    let watch = Watch {
        stop: &stop,
        hear: &|_| {},
    };
    let mut reader = bundle::Reader::new(data);
    let Ok(head) = reader.head() else {
        return;
    };
    let _ = head.signers();
    assert!(head.verify(&Trust::default()).is_err(), "nobody is trusted");
    let Ok(manifest) = head.unverified() else {
        return;
    };
    for (digest, blob) in &manifest.blobs {
        let mut read = 0;
        let mut take = |piece: &[u8]| {
            read += piece.len() as u64;
            Ok(())
        };
        let result = reader.blob(*digest, blob.size, watch, &mut take);
        assert!(read <= blob.size.min(data.len() as u64));
        if result.is_err() {
            return;
        }
    }
    let _ = reader.end();
}

/// A manifest that somebody signed: what is taken is in its normal form, and nothing in it leads anywhere.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data) {
        assert_eq!(manifest.to_text().expect("it was one"), data);
        assert_eq!(manifest.generation.check(), Ok(()));
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = PublicKey::from_file(text) {
        assert_eq!(PublicKey::from_file(&key.to_file()), Ok(key));
    }
    if let Ok(line) = Rotation::from_file(text) {
        assert_eq!(Rotation::to_file(&line), text);
    }
}

/// A package that somebody made: it is refused, or it unpacks within its directory, always to the same.
pub fn zip(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let archive = store.put(data).expect("it is kept");
    let name = "terraform-provider-x_1.0.0_linux_amd64.zip";
    let Ok((h1_zip, h1_tree)) = store.checksums(archive, name) else {
        return;
    };
    let package = Package {
        platform: Platform::current(),
        filename: name.to_owned(),
        archive,
        size: data.len() as u64,
        h1_zip,
        h1_tree,
    };
    store.check_package(&package).expect("it is the same again");
    let tree = store.tree(&package).expect("it unpacks");
    let trees = store.dir().join("trees").canonicalize().expect("trees");
    assert!(tree.canonicalize().expect("a tree").starts_with(trees));
    let beside = std::fs::read_dir(dir.path()).expect("the directory");
    assert_eq!(beside.count(), 1, "something lies beside the store");
}

/// A mirror with one file, which answers in this process.
struct Mirror {
    runtime: Runtime,
    open: Router,
    guarded: Router,
    content: Vec<u8>,
    digest: Digest,
    _dir: tempfile::TempDir,
}

static MIRROR: LazyLock<Mirror> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let content: Vec<u8> = (0..1000_u32).map(|i| (i * 7) as u8).collect();
    let digest = store.put(&content).expect("it is kept");
    let lock = runtime
        .block_on(store.lock(&Stop::new()))
        .expect("the lock");
    let generation = Generation::default();
    store.commit(generation, None, &lock).expect("a generation");
    drop(lock);
    let tokens = Access::tokens(vec![Secret::new("a-token-that-nobody-guesses")]);
    Mirror {
        runtime,
        open: Server::new(store.clone(), Access::default()).router(),
        guarded: Server::new(store, tokens).router(),
        content,
        digest,
        _dir: dir,
    }
});

impl Mirror {
    fn ask(
        &self,
        router: &Router,
        path: &str,
        name: &str,
        value: &[u8],
    ) -> Option<(StatusCode, HeaderMap, Bytes)> {
        let value = HeaderValue::from_bytes(value).ok()?;
        let request = Request::get(path).header(name, value).body(Body::empty());
        let request = request.ok()?;
        self.runtime.block_on(async {
            let response = router.clone().oneshot(request).await;
            let (head, body) = response.expect("it answers").into_parts();
            let body = to_bytes(body, 1 << 20).await.expect("a body");
            Some((head.status, head.headers, body))
        })
    }
}

/// Any `Range` header: all, or exactly the part that the answer says, or nothing.
pub fn range(data: &[u8]) {
    let mirror = &*MIRROR;
    let path = format!("/blobs/{}/file.zip", mirror.digest);
    let Some((status, headers, body)) = mirror.ask(&mirror.open, &path, "range", data) else {
        return;
    };
    match status {
        StatusCode::OK => assert_eq!(body, mirror.content),
        StatusCode::PARTIAL_CONTENT => {
            let place = headers["content-range"].to_str().expect("text");
            let place = place.strip_prefix("bytes ").expect("bytes");
            let (place, size) = place.split_once('/').expect("a size");
            let (first, last) = place.split_once('-').expect("a range");
            let (first, last): (usize, usize) = (
                first.parse().expect("a number"),
                last.parse().expect("a number"),
            );
            assert_eq!(size, "1000");
            assert_eq!(body, mirror.content[first..=last]);
        }
        StatusCode::RANGE_NOT_SATISFIABLE => assert!(body.is_empty()),
        other => panic!("{other}"),
    }
}

/// Any query of a link and any credentials, each on its own: nobody gets in who was not let in.
pub fn link(data: &[u8]) {
    let mirror = &*MIRROR;
    if let Ok(query) = std::str::from_utf8(data) {
        let path = format!("/blobs/{}/file.zip?{query}", mirror.digest);
        if let Some((status, ..)) = mirror.ask(&mirror.guarded, &path, "accept", b"*/*") {
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
    }
    if let Some((status, ..)) = mirror.ask(&mirror.guarded, "/v1/hosts", "authorization", data) {
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

/// What a registry answers: what is taken of it leads to the web, and to no other directory.
pub fn registry(data: &[u8]) {
    let answer = Answer {
        place: "https://registry.example/v1/providers/a/b/x"
            .parse()
            .expect("an address"),
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: data.to_vec(),
        is_unchanged: false,
    };
    if let Ok(offered) = Offered::read(&answer) {
        assert!(offered.is_sorted_by(|a, b| a.version <= b.version));
    }
    let platform = "linux_amd64".parse().expect("a platform");
    if let Ok(found) = Found::read(&answer, &platform) {
        for url in [&found.url, &found.shasums, &found.signature] {
            assert!(matches!(url.scheme(), "http" | "https"), "{url}");
        }
        let name = std::path::Path::new(&found.filename);
        assert_eq!(name.file_name(), Some(name.as_os_str()), "{name:?}");
    }
}

/// A scenario is read or every mistake has a place in its text; conditions end over any of them.
pub fn scenario(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.split('\n').count();
    match scenario::parse("a.coder.hcl", &text) {
        Ok(read) => {
            assert!(!read.runs.is_empty());
            for assert in read.runs.iter().flat_map(|run| &run.asserts) {
                assert!(text.contains(&assert.condition), "{:?}", assert.condition);
                let _ = scenario::check(assert, &scenario::Facts::default().context());
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let is_inside =
                |place: &scenario::Place| (1..=lines).contains(&place.line) && place.column > 0;
            assert!(
                problems.iter().all(|problem| is_inside(&problem.place)),
                "{problems:?}"
            );
        }
    }
}
