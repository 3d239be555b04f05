//! The API of daemons, level by level: what we announce is answered, and what nobody has is not implemented.

use http::HeaderName;
use outpost::{
    control::Storage,
    net::websocket::ByteStream,
    proto::provisionerd::Empty,
    transport::{
        coder::ApiVersion,
        drpc::{Call, CallError, Limits, UNIMPLEMENTED},
        yamux,
    },
};
use tokio::time::timeout;

use super::{Lab, PATIENCE, hostile_daemon::come_in};

/// Minor versions of the API and the calls that came with them; those between, and the last one, added fields only.
const LEVELS: [(u16, &[&str]); 4] = [
    (
        0,
        &[
            "AcquireJob",
            "AcquireJobWithCancel",
            "CommitQuota",
            "UpdateJob",
            "FailJob",
            "CompleteJob",
        ],
    ),
    (7, &["UploadFile"]),
    (14, &["DownloadFile"]),
    (20, &[]),
];

async fn daemon(lab: &Lab, minor: u16) -> yamux::Connection {
    let path = format!(
        "api/v2/organizations/default/provisionerdaemons/serve?name=one&provisioner=terraform&version=1.{minor}"
    );
    let psk = (
        HeaderName::from_static("coder-provisioner-daemon-psk"),
        &lab.psk,
    );
    let socket = come_in(lab.server.address(), &path, psk).await;
    let config = yamux::Config::default();
    yamux::Connection::start(ByteStream::new(socket), yamux::Role::Client, config).0
}

/// The code of the error that a call without anything in it is answered with, 0 if there is none.
async fn code(connection: &yamux::Connection, method: &str) -> u64 {
    let stream = connection.open().unwrap();
    let called = Call::unary::<_, Empty>(stream, method, &Empty {}, Limits::CODER);
    match timeout(PATIENCE, called).await.unwrap() {
        Ok(_) | Err(CallError::Decode(_)) => 0,
        Err(CallError::Remote { code, .. }) => code,
        Err(error) => panic!("{method}: {error:?}"),
    }
}

#[tokio::test]
async fn each_level_of_the_daemons_api_that_we_announce_is_answered_call_by_call() {
    let lab = Lab::start(Storage::Memory).await;
    let last = LEVELS.last().unwrap().0;
    assert_eq!(last, ApiVersion::NEWEST.minor, "a level without a row");

    for (minor, calls) in LEVELS {
        let connection = daemon(&lab, minor).await;
        for method in calls {
            let method = format!("/provisionerd.ProvisionerDaemon/{method}");
            assert_eq!(code(&connection, &method).await, 0, "1.{minor} {method}");
        }
    }
    let connection = daemon(&lab, last).await;
    for method in [
        "/provisionerd.ProvisionerDaemon/Invent",
        "/other.Other/Call",
    ] {
        assert_eq!(code(&connection, method).await, UNIMPLEMENTED, "{method}");
    }
}
