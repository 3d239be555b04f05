//! A mirror's edges towards sites: other clients than engines, certificates, crowds, and what jobs say about all of it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use outpost::{
    mirror::{
        Digest, Generation, Store,
        generation::{PublisherKey, Signed, StaticFile, Tool},
        serve::{Access, Server},
    },
    net::listener::{Limits, Listener},
    registry::Platform,
    stop::Stop,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::spawn_blocking,
};

use super::{origin::Publisher, serve::repository};
use crate::{
    daemon::authority,
    support::{skip::skipped, small_disk::with_small_disk},
};

/// `outpost …` with an empty environment.
fn outpost(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

/// The same, waited for without a place among those that run tasks: servers of tests go on.
async fn ran(home: &Path, arguments: &[&str]) -> Output {
    let mut command = outpost(home, arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    output.await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `outpost mirror serve`, until it is dropped.
struct Served {
    child: Child,
    url: String,
    lines: Vec<String>,
    log: BufReader<std::process::ChildStderr>,
}

impl Served {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let serve = [
            "mirror",
            "serve",
            "--mirror",
            "mirror",
            "--listen",
            "127.0.0.1:0",
        ];
        let mut command = outpost(home, &[&serve[..], arguments].concat());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = Vec::new();
        let url = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "{lines:?}");
            let url = line.trim().strip_prefix("Serving the mirror at ");
            let url = url.map(|url| url.trim_end_matches('/').to_owned());
            lines.push(line);
            if let Some(url) = url {
                break url;
            }
        };
        Self {
            child,
            url,
            lines,
            log,
        }
    }

    /// The next line of the log that has this text.
    fn line(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "no {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn address(&self) -> &str {
        self.url.rsplit_once('/').unwrap().1
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn commit(store: &Store, generation: Generation) {
    let lock = store.lock(&Stop::new()).await.unwrap();
    let current = store.current().unwrap();
    store.commit(generation, current, &lock).unwrap();
}

/// A mirror with one file of this length, and the path at which it is served.
async fn with_file(home: &Path, length: usize) -> (Store, String) {
    let store = Store::open(&home.join("mirror")).unwrap();
    let content: Vec<u8> = (0..length)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    let content = store.put(&content).unwrap();
    let file = StaticFile {
        url: "https://files.example/a".to_owned(),
        content,
        size: length as u64,
    };
    let generation = Generation {
        files: vec![file],
        ..Generation::default()
    };
    commit(&store, generation).await;
    (store, format!("/blobs/{content}/a"))
}

/// hc-install as programs use it: by an exact version, by the newest, and by a list.
const HC_INSTALL: &str = r#"
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/hc-install/product"
	"github.com/hashicorp/hc-install/releases"
	"github.com/hashicorp/hc-install/src"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	base, dir := os.Args[1], os.Args[2]
	key, err := os.ReadFile(os.Args[3])
	check(err)
	ctx := context.Background()
	exact := &releases.ExactVersion{
		Product: product.Terraform, Version: version.Must(version.NewVersion("1.2.0")),
		InstallDir: dir, ApiBaseURL: base, ArmoredPublicKey: string(key),
	}
	path, err := exact.Install(ctx)
	check(err)
	text, err := os.ReadFile(path)
	check(err)
	fmt.Print(string(text))
	newest := &releases.LatestVersion{
		Product: product.Terraform, InstallDir: dir, ApiBaseURL: base, ArmoredPublicKey: string(key),
	}
	path, err = newest.Install(ctx)
	check(err)
	text, err = os.ReadFile(path)
	check(err)
	fmt.Print(string(text))
	listed, err := (&releases.Versions{Product: product.Terraform, ApiBaseURL: base}).List(ctx)
	check(err)
	var _ []src.Source = listed
	fmt.Println(len(listed), "versions")
}
"#;

/// The program, built once for all runs.
fn hc_install() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go/hc-install-0.10.0");
    let program = dir.join("hc");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    let module = "module hc\n\ngo 1.24\n\nrequire (\n\tgithub.com/hashicorp/hc-install v0.10.0\n\tgithub.com/hashicorp/go-version v1.7.0\n)\n";
    fs::write(dir.join("go.mod"), module).map_err(|error| error.to_string())?;
    fs::write(dir.join("main.go"), HC_INSTALL).map_err(|error| error.to_string())?;
    for arguments in [&["mod", "tidy"][..], &["build", "-o", "hc", "."]] {
        let output = Command::new("go")
            .args(arguments)
            .current_dir(&dir)
            .env_remove("GOFLAGS")
            .output()
            .map_err(|error| format!("go: {error}"))?;
        if !output.status.success() {
            return Err(format!("go {}: {}", arguments[0], said(&output)));
        }
    }
    Ok(program)
}

