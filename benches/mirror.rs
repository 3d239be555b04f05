//! What a mirror costs to serve: bytes for each second of the server's processor time, and how long documents take.
//!
//! Run it: cargo bench --bench mirror
//!
//! Starts the built binary on a loopback port, plain and with TLS, with one file of 150 MB (`OUTPOST_BENCH_MB`) and 16
//! clients that each fetch it three times. If there is an nginx on the `PATH`, or in `OUTPOST_BENCH_NGINX`, it serves
//! the same file to the same clients, in turn with ours, three times. The clients are threads of this bench and, if there
//! is an h2load on the `PATH` or in `OUTPOST_BENCH_H2LOAD`, that, with HTTP/1.1 and, with TLS, HTTP/2. Then 256 clients fetch
//! it with TLS, and what counts is the memory of the server. Then documents are asked for 2,000 times a second over 32
//! connections; how long one takes counts from when it should have been asked for. Processor time is that of
//! `/proc/PID/stat`.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures, and prints its figures"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use outpost::{
    mirror::{Generation, Store, generation::StaticFile},
    net::ca::{Authority, Request, Role, root_file},
    stop::Stop,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

const CLIENTS: usize = 16;
const ROUNDS: usize = 3;
/// Times that both servers are measured, in turn.
const TURNS: usize = 3;
/// Clients beside which the server's memory is looked at.
const MANY: usize = 256;
/// Of the documents.
const RATE: u32 = 2_000;
const CONNECTIONS: u32 = 32;
const LASTS: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    outpost::net::install_crypto_provider();
    let bench = Bench::prepare()?;
    for has_tls in [false, true] {
        for client in bench.clients(has_tls) {
            bench.compare(has_tls, client)?;
        }
    }
    bench.memory()?;
    let server = bench.outpost(false)?;
    bench.documents(&server)
}

struct Bench {
    dir: tempfile::TempDir,
    size: usize,
    /// Where the file is, below a server's root.
    place: String,
    file: PathBuf,
    tls: Arc<ClientConfig>,
}

/// A kind of client that fetches the file.
#[derive(Clone, Copy)]
enum Client {
    Threads,
    Http1,
    Http2,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Http1 => "h2load, HTTP/1.1",
            Self::Http2 => "h2load, HTTP/2",
        }
    }
}

/// Bytes for each second: of the server's processor time, and of a clock.
struct Rates {
    busy: f64,
    wall: f64,
}

/// A server in a process of its own, which ends with this.
struct Server {
    process: Child,
    address: SocketAddr,
    has_tls: bool,
    path: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = Command::new("kill")
            .arg(self.process.id().to_string())
            .status();
        let _ = self.process.wait();
    }
}

