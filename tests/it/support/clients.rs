//! People on their way to an agent: with our client, with Coder's, and with OpenSSH through either.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::skip::skipped;
use crate::cli::outpost;

/// Longer than a client needs for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who they are, and where they begin.
pub struct Clients {
    url: String,
    token: String,
    coder: PathBuf,
    home: TempDir,
}

/// A client that leads OpenSSH to an agent.
#[derive(Clone, Copy, Debug)]
pub enum Proxy {
    Outpost,
    Coder,
}

impl Clients {
    /// `None`, with a note, where Coder's client is not at hand.
    pub fn of(url: &str, token: &str) -> Option<Self> {
        let Some(coder) = env::var_os("OUTPOST_INTEROP_CODER").map(PathBuf::from) else {
            skipped("Coder's client", "OUTPOST_INTEROP_CODER names no `coder`");
            return None;
        };
        Some(Self {
            url: url.to_owned(),
            token: token.trim().to_owned(),
            coder,
            home: TempDir::new().unwrap(),
        })
    }

    /// Coder's program, also as an agent.
    pub fn coder(&self) -> Command {
        self.as_them(Command::new(&self.coder))
    }

    pub fn outpost(&self) -> Command {
        self.as_them(outpost())
    }

    fn as_them(&self, mut command: Command) -> Command {
        command
            .env("CODER_URL", &self.url)
            .env("CODER_SESSION_TOKEN", &self.token)
            .env("CODER_CONFIG_DIR", self.path("coder"))
            .env("OUTPOST_URL", &self.url)
            .env("OUTPOST_TOKEN", &self.token);
        command
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `ssh` or `sftp`, which take the way of `proxy` to the workspace.
    pub fn openssh(&self, program: &str, proxy: Proxy, workspace: &str) -> Command {
        let proxy = match proxy {
            Proxy::Outpost => format!("{} ssh --stdio {workspace}", env!("CARGO_BIN_EXE_outpost")),
            Proxy::Coder => format!("{} ssh --stdio {workspace}", self.coder.display()),
        };
        let mut command = self.as_them(Command::new(program));
        command.args(["-F", "none", "-o", "LogLevel=ERROR"]);
        // A session that is lost ends within half a minute.
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=6",
        ];
        for option in options {
            command.args(["-o", option]);
        }
        command.arg("-o").arg(format!("ProxyCommand={proxy}"));
        command
    }

    /// Whatever a client can do, each of these does it.
    pub fn do_everything(&self, clients: &[Proxy], workspace: &str) {
        for client in clients {
            match client {
                Proxy::Outpost => self.ask_with_ours(workspace),
                Proxy::Coder => self.ask_with_coders(workspace),
            }
            self.run_with_openssh(*client, workspace);
            self.carry_files(*client, workspace);
        }
    }

    fn ask_with_ours(&self, workspace: &str) {
        let mut ssh = self.outpost();
        let ran = run(ssh.args(["ssh", workspace, "--", "echo out; echo err >&2; exit 7"]));
        assert_eq!(ran.status.code(), Some(7), "{ran:?}");
        assert_eq!(ran.stdout, b"out\n");
        // It may have had to wait, and then said so.
        let said = String::from_utf8_lossy(&ran.stderr);
        let is_command_s = |line: &&str| !line.starts_with("Waiting for the agent ");
        let said: Vec<&str> = said.lines().filter(is_command_s).collect();
        assert_eq!(said, ["err"], "{ran:?}");
        let pinged = run(self.outpost().args(["ping", workspace, "--count", "2"]));
        assert!(pinged.status.success(), "{pinged:?}");
    }

