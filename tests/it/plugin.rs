//! The built-in provider as a process: how it starts, and everything that ends it.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::plugin::COOKIE;

/// A plugin that runs, its socket, and its stdout: the end of that is its end.
struct Plugin {
    child: Child,
    socket: PathBuf,
    stdout: BufReader<ChildStdout>,
    directory: tempfile::TempDir,
}

impl Plugin {
    /// Starts `program` with `arguments`, which ends up as a plugin that inherits its stdout.
    fn start(program: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .env(COOKIE.0, COOKIE.1)
            .env("PLUGIN_PROTOCOL_VERSIONS", "5,6")
            .env("PLUGIN_UNIX_SOCKET_DIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let parts: Vec<_> = line.trim_end().split('|').collect();
        assert_eq!(
            (parts[0], parts[1], parts[2], parts[4]),
            ("1", "5", "unix", "grpc"),
            "{line}"
        );
        Self {
            child,
            socket: parts[3].into(),
            stdout,
            directory,
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until no process has the plugin's stdout any more, and returns what it wrote after its line.
    fn end(mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap();
        let left = self.directory.path().read_dir().unwrap().count();
        assert_eq!(left, 0, "the socket is still there");
        rest
    }
}

const OUTPOST: &str = env!("CARGO_BIN_EXE_outpost");
const COMMAND: &str = "terraform-provider-coder";

#[test]
fn a_plugin_run_by_hand_says_so_in_one_line() {
    let output = Command::new(OUTPOST)
        .arg(COMMAND)
        .env_remove(COOKIE.0)
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        error,
        "error: this is a Terraform plugin: Terraform starts it, it is not meant to be run directly\n"
    );
    assert_eq!(output.stdout, b"");
}

#[test]
fn an_interrupt_is_terraforms_business_and_a_termination_ours() {
    let plugin = Plugin::start(OUTPOST, &[COMMAND]);

    plugin.signal(Signal::SIGINT);
    let connected = UnixStream::connect(&plugin.socket);
    plugin.signal(Signal::SIGTERM);

    assert!(connected.is_ok(), "{connected:?}");
    assert_eq!(plugin.end(), "");
}

#[test]
fn a_plugin_does_not_outlive_terraform() {
    // A shell stands for Terraform: it starts the plugin and is killed, which tells the plugin nothing.
    let script = format!("'{OUTPOST}' {COMMAND} & wait");
    let plugin = Plugin::start("sh", &["-c", &script]);
    assert!(Path::exists(&plugin.socket));

    plugin.signal(Signal::SIGKILL);

    assert_eq!(plugin.end(), "");
}
