//! An origin that is not the internet: a registry with signed providers, which fails when it is told to, and a log of
//! what it was asked.

use std::{
    collections::BTreeMap,
    io::{Cursor, Write as _},
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use futures::StreamExt as _;
use http::{StatusCode, header};
use outpost::mirror::Digest;
use pgp::{
    composed::{
        ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
        SignedSecretKey, SubpacketConfig,
    },
    crypto::hash::HashAlgorithm,
    packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData},
    ser::Serialize as _,
    types::{Duration, KeyDetails as _, Password, Timestamp},
};
use serde_json::json;
use tokio::sync::watch;
use zip::{ZipWriter, write::SimpleFileOptions};

const DAY: u32 = 24 * 3600;

/// A key of a publisher.
pub struct Publisher {
    key: SignedSecretKey,
    /// Days since the key was made at which signatures are made.
    signs_on: u32,
}

impl Publisher {
    /// With a key that does not expire.
    pub fn new() -> Self {
        Self::with_key(None, 0)
    }

    /// With a key from long ago that was valid for ten days, and signs on this one.
    pub fn expired(signs_on: u32) -> Self {
        Self::with_key(Some(10), signs_on)
    }

    fn with_key(days: Option<u32>, signs_on: u32) -> Self {
        let mut params = SecretKeyParamsBuilder::default();
        params
            // Engines do not know the newer kind of such keys.
            .key_type(KeyType::Ed25519Legacy)
            .can_sign(true)
            .created_at(Timestamp::from_secs(1_600_041_600))
            .primary_user_id("Acme <acme@example.com>".into());
        let params = params.build().unwrap();
        let mut key = params.generate(rand_08::thread_rng()).unwrap();
        if let Some(days) = days {
            let primary = &key.primary_key;
            let kind = SignatureType::Key;
            let mut config =
                SignatureConfig::from_key(rand_08::thread_rng(), primary, kind).unwrap();
            config.hashed_subpackets = subpackets([
                SubpacketData::SignatureCreationTime(Timestamp::now()),
                SubpacketData::KeyExpirationTime(Duration::from_secs(days * DAY)),
                SubpacketData::IssuerFingerprint(primary.fingerprint()),
            ]);
            let limited = config
                .sign_key(primary, &Password::empty(), primary.public_key())
                .unwrap();
            key.details.direct_signatures.push(limited);
        }
        Self { key, signs_on }
    }

    /// As people compare it.
    pub fn fingerprint(&self) -> String {
        hex::encode_upper(self.key.primary_key.fingerprint().as_bytes())
    }

    /// The public key.
    pub fn armored(&self) -> String {
        let public = SignedPublicKey::from(self.key.clone());
        public.to_armored_string(ArmorOptions::default()).unwrap()
    }

    /// A detached signature.
    pub fn sign(&self, content: &[u8]) -> Vec<u8> {
        let primary = &self.key.primary_key;
        let signed_at = match self.signs_on {
            0 => Timestamp::now(),
            days => Timestamp::from_secs(1_600_041_600 + days * DAY),
        };
        let hashed = subpackets([
            SubpacketData::SignatureCreationTime(signed_at),
            SubpacketData::IssuerFingerprint(primary.fingerprint()),
        ]);
        let unhashed = Vec::new();
        let signature = DetachedSignature::sign_binary_data_with_subpackets(
            rand_08::thread_rng(),
            primary,
            &Password::empty(),
            HashAlgorithm::Sha256,
            content,
            SubpacketConfig::UserDefined { hashed, unhashed },
        );
        signature.unwrap().to_bytes().unwrap()
    }
}

fn subpackets<const N: usize>(data: [SubpacketData; N]) -> Vec<Subpacket> {
    data.map(|data| Subpacket::regular(data).unwrap()).to_vec()
}

/// What goes wrong, for one request or for all.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, so many times.
    Status(u16, usize),
    /// The same, with a wish to be left alone for no time at all.
    TooMany(usize),
    /// After so many bytes the connection breaks, once.
    Broken(usize),
    /// After so many bytes nothing comes any more, each time.
    Stuck(usize),
    /// Another content of the same length, each time.
    Changed,
    /// It is somewhere else on this server.
    Moved(String),
}

/// How a request can ask whether a file is unchanged.
#[derive(Clone, Copy, Debug)]
pub enum Validator {
    /// By an entity tag.
    Tag,
    /// By a time of modification, which is the same for all contents of the same length.
    Time,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Bytes>,
    faults: BTreeMap<String, Fault>,
    /// Ends of paths whose answers have validators.
    validated: Vec<(String, Validator)>,
    log: Vec<String>,
    count: watch::Sender<usize>,
}

/// The origin. Dropped, it ends.
#[derive(Clone)]
pub struct Origin {
    inner: Arc<Mutex<Inner>>,
    /// Its address.
    pub url: String,
    _server: Arc<tokio::task::JoinSet<()>>,
}

