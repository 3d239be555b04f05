//! `outpost provisioner start` in place of `coder provisioner start`: command lines, credentials, logs, exit codes.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{cli::outpost, remote};

/// Longer than anything here takes, so that a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that answers each request with what a function says, and remembers what it was asked.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gets a request's head and returns status line and body.
    pub fn start(answer: impl Fn(&str) -> (&'static str, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some((stream, head)) = stream.ok().and_then(read_head) else {
                    continue;
                };
                seen.lock().unwrap().push(head.clone());
                let (status, body) = answer(&head);
                respond(stream, status, &body);
            }
        });
        Self { url, requests }
    }

    /// One that refuses every daemon.
    fn refusing() -> Self {
        Self::start(|head| match head.contains("provisionerdaemons/serve") {
            true => (
                "401 Unauthorized",
                r#"{"message":"none provided"}"#.to_owned(),
            ),
            false => ("404 Not Found", String::new()),
        })
    }

    /// The heads of requests whose path has `part`.
    pub fn asked(&self, part: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let lines = requests.iter();
        lines
            .filter(|head| head.lines().next().unwrap().contains(part))
            .cloned()
            .collect()
    }

    /// The head of the first request to serve a daemon.
    #[track_caller]
    fn dial(&self) -> String {
        let dials = self.asked("provisionerdaemons/serve");
        dials.into_iter().next().expect("the daemon dialled")
    }
}

fn read_head(mut stream: TcpStream) -> Option<(TcpStream, String)> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some((stream, String::from_utf8(head).unwrap()))
}