    /// That client asks for a terminal in any case. One of old prints the status and returns 1, one of late returns it.
    fn ask_with_coders(&self, workspace: &str) {
        let pinged = run(self.coder().args(["ping", workspace, "-n", "2"]));
        let said = String::from_utf8_lossy(&pinged.stdout);
        assert!(said.contains("pong from"), "{pinged:?}");
        let ran = run(self.coder().args(["ssh", workspace, "echo out; exit 7"]));
        assert_eq!(ran.stdout.trim_ascii(), b"out", "{ran:?}");
        let said = String::from_utf8_lossy(&ran.stderr);
        match ran.status.code() {
            Some(7) => {}
            Some(1) => assert!(said.contains("exited with status 7"), "{said}"),
            _ => panic!("{ran:?}"),
        }
    }

    fn run_with_openssh(&self, proxy: Proxy, workspace: &str) {
        let mut ssh = self.openssh("ssh", proxy, workspace);
        let ran = run(ssh.args([workspace, "echo out; echo err >&2; exit 7"]));
        assert_eq!(ran.status.code(), Some(7), "{proxy:?}: {ran:?}");
        assert_eq!(ran.stdout, b"out\n");
        match proxy {
            Proxy::Outpost => assert_eq!(ran.stderr, b"err\n"),
            // It may warn of the server's version or licence before.
            Proxy::Coder => assert!(ran.stderr.ends_with(b"err\n"), "{ran:?}"),
        }
        let mut ssh = self.openssh("ssh", proxy, workspace);
        let mut shell = ssh
            .args(["-tt", workspace])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let typed = b"test -t 0 && echo in a $((1+1))nd terminal; exit 3\n";
        shell.stdin.as_mut().unwrap().write_all(typed).unwrap();
        let mut shown = String::new();
        let mut screen = shell.stdout.take().unwrap();
        screen.read_to_string(&mut shown).unwrap();
        assert!(shown.contains("in a 2nd terminal"), "{proxy:?}: {shown}");
        assert_eq!(shell.wait().unwrap().code(), Some(3), "{proxy:?}");
    }

    fn carry_files(&self, proxy: Proxy, workspace: &str) {
        let (sent, there, back) = (self.path("sent"), self.path("there"), self.path("back"));
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_be_bytes).collect();
        fs::write(&sent, &bytes).unwrap();
        let batch = self.path("batch");
        let place = |path: &Path| path.display().to_string();
        let (sent, there, back_again) = (place(&sent), place(&there), place(&back));
        let lines = format!("put {sent} {there}\nget {there} {back_again}\nrm {there}\n");
        fs::write(&batch, lines).unwrap();
        let mut sftp = self.openssh("sftp", proxy, workspace);
        let ran = run(sftp.arg("-b").arg(&batch).arg(workspace));
        assert!(ran.status.success(), "{proxy:?}: {ran:?}");
        assert!(fs::read(&back).unwrap() == bytes, "{proxy:?}");
        fs::remove_file(&back).unwrap();
    }

    /// A session that goes on while `restart` takes the server away and brings it back.
    pub fn outlast(&self, proxy: Proxy, workspace: &str, restart: impl FnOnce()) {
        let mut ssh = self.openssh("ssh", proxy, workspace);
        let mut session = ssh
            .args([
                workspace,
                "echo begun; read line; echo \"heard $line\"; exit 5",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(session.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "begun");
        restart();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"after it\n").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "heard after it");
        drop(stdin);
        assert_eq!(session.wait().unwrap().code(), Some(5), "{proxy:?}");
    }
}

/// The output of a command that ends in time.
pub fn run(command: &mut Command) -> Output {
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text)
    });
    let watched = child.id();
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE).is_err() {
            let pid = nix::unistd::Pid::from_raw(watched.try_into().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let mut text = Vec::new();
    stdout.read_to_end(&mut text).unwrap();
    let status = child.wait().unwrap();
    // Who watches has nothing to do any more, or has done it.
    let _ = done.send(());
    watch.join().unwrap();
    let stderr = reading.join().unwrap().unwrap();
    assert!(begun.elapsed() < PATIENCE, "{command:?} had to be killed");
    Output {
        status,
        stdout: text,
        stderr,
    }
}