impl Origin {
    /// One that has nothing yet.
    pub async fn start() -> Self {
        outpost::net::install_crypto_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::<Mutex<Inner>>::default();
        let app = axum::Router::new().fallback(answer);
        let app = app.with_state(Arc::clone(&inner));
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            inner,
            url,
            _server: Arc::new(server),
        }
    }

    /// Publishes a version of `HOST/NAMESPACE/TYPE`. Each of its packages has `padding` bytes that do not compress.
    pub fn publish(
        &self,
        publisher: &Publisher,
        addr: &str,
        version: &str,
        platforms: &[&str],
        padding: usize,
    ) {
        let kind = addr.rsplit('/').next().unwrap();
        let zips = platforms
            .iter()
            .map(|platform| package(kind, version, platform, padding))
            .collect();
        self.publish_packages(publisher, addr, version, platforms, zips);
    }

    /// Publishes a version of `HOST/NAMESPACE/TYPE` with these packages, one a platform.
    pub fn publish_packages(
        &self,
        publisher: &Publisher,
        addr: &str,
        version: &str,
        platforms: &[&str],
        zips: Vec<Vec<u8>>,
    ) {
        let (host, path) = addr.split_once('/').unwrap();
        let kind = path.rsplit('/').next().unwrap();
        let name = |platform: &&str| format!("terraform-provider-{kind}_{version}_{platform}.zip");
        let packages: Vec<_> = platforms.iter().map(name).zip(zips).collect();
        let line = |(name, zip): &(String, Vec<u8>)| format!("{}  {name}\n", Digest::of(zip));
        let sums: String = packages.iter().map(line).collect();
        let base = format!("{host}/files/{kind}_{version}");
        self.put(
            &format!("{base}_SHA256SUMS.sig"),
            &publisher.sign(sums.as_bytes()),
        );
        self.put(&format!("{base}_SHA256SUMS"), sums.as_bytes());
        for (platform, (name, zip)) in platforms.iter().zip(packages) {
            let (os, arch) = platform.split_once('_').unwrap();
            let meta = json!({
                "protocols": ["5.0"], "os": os, "arch": arch, "filename": name,
                "download_url": format!("/{host}/files/{name}"),
                "shasum": Digest::of(&zip).to_string(),
                "shasums_url": format!("/{base}_SHA256SUMS"),
                "shasums_signature_url": format!("/{base}_SHA256SUMS.sig"),
                "signing_keys": {"gpg_public_keys": [{
                    "key_id": &publisher.fingerprint()[24..], "ascii_armor": publisher.armored(),
                    "trust_signature": "", "source": "Acme", "source_url": null
                }]}
            });
            let place = format!("{host}/providers/{path}/{version}/download/{os}/{arch}");
            self.put(&place, meta.to_string().as_bytes());
            self.put(&format!("{host}/files/{name}"), &zip);
        }
        self.offer(host, path, version, platforms);
    }

    fn offer(&self, host: &str, path: &str, version: &str, platforms: &[&str]) {
        let place = format!("/{host}/providers/{path}/versions");
        let mut inner = self.inner.lock().unwrap();
        let known = inner
            .files
            .get(&place)
            .map(|text| serde_json::from_slice(text).unwrap());
        let mut known: serde_json::Value = known.unwrap_or_else(|| json!({"versions": []}));
        let platforms: Vec<_> = platforms
            .iter()
            .map(|platform| platform.split_once('_').unwrap())
            .map(|(os, arch)| json!({"os": os, "arch": arch}))
            .collect();
        let offered = json!({"version": version, "protocols": ["5.0"], "platforms": platforms});
        known["versions"].as_array_mut().unwrap().push(offered);
        inner
            .files
            .insert(place, known.to_string().into_bytes().into());
    }

    /// Publishes a version of a program below `releases/`, as Terraform's publisher does.
    pub fn publish_tool(
        &self,
        publisher: &Publisher,
        name: &str,
        version: &str,
        platforms: &[&str],
    ) {
        let dir = format!("releases/{name}/{version}");
        let mut sums = String::new();
        for platform in platforms {
            let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
            let options = SimpleFileOptions::default().unix_permissions(0o755);
            zip.start_file(name, options).unwrap();
            writeln!(zip, "#!/bin/sh\n# {version} {platform}").unwrap();
            let zip = zip.finish().unwrap().into_inner();
            let file = format!("{name}_{version}_{platform}.zip");
            sums.push_str(&format!("{}  {file}\n", Digest::of(&zip)));
            self.put(&format!("{dir}/{file}"), &zip);
        }
        let list = format!("{dir}/{name}_{version}_SHA256SUMS");
        self.put(&format!("{list}.sig"), &publisher.sign(sums.as_bytes()));
        self.put(&list, sums.as_bytes());
        let index = format!("/releases/{name}/index.json");
        let mut inner = self.inner.lock().unwrap();
        let known = inner
            .files
            .get(&index)
            .map(|text| serde_json::from_slice(text).unwrap());
        let mut known: serde_json::Value =
            known.unwrap_or_else(|| json!({"name": name, "versions": {}}));
        known["versions"][version] = json!({});
        inner
            .files
            .insert(index, known.to_string().into_bytes().into());
    }

    /// Publishes a version of the module `HOST/NAMESPACE/NAME/SYSTEM` at an address that a `module` block could name.
    pub fn publish_module(&self, addr: &str, version: &str, location: &str) {
        let (host, path) = addr.split_once('/').unwrap();
        let download = format!("{host}/modules/{path}/{version}/download");
        self.put(
            &download,
            json!({ "location": location }).to_string().as_bytes(),
        );
        let place = format!("/{host}/modules/{path}/versions");
        let mut inner = self.inner.lock().unwrap();
        let known = inner
            .files
            .get(&place)
            .map(|text| serde_json::from_slice(text).unwrap());
        let mut known: serde_json::Value =
            known.unwrap_or_else(|| json!({"modules": [{"versions": []}]}));
        let versions = known["modules"][0]["versions"].as_array_mut().unwrap();
        versions.push(json!({ "version": version }));
        inner
            .files
            .insert(place, known.to_string().into_bytes().into());
    }

    /// Publishes a git repository with one commit and the tag `v1`, as a server without any logic has it.
    pub fn publish_git(&self, path: &str, files: &[(&str, &str)]) {
        let dir = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let mut command = std::process::Command::new("git");
            command.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]);
            let output = command
                .args(arguments)
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        git(&["init", "--quiet", "--initial-branch=trunk", "."]);
        for (name, text) in files {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "one"]);
        git(&["tag", "v1"]);
        self.publish_repository(path, dir.path());
    }

    /// Publishes a git repository as it is in a directory, the same way.
    pub fn publish_repository(&self, path: &str, dir: &std::path::Path) {
        let mut command = std::process::Command::new("git");
        command.arg("update-server-info").current_dir(dir);
        assert!(command.status().unwrap().success());
        let root = dir.join(".git");
        let mut queue = vec![root.clone()];
        while let Some(here) = queue.pop() {
            for entry in std::fs::read_dir(here).unwrap() {
                let file = entry.unwrap().path();
                if file.is_dir() {
                    queue.push(file);
                    continue;
                }
                let name = file.strip_prefix(&root).unwrap().display().to_string();
                self.put(&format!("{path}/{name}"), &std::fs::read(&file).unwrap());
            }
        }
    }

    /// What stands in a `mirror.toml` so that a host's services are looked for here.
    pub fn host(&self, name: &str) -> String {
        let url = &self.url;
        format!(
            "[hosts.\"{name}\"]\n\"providers.v1\" = \"{url}/{name}/providers/\"\n\
             \"modules.v1\" = \"{url}/{name}/modules/\"\n"
        )
    }

    /// Has a file.
    pub fn put(&self, path: &str, content: &[u8]) {
        let content = Bytes::copy_from_slice(content);
        let mut inner = self.inner.lock().unwrap();
        inner.files.insert(format!("/{path}"), content);
    }

    /// A file that it has.
    pub fn file(&self, path: &str) -> Vec<u8> {
        self.inner.lock().unwrap().files[&format!("/{path}")].to_vec()
    }

    /// Lets requests for what ends in `suffix` go wrong.
    pub fn fail(&self, suffix: &str, fault: Fault) {
        let mut inner = self.inner.lock().unwrap();
        inner.faults.insert(suffix.to_owned(), fault);
    }

    /// Gives answers about what ends in `suffix` a validator. Requests that were answered with 304 have that in the log.
    pub fn validate(&self, suffix: &str, validator: Validator) {
        let mut inner = self.inner.lock().unwrap();
        inner.validated.push((suffix.to_owned(), validator));
    }

    /// Lets everything go right again.
    pub fn heal(&self) {
        self.inner.lock().unwrap().faults.clear();
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        *self.inner.lock().unwrap().count.borrow()
    }

    /// Returns at so many requests.
    pub async fn counts(&self, requests: usize) {
        let mut count = self.inner.lock().unwrap().count.subscribe();
        count.wait_for(|count| *count >= requests).await.unwrap();
    }

    /// What it was asked since the last call: methods, paths, and ranges.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().unwrap().log)
    }
}

