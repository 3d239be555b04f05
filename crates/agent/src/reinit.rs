//! Wait for the claim of a prebuilt workspace: then its agent reinitializes, once for each owner.
//!
//! A server repeats the claim to every agent that asks, for as long as the build that claimed the workspace is its
//! newest one. So an agent remembers the claim that it reinitialized for, in a file that outlives its process.
//!
//! # Source
//! coder `codersdk/agentsdk/agentsdk.go`, `WaitForReinit`; `cli/agent.go`, `lastOwnerID`; `codersdk/serversentevents.go`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use http::StatusCode;
use nix::unistd::Uid;
use outpost_files as files;
use outpost_net::{back_off::BackOff, http::Client};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    identity::{self, Credential},
    private_dir, rest,
};

/// Longest line of the stream in bytes.
const MAX_LINE: usize = 64 << 10;

/// Longest file that remembers a claim, in bytes.
const MAX_FILE: u64 = 4 << 10;

/// Claim of a workspace by its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    #[serde(default)]
    workspace_id: Uuid,
    /// Id of the owner; nil from servers that announce a claim only once.
    #[serde(default)]
    owner_id: Uuid,
}

/// A claim as the server announces it.
#[derive(Debug, Deserialize)]
struct Announcement {
    #[serde(flatten)]
    claim: Claim,
    #[serde(default)]
    reason: String,
}

/// Newest claim that an agent reinitialized for.
pub(super) struct Claims {
    path: PathBuf,
    newest: Option<Claim>,
}

impl Claims {
    /// Reads the file of this agent in `data_dir`. A damaged file counts as none.
    pub(super) fn load(data_dir: &Path, server: &Client, credential: &Credential) -> Self {
        let mut agent = Sha256::new();
        agent.update(server.url().as_str());
        agent.update([0]);
        match credential {
            // A claim does not change the agent's token.
            Credential::Token(token) => agent.update(token.expose()),
            Credential::Instance { agent_name, .. } => agent.update(agent_name),
        }
        let name = format!("claim-{}.json", hex::encode(&agent.finalize()[..16]));
        // Several users may share the directory.
        let path = data_dir.join(format!("coder-agent-{}", Uid::effective()));
        let path = path.join(name);
        let newest = match read(&path) {
            Ok(claim) => Some(claim),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read which prebuild claim this agent reinitialized for");
                None
            }
        };
        Self { path, newest }
    }

    /// Returns whether to reinitialize for `claim`, and remembers it.
    fn is_new(&mut self, claim: Claim) -> bool {
        if self.newest.as_ref() == Some(&claim) && !claim.owner_id.is_nil() {
            return false;
        }
        if let Err(error) = write(&self.path, &claim) {
            let path = self.path.display();
            warn!(%path, %error, "cannot record the prebuild claim this agent reinitializes for; it may reinitialize again after a restart");
        }
        self.newest = Some(claim);
        true
    }
}