fn engine_release(store: &Store, publisher: &Publisher, version: &str) -> Tool {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file("terraform", options).unwrap();
    std::io::Write::write_all(&mut zip, format!("terraform {version}\n").as_bytes()).unwrap();
    let content = zip.finish().unwrap().into_inner();
    let (archive, platform) = (store.put(&content).unwrap(), Platform::current());
    let filename = format!("terraform_{version}_{platform}.zip");
    let sums = format!("{archive}  {filename}\n");
    let signature = publisher.sign(sums.as_bytes());
    Tool {
        name: "terraform".to_owned(),
        version: version.parse().unwrap(),
        platform,
        filename,
        archive,
        size: content.len() as u64,
        signed: Some(Signed {
            shasums: store.put(sums.as_bytes()).unwrap(),
            signature: store.put(&signature).unwrap(),
            keys: vec![PublisherKey {
                id: publisher.fingerprint()[24..].to_owned(),
                armored: store.put(publisher.armored().as_bytes()).unwrap(),
                trust_signature: String::new(),
            }],
        }),
    }
}

#[tokio::test]
async fn hc_install_installs_engines_from_a_mirror() {
    let program = match hc_install() {
        Ok(program) => program,
        Err(why) => return skipped("hc-install", why),
    };
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let store = Store::open(&home.join("mirror")).unwrap();
    let publisher = Publisher::new();
    let tools = ["1.2.0", "1.10.1"].map(|it| engine_release(&store, &publisher, it));
    let generation = Generation {
        tools: tools.into(),
        ..Generation::default()
    };
    commit(&store, generation).await;
    fs::write(home.join("key.asc"), publisher.armored()).unwrap();
    fs::create_dir(home.join("bin")).unwrap();
    let served = Served::start(home, &[]);

    let site = format!("{}/releases", served.url);
    let output = Command::new(program)
        .args([site.as_str(), "bin", "key.asc"])
        .current_dir(home)
        .output()
        .unwrap();

    assert!(output.status.success(), "{}", said(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told, "terraform 1.2.0\nterraform 1.10.1\n2 versions\n");
}

/// Downloads at a time: what terraform asks for at most, some times over, from behind one NAT gateway.
const BURST: usize = 500;

/// Bytes of a download: twice what the system buffers for a connection, so that one that nobody reads is in progress.
const LARGE: usize = 8 << 20;

/// A connection whose buffers are far smaller than what it downloads, so that it is in progress until it is read.
async fn begin(address: &str, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let status = &mut [0; 15];
    stream.read_exact(status).await.unwrap();
    assert_eq!(status, b"HTTP/1.1 200 OK");
    stream
}

async fn metric(served: &Served, name: &str) -> f64 {
    let url = format!("{}/metrics", served.url);
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        (found == name).then(|| value.parse::<f64>().unwrap())
    });
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_downloads_from_one_address_all_end_well() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = with_file(dir.path(), LARGE).await;
    let served = Served::start(dir.path(), &[]);
    let expected = store.newest().unwrap().1.files[0].content;

    let mut open = Vec::new();
    for _ in 0..BURST {
        open.push(begin(served.address(), &path).await);
    }
    // All are in progress now, and none was ended for another one.
    assert!(metric(&served, "outpost_mirror_connections").await >= BURST as f64);
    let ends = open.into_iter().map(async |mut stream| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        let begin = rest.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        Digest::of(&rest[begin + 4..]) == expected
    });
    let whole = futures::future::join_all(ends).await;

    assert_eq!(whole.iter().filter(|is_whole| **is_whole).count(), BURST);
    assert_eq!(
        metric(&served, "outpost_mirror_refused_connections_total").await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_connections_that_is_reached_is_logged_and_counted_and_ends_no_download() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = with_file(dir.path(), LARGE).await;
    let limits = [
        "--max-connections",
        "9",
        "--max-connections-per-address",
        "4",
    ];
    let mut served = Served::start(dir.path(), &limits);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(begin(served.address(), &path).await);
    }

    let mut refused = TcpStream::connect(served.address()).await.unwrap();
    let answer = refused.read(&mut [0; 1]).await;

    assert!(!matches!(answer, Ok(1..)), "{answer:?}");
    let line = served.line("limit of connections from one address");
    assert!(line.contains("127.0.0.1") && line.contains('4'), "{line}");
    let mut one = open.pop().unwrap();
    one.read_to_end(&mut Vec::new()).await.unwrap();
    drop(one);
    // Its place is free once the server has seen its end, which the next one that is let in shows.
    let refusals = loop {
        let mut next = TcpStream::connect(served.address()).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
        let mut text = String::new();
        if next.write_all(request).await.is_ok()
            && matches!(next.read_to_string(&mut text).await, Ok(1..))
        {
            let name = "outpost_mirror_refused_connections_total ";
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            break value.unwrap().parse::<u64>().unwrap();
        }
    };
    assert!(refusals >= 1);
    for mut stream in open {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() > LARGE, "a download was cut off");
    }
}

