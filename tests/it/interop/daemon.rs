//! Our daemon as a process.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{Lab, variable};
use crate::cli::outpost;

/// As whom it comes.
pub(super) enum Credential {
    Psk(String),
    Key(String),
    Token(String),
}

/// A daemon, killed when it is dropped. Its state directory outlives the process.
pub(super) struct Daemon {
    pub(super) name: String,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    directory: Arc<TempDir>,
}

impl Daemon {
    pub(super) fn start(lab: &Lab, name: &str, credential: &Credential) -> Self {
        Self::start_in(lab, name, credential, Arc::new(TempDir::new().unwrap()))
    }

    /// The same daemon once more: same name, same directories.
    pub(super) fn start_again(self, lab: &Lab, credential: &Credential) -> Self {
        let (name, directory) = (self.name.clone(), Arc::clone(&self.directory));
        drop(self);
        Self::start_in(lab, &name, credential, directory)
    }

    fn start_in(lab: &Lab, name: &str, credential: &Credential, directory: Arc<TempDir>) -> Self {
        let name = match name.starts_with(&lab.tag) {
            true => name.to_owned(),
            false => format!("{}-{name}", lab.tag),
        };
        let mut command = outpost();
        command
            .args(["provisioner", "start", "--server", "coder", "--name", &name])
            .args(["--url", lab.wire.url().as_str()])
            .env("OUTPOST_STATE_DIR", state_dir(&directory))
            .env("CODER_CACHE_DIRECTORY", directory.path().join("cache"));
        let provider = variable("CODER_PROVIDER").unwrap_or_else(|| "builtin".to_owned());
        command.args(["--coder-provider", &provider]);
        match credential {
            Credential::Psk(psk) => command.env("CODER_PROVISIONER_DAEMON_PSK", psk),
            Credential::Key(key) => command.env("CODER_PROVISIONER_DAEMON_KEY", key),
            Credential::Token(token) => command.env("CODER_SESSION_TOKEN", token),
        };
        if !matches!(credential, Credential::Key(_)) {
            command.args(["--tag", &format!("test={}", lab.tag)]);
        }
        if lab.scope == "user" {
            command.args(["--tag", "scope=user"]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let noted = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                noted.lock().unwrap().push(line);
            }
        });
        Self {
            name,
            child,
            said,
            directory,
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end, which a signal has brought about; whether it was a good one.
    pub(super) fn ended_well(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// Where it keeps what no server took.
    pub(super) fn state_dir(&self) -> PathBuf {
        state_dir(&self.directory)
    }

    pub(super) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
}

fn state_dir(directory: &TempDir) -> PathBuf {
    directory.path().join("state")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("daemon {} said:\n{}", self.name, self.said());
        }
    }
}