fn read(path: &Path) -> io::Result<Claim> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() || found.uid() != Uid::effective().as_raw() || found.len() > MAX_FILE {
        return Err(io::Error::other("it is not a small file of our own"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write(path: &Path, claim: &Claim) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        private_dir::own(directory)?;
    }
    files::write_private(path, &serde_json::to_vec(claim)?)
}

/// Parser of server-sent events, line by line.
#[derive(Default)]
struct Events {
    line: Vec<u8>,
    kind: String,
    data: String,
}

impl Events {
    /// Adds received bytes; returns the data of the first event that has some.
    fn take(&mut self, bytes: &[u8]) -> Option<String> {
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() < MAX_LINE {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            let line = line.trim_end_matches('\r');
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => value.clone_into(&mut self.kind),
                "data" => value.clone_into(&mut self.data),
                "" if line.is_empty() => {
                    let (kind, data) = (
                        std::mem::take(&mut self.kind),
                        std::mem::take(&mut self.data),
                    );
                    if kind == "data" {
                        return Some(data);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Returns when a new claim is announced; never returns once there is nothing more to wait for.
pub(super) async fn wait(server: &Client, credential: &Credential, claims: &mut Claims) {
    let mut back_off = BackOff::default();
    loop {
        back_off.wait().await;
        match ask(server, credential, &mut back_off).await {
            Answer::Nothing => {}
            Answer::Never => return std::future::pending().await,
            Answer::Claimed(Announcement { claim, reason }) => {
                let owner = claim.owner_id;
                if claims.is_new(claim) {
                    return info!(reason, %owner, "the server asked this agent to reinitialize");
                }
                info!(%owner, "this agent has already reinitialized for its owner");
                return std::future::pending().await;
            }
        }
    }
}

/// Response of a server to one request.
enum Answer {
    /// Claim by an owner.
    Claimed(Announcement),
    /// No claim so far; the server may be asked again.
    Nothing,
    /// No claim, now or later.
    Never,
}

async fn ask(server: &Client, credential: &Credential, back_off: &mut BackOff) -> Answer {
    let asked = rest::ask(server, credential, "reinit", &[("wait", "true")]).await;
    let mut answer = match asked {
        Ok(answer) => answer,
        Err(error) => {
            if identity::refuses(&error) {
                back_off.refused();
            }
            debug!(
                error = format!("{error:#}"),
                "cannot ask the server whether this agent must reinitialize"
            );
            return Answer::Nothing;
        }
    };
    match answer.status() {
        StatusCode::OK => {}
        // The workspace is not a prebuilt one, or the server does not support them.
        StatusCode::CONFLICT | StatusCode::NOT_FOUND => return Answer::Never,
        status => {
            if identity::is_refusal(status) {
                back_off.refused();
            }
            debug!(%status, "the server did not say whether this agent must reinitialize");
            return Answer::Nothing;
        }
    }
    let mut events = Events::default();
    while let Ok(Some(piece)) = answer.chunk().await {
        let Some(data) = events.take(&piece) else {
            continue;
        };
        match serde_json::from_str(&data) {
            Ok(announcement) => return Answer::Claimed(announcement),
            Err(error) => debug!(%error, "ignoring an event that cannot be decoded"),
        }
    }
    Answer::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_however_it_is_cut_and_pings_are_none() {
        let text = b"event: ping\n\nevent: data\r\ndata: {\"reason\":\"x\"}\r\n\r\nevent: data\n";
        for size in [1, 3, text.len()] {
            let mut events = Events::default();
            let found: Vec<String> = text
                .chunks(size)
                .filter_map(|piece| events.take(piece))
                .collect();
            assert_eq!(found, ["{\"reason\":\"x\"}"], "{size} bytes at a time");
        }
    }

    fn claim(owner: u128) -> Claim {
        Claim {
            workspace_id: Uuid::from_u128(1),
            owner_id: Uuid::from_u128(owner),
        }
    }

    fn client() -> Client {
        let config = outpost_net::http::Config::new("http://127.0.0.1/".parse().unwrap());
        Client::new(config).unwrap()
    }

    #[test]
    fn an_agent_begins_anew_once_for_each_owner_also_in_its_next_process() {
        let (dir, server) = (tempfile::tempdir().unwrap(), client());
        let load = |token: &str| {
            let credential = Credential::Token(outpost_base::secret::Secret::new(token));
            Claims::load(dir.path(), &server, &credential)
        };
        let mut claims = load("a");
        assert!(claims.is_new(claim(2)));
        assert!(!claims.is_new(claim(2)));
        assert!(claims.is_new(claim(3)));
        assert!(!claims.is_new(claim(3)));

        assert!(!load("a").is_new(claim(3)));
        // Another agent of the same machine has its own record.
        assert!(load("b").is_new(claim(3)));
        // Servers that name no owner announce each claim once.
        assert!(claims.is_new(claim(0)));
        assert!(claims.is_new(claim(0)));
    }

    #[test]
    fn a_file_that_is_damaged_or_a_link_counts_as_none() {
        let (dir, server) = (tempfile::tempdir().unwrap(), client());
        let credential = Credential::Token(outpost_base::secret::Secret::new("a"));
        let load = || Claims::load(dir.path(), &server, &credential);
        let mut claims = load();
        assert!(claims.is_new(claim(2)));
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&claims.path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &claims.path).unwrap();
        assert!(load().is_new(claim(2)));
        assert!(!fs::symlink_metadata(&claims.path).unwrap().is_symlink());

        fs::write(&claims.path, "{").unwrap();
        assert!(load().is_new(claim(2)));
    }
}