fn respond(mut stream: TcpStream, status: &str, body: &str) {
    let length = body.len();
    // A daemon that was stopped does not listen any more.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

/// A directory with an engine that only says its version, and the program under Coder's name.
pub struct Site(TempDir);

impl Site {
    pub fn new() -> Self {
        let site = Self(TempDir::new().unwrap());
        let engine = r#"env > "$0.env"; echo '{"terraform_version":"1.11.4"}'"#;
        site.script("terraform", engine);
        symlink(env!("CARGO_BIN_EXE_outpost"), site.path("coder")).unwrap();
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The program as `coder`, in an environment that has nothing of ours and this site's engine.
    pub fn coder(&self) -> Command {
        self.program(&self.path("coder"))
    }

    fn program(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        for (name, _) in outpost().get_envs() {
            command.env_remove(name);
        }
        command
            .env("HOME", self.0.path())
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .env("XDG_STATE_HOME", self.path("state"));
        command
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn coders_command_line_and_environment_reach_coders_wire_unchanged() {
    let (site, server) = (Site::new(), Server::refusing());
    let mut command = site.coder();
    command
        .args(["provisioner", "start", "-t", "zone=a,size=large"])
        .args(["--tag", r#""with=comma,s""#, "--poll-interval", "1s"])
        .args([
            "--poll-jitter=100ms",
            "--experiments",
            "*",
            "--verbose=true",
        ])
        .args(["--no-version-warning", "--use-keyring=false"])
        .env("CODER_URL", &server.url)
        .env("CODER_PROVISIONER_DAEMON_PSK", "hunter2")
        .env("CODER_PROVISIONER_DAEMON_NAME", "builder-1");

    let said = refused(&mut command);

    let expected = r#"[info]  starting provisioner daemon  tags={"size":"large","with":"comma,s","zone":"a"}  name=builder-1"#;
    assert!(said.contains(expected), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let dial = server.dial();
    assert!(
        dial.contains("/api/v2/organizations/default/provisionerdaemons/serve?name=builder-1&")
    );
    for tag in [
        "scope%3Dorganization",
        "size%3Dlarge",
        "with%3Dcomma%2Cs",
        "zone%3Da",
    ] {
        assert!(dial.contains(&format!("&tag={tag}")), "{dial}");
    }
    assert!(
        dial.contains("coder-provisioner-daemon-psk: hunter2"),
        "{dial}"
    );
}

#[test]
fn the_old_group_and_options_in_front_of_it_work_under_both_names() {
    let (site, server) = (Site::new(), Server::refusing());
    for program in [site.path("coder"), env!("CARGO_BIN_EXE_outpost").into()] {
        let mut command = site.program(&program);
        command
            .args(["--url", &server.url, "--header", "X-From=here", "-v"])
            .args(["provisionerd", "start", "--name=old-one"])
            .env("HOMEBREW_CODER_PROVISIONER_DAEMON_KEY", "the-key")
            .env("CODER_PROVISIONER_DAEMON_PSK", "");

        refused(&mut command);
    }
    let dials = server.asked("name=old-one");
    assert_eq!(dials.len(), 2);
    for dial in dials {
        assert!(
            dial.contains("coder-provisioner-daemon-key: the-key"),
            "{dial}"
        );
        assert!(dial.contains("x-from: here"), "{dial}");
        assert!(!dial.contains("&tag="), "{dial}");
    }
}

#[test]
fn a_user_who_logged_in_needs_no_option_and_gets_the_organization_by_name() {
    let site = Site::new();
    let server = Server::start(|head| {
        if head.contains("/api/v2/users/me/organizations") {
            let body = r#"[{"id":"id-1","name":"first"},{"id":"id-2","name":"second"}]"#;
            ("200 OK", body.to_owned())
        } else {
            ("403 Forbidden", r#"{"message":"no licence"}"#.to_owned())
        }
    });
    let directory = site.path("login");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("url"), format!("{}\n", server.url)).unwrap();
    fs::write(directory.join("session"), "a-token\n").unwrap();
    let script = r#"echo X-Where=$CODER_URL; echo X-Secret=s3cret"#;
    let start = |further: &[&str]| {
        let mut command = site.coder();
        command.args(["provisioner", "start", "--header-command", script]);
        command.args(further).env("CODER_CONFIG_DIR", &directory);
        command
    };

    let undecided = start(&[]).output().unwrap();
    assert_eq!(undecided.status.code(), Some(1));
    let said = stderr(&undecided);
    assert!(
        said.contains("choose one with --org: first, second"),
        "{said}"
    );

    let said = refused(&mut start(&["-O", "second"]));
    assert!(
        said.contains("no licence") && !said.contains("s3cret"),
        "{said}"
    );
    let dial = server.dial();
    assert!(
        dial.contains("/organizations/id-2/provisionerdaemons/serve"),
        "{dial}"
    );
    assert!(dial.contains("coder-session-token: a-token"), "{dial}");
    assert!(dial.contains(&format!("x-where: {}", server.url)), "{dial}");
    assert!(dial.contains("x-secret: s3cret"), "{dial}");
}

#[test]
fn a_secret_is_read_anew_for_each_connection_and_from_a_systemd_credential() {
    let site = Site::new();
    let directory = site.path("credentials");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("outpost-psk");
    fs::write(&file, "the-old-one").unwrap();
    let rotated = file.clone();
    let server = Server::start(move |head| {
        if !head.contains("provisionerdaemons/serve") {
            return ("404 Not Found", String::new());
        }
        if head.contains("the-old-one") {
            fs::write(&rotated, "the-new-one").unwrap();
            return ("503 Service Unavailable", String::new());
        }
        ("401 Unauthorized", "{}".to_owned())
    });
    let mut command = site.coder();
    command
        .args(["provisioner", "start", "--url", &server.url])
        .env("CREDENTIALS_DIRECTORY", &directory);

    refused(&mut command);

    let dials = server.asked("provisionerdaemons/serve");
    assert_eq!(dials.len(), 2, "{dials:?}");
    assert!(dials[1].contains("coder-provisioner-daemon-psk: the-new-one"));
}

#[test]
fn a_secret_on_the_command_line_is_warned_about_and_not_shown() {
    let (site, server) = (Site::new(), Server::refusing());
    let mut command = site.coder();
    command.args([
        "provisioner",
        "start",
        "--psk",
        "hunter2",
        "--url",
        &server.url,
    ]);

    let said = refused(&mut command);

    assert!(
        said.contains("the value of `--psk` is visible to every user of this machine"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn every_mistake_ends_with_code_1_and_coders_words() {
    let site = Site::new();
    let psk = ["--url", "http://127.0.0.1:9", "--psk-file", "/dev/null"];
    let cases: [(&[&str], &str); 9] = [
        (&["--psk", "a"], "no server is given"),
        (
            &["--url", "http://127.0.0.1:9"],
            "must provide a pre-shared key or provisioner key",
        ),
        (&["--url", "nowhere"], "invalid value 'nowhere' for '--url"),
        (&["--no-such-flag"], "unexpected argument '--no-such-flag'"),
        (
            &[
                "--url",
                "http://127.0.0.1:9",
                "--psk",
                "a",
                "--tag",
                "novalue",
            ],
            r#"invalid tag format for "novalue". must be key=value"#,
        ),
        (
            &["--url", "http://127.0.0.1:9", "--psk", "a", "--org", "b"],
            "cannot provide --org value with --psk or --key flags",
        ),
        (
            &[
                "--url",
                "http://127.0.0.1:9",
                "--psk",
                "a",
                "--header",
                "nothing",
            ],
            "`--header`: header 1 is not of the form NAME=VALUE",
        ),
        (
            &[
                "--url",
                "http://127.0.0.1:9",
                "--psk",
                "a",
                "--header-command",
                "exit 3",
            ],
            "`--header-command`: header command failed (exit status: 3)",
        ),
        (&psk, "`/dev/null` is empty"),
    ];
    for (arguments, expected) in cases {
        let mut command = site.coder();
        let output = command
            .args(["provisioner", "start"])
            .args(arguments)
            .output()
            .unwrap();

        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn logs_go_where_coders_options_say() {
    let (site, server) = (Site::new(), Server::refusing());
    let (json, stackdriver) = (site.path("logs/json"), site.path("logs/stackdriver"));
    let mut command = site.coder();
    command
        .args(["provisioner", "start", "--log-human", "/dev/null"])
        .arg("--log-json")
        .arg(&json)
        .env("CODER_PROVISIONER_DAEMON_LOGGING_STACKDRIVER", &stackdriver)
        .env("CODER_URL", &server.url)
        .env("CODER_PROVISIONER_DAEMON_PSK", "hunter2");

    let said = refused(&mut command);

    assert!(said.starts_with("error: "), "{said}");
    let started = |path: &Path, key: &str| -> serde_json::Value {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut lines =
            lines.filter(|line: &serde_json::Value| line[key] == "starting provisioner daemon");
        lines.next().expect("it says that it starts")
    };
    assert_eq!(
        started(&json, "msg")["fields"]["tags"],
        serde_json::json!({})
    );
    assert_eq!(started(&stackdriver, "message")["severity"], "INFO");
    let mode = fs::metadata(&json).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn options_are_shown_without_secrets_and_nothing_is_started() {
    let site = Site::new();
    let mut command = site.coder();
    command
        .args(["provisioner", "start", "--debug-options", "--name", "shown"])
        .env("CODER_PROVISIONER_DAEMON_PSK", "hunter2");

    let output = command.output().unwrap();

    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        shown.contains("shown") && shown.contains("[redacted]"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// A daemon, and the lines that it prints.
struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Daemon {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().unwrap());
        let stderr: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().unwrap());
        for pipe in [stdout, stderr] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("`{text}` was never said:\n{}", self.seen.join("\n")),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_daemon_that_waits_for_its_server_says_so_and_ends_as_coders_does() {
    let site = Site::new();
    let start = || {
        let mut command = site.coder();
        command.args(["provisioner", "start", "--url", "http://127.0.0.1:9"]);
        command.env("CODER_PROVISIONER_DAEMON_PSK", "hunter2");
        let mut daemon = Daemon::start(&mut command);
        daemon.wait_for("coderd client failed to dial");
        daemon
    };
    let cases = [
        (
            Signal::SIGTERM,
            "Stop caught, waiting for provisioner jobs to complete",
            0,
        ),
        (
            Signal::SIGHUP,
            "Stop caught, waiting for provisioner jobs to complete",
            0,
        ),
        (
            Signal::SIGINT,
            "Interrupt caught, gracefully exiting. Use ctrl+\\ to force quit",
            0,
        ),
    ];
    for (signal, expected, code) in cases {
        let mut daemon = start();
        daemon.signal(signal);

        daemon.wait_for(expected);
        assert_eq!(daemon.end(), Some(code), "{signal}");
    }
    // Without a job there is nothing that could be left behind.
    let mut daemon = start();
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(daemon.end(), Some(0));
}

/// Asks with `method`, and returns the status and the body.
pub fn http(method: &str, address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// What follows `address=` in a line.
fn address_in(line: &str) -> String {
    let (_, behind) = line.split_once("address=").unwrap();
    behind.split(' ').next().unwrap().to_owned()
}

#[test]
fn metrics_answer_on_any_path_and_a_daemon_without_a_server_lives_but_is_not_ready() {
    let site = Site::new();
    let mut command = site.coder();
    command
        .args([
            "provisioner",
            "start",
            "--url",
            "http://127.0.0.1:9",
            "--name",
            "lonely",
        ])
        .args(["--prometheus-enable", "--health-address", "127.0.0.1:0"])
        .env("CODER_PROMETHEUS_ADDRESS", "127.0.0.1:0")
        .env("CODER_PROVISIONER_DAEMON_PSK", "hunter2");
    let mut daemon = Daemon::start(&mut command);
    let prometheus = address_in(&daemon.wait_for("starting Prometheus endpoint"));
    let health = address_in(&daemon.wait_for("starting health endpoint"));
    daemon.wait_for("waiting for the server to answer");

    for (address, path) in [
        (&prometheus, "/"),
        (&prometheus, "/any/path"),
        (&health, "/metrics"),
    ] {
        let (status, text) = http("GET", address, path);
        assert_eq!(status, 200);
        assert!(
            text.contains("\ncoderd_provisionerd_num_daemons 1\n"),
            "{text}"
        );
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }
    for address in [&prometheus, &health] {
        assert_eq!(http("GET", address, "/livez"), (200, "ok\n".to_owned()));
        let (status, reasons) = http("GET", address, "/readyz");
        assert_eq!(status, 503);
        assert!(reasons.contains("lonely is not connected"), "{reasons}");
        let (_, status) = http("GET", address, "/status");
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["ready"], false);
        assert_eq!(status["slots"][0]["name"], "lonely");
    }
    assert_eq!(http("GET", &health, "/any/path").0, 404);
    assert_eq!(http("POST", &health, "/livez").0, 405);
}

#[test]
fn systemd_hears_when_a_daemon_is_ready_and_it_is_not_any_more_when_the_server_is_gone() {
    let (site, server) = (Site::new(), remote::Server::start());
    let socket = site.path("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut command = site.coder();
    command
        .args([
            "provisioner",
            "start",
            "--server",
            "outpost",
            "--url",
            &server.url,
        ])
        .args(["--health-address", "127.0.0.1:0", "--psk-file"])
        .arg(server.path("psk"))
        .env("NOTIFY_SOCKET", &socket);
    let mut daemon = Daemon::start(&mut command);
    let health = address_in(&daemon.wait_for("starting health endpoint"));

    assert_eq!(hear(), "READY=1");
    assert_eq!(http("GET", &health, "/readyz"), (200, "ok\n".to_owned()));
    let engine = fs::read_to_string(site.path("terraform.env")).unwrap();
    assert!(!engine.contains("NOTIFY_SOCKET"), "{engine}");

    drop(server);
    let gone = Instant::now();
    while http("GET", &health, "/readyz").0 == 200 {
        assert!(gone.elapsed() < PATIENCE, "it still calls itself ready");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(hear(), "STOPPING=1");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn everything_that_the_engine_starts_trusts_the_further_authorities() {
    let (site, server) = (Site::new(), Server::refusing());
    let authority = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
    let ca_file = site.path("ca.pem");
    fs::write(&ca_file, authority.cert.pem()).unwrap();
    let mut command = site.coder();
    command
        .args(["provisioner", "start", "--url", &server.url, "--ca-file"])
        .arg(&ca_file)
        .arg("--cache-dir")
        .arg(site.path("cache"))
        .env("CODER_PROVISIONER_DAEMON_PSK", "hunter2");

    refused(&mut command);

    let bundle = fs::read_to_string(site.path("cache/trust.pem")).unwrap();
    let own = authority.cert.pem().replace("\r\n", "\n");
    assert!(bundle.replace("\r\n", "\n").ends_with(&own), "{bundle}");
}