#[tokio::test]
async fn a_certificate_that_ends_is_warned_of_with_its_date_and_counted_in_days() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    with_file(home, 10).await;
    let now = jiff::Timestamp::now();
    for (days, warning) in [
        (-3, Some("has expired")),
        (5, Some("expires soon")),
        (60, None),
    ] {
        let ends = now
            .checked_add(jiff::SignedDuration::from_hours(24 * days))
            .unwrap();
        let date = ends.to_zoned(jiff::tz::TimeZone::UTC).date();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after =
            rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(home.join("server.pem"), certificate.pem()).unwrap();
        fs::write(home.join("server.key"), key.serialize_pem()).unwrap();

        let tls = [
            "--tls-cert-file",
            "server.pem",
            "--tls-key-file",
            "server.key",
        ];
        let served = Served::start(home, &tls);

        let warned = served
            .lines
            .iter()
            .find(|line| line.contains("TLS certificate"));
        assert_eq!(
            warned.is_some(),
            warning.is_some(),
            "{days}: {:?}",
            served.lines
        );
        if let (Some(line), Some(warning)) = (warned, warning) {
            assert!(
                line.contains(warning) && line.contains(&date.to_string()),
                "{line}"
            );
        }
        let left = metric(&served, "outpost_mirror_certificate_days_left").await;
        let days = days as f64;
        assert!((days - 1.1..=days).contains(&left), "{left} for {days}");
    }
}

/// Lets connections through, and counts them.
async fn counted(to: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, count)
}