/// A package whose program is ours: it serves the plugin protocol like any other.
pub fn package(kind: &str, version: &str, platform: &str, padding: usize) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file(format!("terraform-provider-{kind}_v{version}"), options)
        .unwrap();
    let program = env!("CARGO_BIN_EXE_outpost");
    writeln!(zip, "#!{program} terraform-provider-coder\n# {platform}").unwrap();
    let stored = options.compression_method(zip::CompressionMethod::Stored);
    zip.start_file("padding", stored).unwrap();
    let noise: Vec<u8> = (0..padding).map(|i| (i * i / 7 + i) as u8).collect();
    zip.write_all(&noise).unwrap();
    zip.finish().unwrap().into_inner()
}

async fn answer(State(inner): State<Arc<Mutex<Inner>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let range = request.headers().get(header::RANGE);
    let range = range.map(|range| range.to_str().unwrap().to_owned());
    let is_head = request.method() == http::Method::HEAD;
    let conditions = request.headers().clone();
    let mut inner = inner.lock().unwrap();
    let line = format!(
        "{} {path} {}",
        request.method(),
        range.as_deref().unwrap_or("")
    );
    inner.log.push(line.trim_end().to_owned());
    inner.count.send_modify(|count| *count += 1);
    let fault = {
        let mut faults = inner.faults.iter_mut();
        let found = faults.find(|(suffix, _)| path.ends_with(suffix.as_str()));
        found.and_then(|(_, fault)| happens(fault))
    };
    if let Some(Fault::Status(code, _)) = fault {
        return status(code);
    }
    let Some(content) = inner.files.get(&path).cloned() else {
        return status(404);
    };
    let (content, total) = match &fault {
        Some(Fault::TooMany(_)) => {
            let mut response = status(429);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static("0"));
            return response;
        }
        Some(Fault::Moved(to)) => {
            let mut response = status(302);
            let headers = response.headers_mut();
            headers.insert(header::LOCATION, to.parse().unwrap());
            return response;
        }
        Some(Fault::Changed) => (
            content.iter().map(|b| b ^ 1).collect::<Bytes>(),
            content.len(),
        ),
        _ => (content.clone(), content.len()),
    };
    let from: usize = range
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    if from >= total && from > 0 {
        return status(416);
    }
    let rest = content.slice(from..);
    let mut response = Response::builder().header(header::CONTENT_LENGTH, rest.len());
    let mut validated = inner.validated.iter();
    if let Some((_, validator)) = validated.find(|(suffix, _)| path.ends_with(suffix.as_str())) {
        let (name, value, condition) = match validator {
            Validator::Tag => (
                header::ETAG,
                format!("\"{}\"", Digest::of(&content)),
                header::IF_NONE_MATCH,
            ),
            Validator::Time => (
                header::LAST_MODIFIED,
                format!("Tue, 15 Nov 1994 12:{:02}:00 GMT", content.len() % 60),
                header::IF_MODIFIED_SINCE,
            ),
        };
        if conditions.get(&condition).is_some_and(|it| *it == value) {
            inner.log.push(format!("304 {path}"));
            return status(304);
        }
        response = response.header(name, value);
    }
    if from > 0 {
        let range = format!("bytes {from}-{}/{total}", total - 1);
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, range);
    }
    if path.contains("/providers/") || path.contains("/modules/") {
        response = response.header(header::CONTENT_TYPE, "application/json");
    }
    response
        .body(if is_head {
            Body::empty()
        } else {
            body(rest, fault)
        })
        .unwrap()
}