impl Bench {
    /// A mirror with one file of noise, and certificates.
    fn prepare() -> anyhow::Result<Self> {
        let megabytes = match std::env::var("OUTPOST_BENCH_MB") {
            Ok(text) => text.parse().context("OUTPOST_BENCH_MB is no number")?,
            Err(_) => 150,
        };
        let (dir, size) = (tempfile::tempdir()?, megabytes * 1_000_000);
        let store = Store::open(&dir.path().join("mirror"))?;
        let noise: Vec<u8> = (0..size as u64)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        let content = store.put(&noise)?;
        let url = "https://origin.example/package.zip".to_owned();
        let generation = Generation {
            files: vec![StaticFile {
                url,
                content,
                size: size as u64,
            }],
            ..Generation::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let lock = runtime.block_on(store.lock(&Stop::new()))?;
        store.commit(generation, None, &lock)?;
        let (now, ca) = (jiff::Timestamp::now(), dir.path().join("ca"));
        let mut authority = Authority::create(&ca, "bench", &[], now)?;
        let request = Request {
            name: "server".to_owned(),
            role: Role::Mirror,
            hosts: vec!["localhost".to_owned()],
            certificate: None,
            key: None,
        };
        authority.issue(request, now)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(root_file(&ca))?)?;
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            size,
            place: format!("/blobs/{content}/package.zip"),
            file: store.path(content),
            tls: Arc::new(tls),
            dir,
        })
    }

    fn certificate(&self) -> (PathBuf, PathBuf) {
        let ca = self.dir.path().join("ca");
        (ca.join("server.pem"), ca.join("server.key"))
    }

    fn outpost(&self, has_tls: bool) -> anyhow::Result<Server> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
        command.args(["mirror", "serve", "--listen", "127.0.0.1:0", "--mirror-dir"]);
        command.arg(self.dir.path().join("mirror"));
        if has_tls {
            let (certificate, key) = self.certificate();
            command.arg("--tls-cert-file").arg(certificate);
            command.arg("--tls-key-file").arg(key);
        }
        let mut process = command.stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stderr.take().context("no stderr")?).lines();
        let address = loop {
            let line = lines.next().context("the server ended")??;
            if let Some((_, address)) = line.split_once("://") {
                break address.trim_end_matches('/').parse()?;
            }
        };
        thread::spawn(move || lines.for_each(drop));
        let path = self.place.clone();
        Ok(Server {
            process,
            address,
            has_tls,
            path,
        })
    }

    /// The same file from an nginx as Debian configures it, if there is one.
    fn nginx(&self, has_tls: bool) -> anyhow::Result<Option<Server>> {
        let program = std::env::var("OUTPOST_BENCH_NGINX").unwrap_or_else(|_| "nginx".to_owned());
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let (certificate, key) = self.certificate();
        let (ssl, certificates) = match has_tls {
            true => (
                "ssl http2",
                format!(
                    "ssl_certificate {}; ssl_certificate_key {};",
                    certificate.display(),
                    key.display()
                ),
            ),
            false => ("", String::new()),
        };
        let (dir, root) = (
            self.dir.path().display(),
            self.file.parent().unwrap_or(Path::new("/")),
        );
        let configuration = format!(
            "daemon off; worker_processes auto; pid {dir}/nginx.pid; error_log {dir}/nginx.log;\n\
             events {{ worker_connections 768; }}\n\
             http {{ sendfile on; tcp_nopush on; access_log off;\n\
             client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;\n\
             uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;\n\
             server {{ listen 127.0.0.1:{port} {ssl}; {certificates} root {}; }} }}\n",
            root.display(),
        );
        let file = self.dir.path().join("nginx.conf");
        fs::write(&file, configuration)?;
        // Its workers run as somebody else, who has to get through.
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).stderr(Stdio::null());
        let Ok(process) = command.spawn() else {
            println!("    no nginx to compare with");
            return Ok(None);
        };
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let server = Server {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            has_tls,
            path: format!("/{name}"),
        };
        let begun = Instant::now();
        while TcpStream::connect(server.address).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "nginx does not listen"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(server))
    }

    fn clients(&self, has_tls: bool) -> Vec<Client> {
        let is_there = h2load().arg("--version").output().is_ok();
        let all = [Client::Threads, Client::Http1, Client::Http2];
        let is_measured = |client: &Client| match client {
            Client::Threads => true,
            Client::Http1 => is_there,
            Client::Http2 => is_there && has_tls,
        };
        all.into_iter().filter(is_measured).collect()
    }

    /// Both servers in turn.
    fn compare(&self, has_tls: bool, client: Client) -> anyhow::Result<()> {
        let kind = if has_tls { "TLS" } else { "plain" };
        let mut ratios = Vec::new();
        for _ in 0..TURNS {
            let print = |name: &str, rates: &Rates| {
                println!(
                    "{name:>8}, {kind}, {}: {:.2} GB for each second of processor time, {:.2} GB/s in all",
                    client.name(),
                    rates.busy / 1e9,
                    rates.wall / 1e9,
                );
            };
            let ours = self.fetch(&self.outpost(has_tls)?, client)?;
            print("outpost", &ours);
            if let Some(nginx) = self.nginx(has_tls)? {
                let theirs = self.fetch(&nginx, client)?;
                print("nginx", &theirs);
                ratios.push((ours.busy / theirs.busy, ours.wall / theirs.wall));
            }
        }
        for (busy, wall) in ratios {
            println!("    against nginx: {busy:.2} for processor time, {wall:.2} in all");
        }
        Ok(())
    }

    /// All clients at once.
    fn fetch(&self, server: &Server, client: Client) -> anyhow::Result<Rates> {
        self.once(server)?; // Into the page cache, and through the first handshake.
        let (before, begun) = (server.processor()?, Instant::now());
        match client {
            Client::Threads => self.threads(server)?,
            Client::Http1 => self.load(server, &["--h1"], CLIENTS, CLIENTS * ROUNDS)?,
            Client::Http2 => self.load(server, &[], CLIENTS, CLIENTS * ROUNDS)?,
        }
        let (wall, busy) = (begun.elapsed(), server.processor()? - before);
        let bytes = (self.size * CLIENTS * ROUNDS) as f64;
        Ok(Rates {
            busy: bytes / busy.as_secs_f64(),
            wall: bytes / wall.as_secs_f64(),
        })
    }

    fn threads(&self, server: &Server) -> anyhow::Result<()> {
        thread::scope(|scope| {
            let client = || (0..ROUNDS).try_for_each(|_| self.once(server));
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            let ended = clients.into_iter().map(|it| it.join());
            ended
                .into_iter()
                .try_for_each(|it| it.unwrap_or_else(|_| anyhow::bail!("a client died")))
        })
    }

    fn load(
        &self,
        server: &Server,
        options: &[&str],
        clients: usize,
        requests: usize,
    ) -> anyhow::Result<()> {
        let scheme = if server.has_tls { "https" } else { "http" };
        let output = h2load()
            .args(options)
            .args(["-c", &clients.to_string(), "-n", &requests.to_string()])
            .arg(format!("{scheme}://{}{}", server.address, server.path))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let all = format!("{requests} succeeded, 0 failed");
        ensure!(text.contains(&all), "h2load says {text}");
        Ok(())
    }

    /// The memory of the server beside many clients.
    fn memory(&self) -> anyhow::Result<()> {
        for client in self.clients(true) {
            let server = self.outpost(true)?;
            match client {
                Client::Threads => continue,
                Client::Http1 => self.load(&server, &["--h1"], MANY, MANY)?,
                Client::Http2 => self.load(&server, &[], MANY, MANY)?,
            }
            let status = fs::read_to_string(format!("/proc/{}/status", server.process.id()))?;
            let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let most = most.and_then(|it| it.trim().strip_suffix(" kB"));
            let kilobytes: f64 = most.context("no VmHWM")?.trim().parse()?;
            println!(
                "outpost, TLS, {MANY} clients, {}: {:.1} MB resident at most",
                client.name(),
                kilobytes * 1024.0 / 1e6
            );
        }
        Ok(())
    }

    fn once(&self, server: &Server) -> anyhow::Result<()> {
        let stream = TcpStream::connect(server.address)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            server.path
        );
        match server.has_tls {
            false => self.drain(stream, &request),
            true => {
                let connection = ClientConnection::new(self.tls.clone(), "localhost".try_into()?)?;
                self.drain(StreamOwned::new(connection, stream), &request)
            }
        }
    }

    fn drain(&self, mut stream: impl Read + Write, request: &str) -> anyhow::Result<()> {
        stream.write_all(request.as_bytes())?;
        let (mut piece, mut total) = (vec![0; 256 * 1024], 0);
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => total += count,
                // Not every server says goodbye.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(total > self.size, "only {total} bytes came");
        Ok(())
    }

    /// Asks for a document at a steady rate, whether the answers keep up or not.
    fn documents(&self, server: &Server) -> anyhow::Result<()> {
        let waits = Mutex::new(Vec::new());
        let begun = Instant::now() + Duration::from_millis(100);
        thread::scope(|scope| {
            let client = |number: u32| {
                let waits = &waits;
                move || -> anyhow::Result<()> {
                    let mut stream = TcpStream::connect(server.address)?;
                    stream.set_nodelay(true)?;
                    let (every, mut own) = (Duration::from_secs(1) / RATE, Vec::new());
                    let mut piece = [0; 4096];
                    let mut turn = number;
                    loop {
                        let due = begun + every * turn;
                        if due >= begun + LASTS {
                            break;
                        }
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        stream.write_all(b"GET /v1/hosts HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
                        let mut answer = Vec::new();
                        while !answer.ends_with(b"}") {
                            let count = stream.read(&mut piece)?;
                            ensure!(count > 0, "the server hung up");
                            answer.extend_from_slice(&piece[..count]);
                        }
                        own.push(due.elapsed());
                        turn += CONNECTIONS;
                    }
                    waits
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(own);
                    Ok(())
                }
            };
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|number| scope.spawn(client(number)))
                .collect();
            let ended = clients.into_iter().map(|it| it.join());
            ended
                .into_iter()
                .try_for_each(|it| it.unwrap_or_else(|_| anyhow::bail!("a client died")))
        })?;
        let mut waits = waits.into_inner().unwrap_or_else(PoisonError::into_inner);
        waits.sort();
        let at =
            |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "documents at {RATE} a second: median {:.2} ms, 99 % within {:.2} ms, all within {:.2} ms",
            at(0.5),
            at(0.99),
            at(1.0),
        );
        Ok(())
    }
}

impl Server {
    /// Processor time of the server and of its workers until now.
    fn processor(&self) -> anyhow::Result<Duration> {
        let id = self.process.id().to_string();
        let mut ticks = ticks(&id)?.1;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|b| b.is_ascii_digit())
                && let Ok((parent, more)) = self::ticks(&name)
                && parent == id
            {
                ticks += more;
            }
        }
        let a_second =
            nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no ticks")?;
        Ok(Duration::from_secs_f64(ticks as f64 / a_second as f64))
    }
}

fn h2load() -> Command {
    Command::new(std::env::var("OUTPOST_BENCH_H2LOAD").unwrap_or_else(|_| "h2load".to_owned()))
}

/// The parent of a process, and the ticks that it has used.
fn ticks(id: &str) -> anyhow::Result<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may have anything in it.
    let (_, fields) = text.rsplit_once(") ").context("no process")?;
    let fields: Vec<_> = fields.split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|it| it.parse::<u64>().ok());
    let (user, system) = number(11).zip(number(12)).context("no times")?;
    Ok((fields[1].to_owned(), user + system))
}