/// A mirror with a repository, served with a certificate of an authority that nobody knows. `ca.pem` is the authority.
async fn trusted_by_few(home: &Path) -> Listener {
    let (authority, tls) = authority(home);
    fs::write(home.join("ca.pem"), authority).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Some(&tls), Limits::standard());
    listener.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_authority_is_one_error_and_no_retry() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let listener = trusted_by_few(home).await;
    let (address, count) = counted(listener.address()).await;
    let store = Store::open(&home.join("origin")).unwrap();
    commit(&store, Generation::default()).await;
    tokio::spawn(listener.serve(Server::new(store, Access::default()).router(), Stop::new()));
    let mut config = format!(
        "platforms = [\"linux_amd64\"]\n[hosts.\"registry.example\"]\n\"providers.v1\" = \"https://{address}/v1/providers/registry.example/\"\n"
    );
    for number in 0..29 {
        config += &format!("[[providers]]\nsource = \"registry.example/acme/p{number}\"\n");
    }
    fs::write(home.join("mirror.toml"), config).unwrap();

    let output = ran(home, &["mirror", "sync", "--mirror", "mirror"]).await;

    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let refusals: Vec<_> = text
        .lines()
        .filter(|it| it.contains("is refused"))
        .collect();
    assert_eq!(refusals.len(), 1, "{text}");
    assert!(
        refusals[0].contains("and 26 more") && refusals[0].contains("--ca-file"),
        "{text}"
    );
    // As many as are asked at the same time, before the first answer.
    let asked = count.load(Ordering::SeqCst);
    assert!(asked <= 4, "{asked} connections: {text}");
    let trusting = ran(
        home,
        &[
            "mirror",
            "sync",
            "--mirror",
            "mirror",
            "--ca-file",
            "ca.pem",
        ],
    )
    .await;
    assert!(
        !said(&trusting).contains("is refused"),
        "{}",
        said(&trusting)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_fetches_repositories_from_a_server_that_only_ca_file_vouches_for() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let listener = trusted_by_few(home).await;
    let url = listener.url();
    let store = Store::open(&home.join("origin")).unwrap();
    fs::create_dir(home.join("work")).unwrap();
    let (kept, commit_id) = repository(&home.join("work"), &store);
    let place = kept.place().to_owned();
    let generation = Generation {
        git: vec![kept],
        ..Generation::default()
    };
    commit(&store, generation).await;
    tokio::spawn(listener.serve(Server::new(store, Access::default()).router(), Stop::new()));
    let config = format!("[[git]]\nurl = \"{url}git/{place}.git\"\nrefs = [\"v*\"]\n");
    fs::write(home.join("mirror.toml"), config).unwrap();
    let sync = ["mirror", "sync", "--mirror", "mirror"];

    let refused = ran(home, &sync).await;
    let trusted = ran(home, &[&sync[..], &["--ca-file", "ca.pem"]].concat()).await;

    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("certificate"), "{}", said(&refused));
    assert!(trusted.status.success(), "{}", said(&trusted));
    let store = Store::existing(&home.join("mirror")).unwrap();
    let (_, generation) = store.newest().unwrap();
    assert_eq!(generation.git[0].refs["refs/tags/v1.0.0"], commit_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_says_why_its_mirror_cannot_be_reached_and_inspect_takes_an_authority() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let listener = trusted_by_few(home).await;
    let secure = listener.url().to_string();
    let store = Store::open(&home.join("mirror")).unwrap();
    commit(&store, Generation::default()).await;
    let access = Access::tokens(vec![outpost::secret::Secret::new(
        "the-new-token-of-the-mirror",
    )]);
    tokio::spawn(listener.serve(Server::new(store, access).router(), Stop::new()));
    let nobody = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", free.local_addr().unwrap())
    };
    fs::create_dir(home.join("template")).unwrap();
    let template = "terraform {\n  required_providers {\n    coder = { source = \"coder/coder\" }\n  }\n}\n\
                    data \"coder_workspace\" \"me\" {}\n";
    fs::write(home.join("template/main.tf"), template).unwrap();
    fs::write(home.join("old"), "the-old-token-of-the-mirror\n").unwrap();
    fs::write(home.join("new"), "the-new-token-of-the-mirror\n").unwrap();
    for path in ["old", "new"] {
        fs::set_permissions(home.join(path), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let inspect = ["inspect", "template", "--mirror"];
    let ca = ["--ca-file", "ca.pem"];
    let (old, new) = (
        ["--mirror-token-file", "old"],
        ["--mirror-token-file", "new"],
    );
    for (url, more, why) in [
        (nobody.as_str(), vec![], "Connection refused"),
        (
            "http://mirror.invalid",
            vec![],
            "its name cannot be resolved",
        ),
        (&secure, vec![], "name its certificate with `--ca-file`"),
        (&secure, ca.to_vec(), "requires a token"),
        (
            &secure,
            [ca, old].concat(),
            "refuses the mirror's token, which was revoked",
        ),
    ] {
        let output = ran(home, &[&inspect[..], &[url], &more].concat()).await;

        assert_eq!(output.status.code(), Some(1), "{url}: {}", said(&output));
        assert!(said(&output).contains(why), "{url}: {}", said(&output));
    }

    let output = ran(home, &[&inspect[..], &[&secure], &ca, &new].concat()).await;

    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test]
async fn a_full_disk_is_one_error_with_the_place_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let (store, _) = with_file(home, 3 << 20).await;
    drop(store);
    fs::rename(home.join("mirror"), home.join("origin")).unwrap();
    let key = outpost(home, &["mirror", "key", "generate", "site"])
        .output()
        .unwrap();
    assert!(key.status.success(), "{}", said(&key));
    let bundled = [
        "mirror", "bundle", "--mirror", "origin", "--key", "site.key", "--out", "all",
    ];
    let bundled = outpost(home, &bundled).output().unwrap();
    assert!(bundled.status.success(), "{}", said(&bundled));
    fs::create_dir(home.join("mirror")).unwrap();
    fs::create_dir(home.join("packages")).unwrap();
    let origin = super::origin::Origin::start().await;
    let content: Vec<u8> = (0..3_u32 << 20)
        .map(|i| (i.wrapping_mul(i) >> 9) as u8)
        .collect();
    let mut config = String::new();
    for name in ["a", "b", "c"] {
        let content = [name.as_bytes(), &content].concat();
        origin.put(name, &content);
        let digest = Digest::of(&content);
        config += &format!(
            "[[files]]\nurl = \"{}/{name}\"\nsha256 = \"{digest}\"\n",
            origin.url
        );
    }
    fs::write(home.join("mirror.toml"), config).unwrap();
    let program = env!("CARGO_BIN_EXE_outpost");
    let import = format!("{program} mirror import all --trust site.pub");
    let (Some(mut synced), Some(mut imported)) = (
        with_small_disk(home, &format!("{program} mirror sync")),
        with_small_disk(home, &import),
    ) else {
        return;
    };
    let synced = spawn_blocking(move || synced.output().unwrap()).await;
    let imported = spawn_blocking(move || imported.output().unwrap()).await;
    let (synced, imported) = (synced.unwrap(), imported.unwrap());

    for output in [&synced, &imported] {
        let text = said(output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.matches("no space left").count(), 1, "{text}");
        assert!(
            text.contains(&home.join("mirror").display().to_string())
                && text.contains("outpost mirror prune"),
            "{text}"
        );
    }
}