/// Whether a fault happens this time.
fn happens(fault: &mut Fault) -> Option<Fault> {
    match fault {
        Fault::Status(_, left) | Fault::TooMany(left) => {
            *left = left.checked_sub(1)?;
            Some(fault.clone())
        }
        Fault::Broken(0) => None,
        Fault::Broken(at) => {
            let now = Fault::Broken(*at);
            *at = 0;
            Some(now)
        }
        Fault::Stuck(_) | Fault::Changed | Fault::Moved(_) => Some(fault.clone()),
    }
}

fn body(content: Bytes, fault: Option<Fault>) -> Body {
    type Piece = Result<Bytes, std::io::Error>;
    match fault {
        Some(Fault::Broken(at)) => {
            let at = at.min(content.len());
            let pieces: [Piece; 2] = [
                Ok(content.slice(..at)),
                Err(std::io::ErrorKind::ConnectionReset.into()),
            ];
            // The pause lets the first piece go out alone.
            let pieces = futures::stream::iter(pieces).then(|piece| async {
                tokio::task::yield_now().await;
                piece
            });
            Body::from_stream(pieces)
        }
        Some(Fault::Stuck(at)) => {
            let at = at.min(content.len());
            let first: Piece = Ok(content.slice(..at));
            let never = futures::stream::pending::<Piece>();
            Body::from_stream(futures::stream::iter([first]).chain(never))
        }
        _ => Body::from(content),
    }
}

fn status(code: u16) -> Response {
    let code = StatusCode::from_u16(code).unwrap();
    Response::builder()
        .status(code)
        .body(Body::empty())
        .unwrap()
}
