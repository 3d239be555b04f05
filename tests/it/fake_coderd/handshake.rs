//! Versions and refusals, and what our daemon makes of them.

use outpost::{
    control::{Storage, tokens},
    proto::outpost::v1 as api,
    provision::{JobSource as _, SourceError},
    stop::Stop,
    transport::auth::Credential,
};
use serde_json::json;

use super::FakeCoderd;
use crate::{
    control::{Lab, config},
    support::coder_source,
};

/// A server, somebody in between, and a daemon that dials them.
async fn lab() -> (Lab, FakeCoderd) {
    let lab = Lab::with(config(Storage::Memory, &tokens::generate())).await;
    let fake = FakeCoderd::start(lab.server.address());
    (lab, fake)
}

#[tokio::test]
async fn a_server_of_any_version_from_1_6_on_is_met_at_its_own() {
    const VERSIONS: [&str; 20] = [
        "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8", "1.9", "1.10", "1.11", "1.12",
        "1.13", "1.14", "1.15", "1.16", "1.17", "1.18", "1.19", "1.20",
    ];
    let (mut lab, fake) = lab().await;
    for tells in [true, false] {
        for (minor, version) in (1..).zip(VERSIONS) {
            fake.speak(version, tells);
            let credential = Credential::Psk(lab.psk.clone());
            let daemon = coder_source(&fake.url(), "one", credential, &[]);
            if minor < 6 {
                let refused = daemon.acquire(&Stop::new()).await.unwrap_err();
                let text = chain(&refused);
                assert!(
                    text.contains(&format!("API {version}")),
                    "{version}: {text}"
                );
                continue;
            }
            lab.import(&daemon).await;
            let daemons = lab
                .api
                .list_daemons(api::ListDaemonsRequest::default())
                .await;
            let daemons = daemons.unwrap().into_inner().daemons;
            assert_eq!(daemons[0].api_version, version);
            assert_eq!(daemon.has_ai_tasks(), minor < 19, "{version}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words_and_one_that_passes_is_got_over() {
    let (mut lab, fake) = lab().await;
    let json = |message: &str| json!({ "message": message, "detail": "" }).to_string();
    let plain = ("content-type", "application/json");
    let cases = [
        (400, "Invalid format for tag \"x\"", plain),
        (
            400,
            "The provisioner query parameter must be specified.",
            plain,
        ),
        (400, "Unknown provisioner type \"pulumi\"", plain),
        (400, "Given tags are not acceptable to the service", plain),
        (
            400,
            "API key and external provisioner authentication provided, but only one is allowed",
            plain,
        ),
        (
            401,
            "API key or external provisioner authentication required, but none provided",
            plain,
        ),
        (
            403,
            "External provisioner daemons is an Enterprise feature. Contact sales!",
            plain,
        ),
        (
            403,
            "You aren't allowed to create provisioner daemons with scope \"user\"",
            plain,
        ),
        (
            404,
            "Resource not found or you do not have access to this resource",
            plain,
        ),
        (426, "Internal error accepting websocket connection.", plain),
        (
            429,
            "You've been rate limited for sending more than 512 requests",
            ("retry-after", "1"),
        ),
        (500, "Internal error creating provisioner daemon.", plain),
    ];
    for (status, message, header) in cases {
        let credential = Credential::Psk(lab.psk.clone());
        let daemon = coder_source(&fake.url(), "one", credential, &[]);
        fake.refuse(Some((status, header, json(message))));

        let refused = daemon.acquire(&Stop::new()).await.unwrap_err();

        let text = chain(&refused);
        assert!(
            text.contains(message) && text.contains(&status.to_string()),
            "{text}"
        );
        let is_final = matches!(refused, SourceError::Unauthorized(_));
        assert_eq!(is_final, status == 401, "{text}");
        assert!(!text.contains(lab.psk.expose()), "{text}");
        fake.refuse(None);
        // What may pass is tried again soon, by the same daemon; for the rest somebody has to do something first.
        let daemon = match status {
            426 | 429 | 500 => daemon,
            _ => coder_source(&fake.url(), "one", Credential::Psk(lab.psk.clone()), &[]),
        };
        lab.import(&daemon).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_not_coders_is_quoted_only_in_part() {
    let (lab, fake) = lab().await;
    let credential = Credential::Psk(lab.psk.clone());
    let daemon = coder_source(&fake.url(), "one", credential, &[]);
    let page = format!("<html>gateway says no{}</html>", "o".repeat(1 << 20));
    fake.refuse(Some((502, ("content-type", "text/html"), page)));

    let refused = daemon.acquire(&Stop::new()).await.unwrap_err();

    let text = chain(&refused);
    assert!(
        text.contains("502") && text.contains("gateway says no"),
        "{text}"
    );
    assert!(text.len() < 4096, "{} bytes", text.len());
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
