//! Waits for a prebuilt workspace to become somebody's: then its agent begins anew.
//!
//! # Source
//! coder `codersdk/agentsdk/agentsdk.go`, `WaitForReinit`; `codersdk/serversentevents.go`.

use http::StatusCode;
use serde::Deserialize;
use tracing::{debug, info};

use super::{identity::Credential, rest};
use crate::net::{back_off::BackOff, http::Client};

/// Bytes of one line of the stream.
const MAX_LINE: usize = 64 << 10;

/// Why an agent begins anew.
#[derive(Debug, Deserialize)]
struct Claim {
    #[serde(default)]
    reason: String,
}

/// Reads server-sent events, line by line.
#[derive(Default)]
struct Events {
    line: Vec<u8>,
    kind: String,
    data: String,
}

impl Events {
    /// Takes what has come; returns the data of the first event that says something.
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

/// Returns when the server says so; never, if it says that there is nothing to wait for.
pub(super) async fn wait(server: &Client, credential: &Credential) {
    let mut back_off = BackOff::default();
    loop {
        back_off.wait().await;
        let asked = rest::ask(server, credential, "reinit", &[("wait", "true")]).await;
        let mut answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                debug!(
                    error = format!("{error:#}"),
                    "cannot ask whether this agent is to begin anew"
                );
                continue;
            }
        };
        match answer.status() {
            StatusCode::OK => {}
            // It was claimed long ago, or the server has no prebuilt workspaces.
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => return std::future::pending().await,
            status => {
                debug!(%status, "the server does not say whether this agent is to begin anew");
                continue;
            }
        }
        let mut events = Events::default();
        while let Ok(Some(piece)) = answer.chunk().await {
            let Some(data) = events.take(&piece) else {
                continue;
            };
            match serde_json::from_str::<Claim>(&data) {
                Ok(claim) => {
                    return info!(
                        reason = claim.reason,
                        "the server wants this agent to begin anew"
                    );
                }
                Err(error) => debug!(%error, "an event that makes no sense"),
            }
        }
    }
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
}
