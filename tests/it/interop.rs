//! A real coderd gives jobs to our daemon. Where it is stands in the environment; `interop/README.md` tells how to
//! run these and what was seen. Without an address they say that they were skipped.
//!
//! Each test has a tag of its own, so that no daemon takes another test's job.

mod agent;
mod api;
mod daemon;
mod faults;
mod life;
mod owner;
mod sizes;
mod wire;

use std::{process::Command, sync::Mutex, time::Duration};

use self::{
    api::{Api, Version},
    daemon::{Credential, Daemon},
    wire::Wire,
};
use crate::support::skip::skipped;

/// Time for whatever a build does; nothing here builds more than a file.
const PATIENCE: Duration = Duration::from_secs(120);

/// The server under test, and the wire between it and our daemons.
struct Lab {
    api: Api,
    wire: Wire,
    /// Tells the jobs of this test from all others.
    tag: String,
    /// Whose jobs: the organization's, or the user's own.
    scope: &'static str,
}

impl Lab {
    /// `None`, with a note, if no server is named.
    async fn open(test: &str) -> Option<Self> {
        let (Some(url), Some(token)) = (variable("URL"), variable("TOKEN")) else {
            let why = "OUTPOST_INTEROP_URL and OUTPOST_INTEROP_TOKEN are not set";
            skipped("a real coderd", why);
            return None;
        };
        outpost::net::install_crypto_provider();
        let wire = Wire::to(&url).await;
        let nonce = &uuid::Uuid::new_v4().simple().to_string()[..6];
        Some(Self {
            api: Api::new(wire.url(), token),
            wire,
            tag: format!("{test}-{nonce}"),
            scope: "organization",
        })
    }

    /// A daemon with the pre-shared key; `None`, with a note, if there is none.
    fn daemon(&self) -> Option<Daemon> {
        let psk = given("PSK")?;
        Some(Daemon::start(self, "one", &Credential::Psk(psk)))
    }

    /// Imports the template of this folder's tests and waits for its end.
    async fn import(&self, template: &str) -> Version {
        let tags = serde_json::json!({ "test": self.tag, "scope": self.scope });
        let version = self.api.import(template, tags).await;
        let job = self.api.ended_import(&version.id).await;
        assert_eq!(job["status"], "succeeded", "{job}");
        version
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(format!("OUTPOST_INTEROP_{name}")).ok()
}

fn given(name: &str) -> Option<String> {
    let value = variable(name);
    if value.is_none() {
        skipped(
            "a real coderd",
            format!("OUTPOST_INTEROP_{name} is not set"),
        );
    }
    value
}

/// Restarts the server by the operator's command. It prints the server's address if that is a new one.
fn restart_server(command: &str) -> Option<String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap();
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    (!printed.trim().is_empty()).then(|| printed.trim().to_owned())
}
