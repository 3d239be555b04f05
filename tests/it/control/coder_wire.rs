//! The control plane as a daemon of Coder's finds it: who comes in, and what it may then ask.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use outpost::{
    control::{Storage, tokens},
    job::{CompletedJob, CompletedWork, ImportResult, LogLevel, LogLine, LogSource, Work},
    proto::outpost::v1::{self as api},
    provision::{JobSource as _, JobUpdate, SourceError},
    secret::Secret,
    stop::Stop,
    transport::{auth::Credential, coder::CoderSource},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    Lab, PATIENCE, build_id, built, config, imported, insist, pull_state, state_of,
    version_request, workspace_request,
};
use crate::support::{
    coder_source,
    fault_proxy::{Fault, FaultProxy},
};

impl Lab {
    fn coder_daemon(&self, name: &str) -> CoderSource {
        let credential = Credential::Psk(self.psk.clone());
        coder_source(self.server.url(), name, credential, &[])
    }
}

/// What a handshake is answered, head and body.
pub async fn knock(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    request(address, "GET", path, headers).await
}

/// The same with another method.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> String {
    request_with_body(address, method, path, headers, "").await
}

/// The same with something to read behind the head.
pub async fn request_with_body(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let headers: Vec<String> = headers
        .iter()
        .map(|(k, v)| format!("{k}: {v}\r\n"))
        .collect();
    let headers = headers.concat();
    let length = body.len();
    let length = match length {
        0 => String::new(),
        _ => format!("Content-Length: {length}\r\n"),
    };
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{length}{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    // The body comes with the head or right behind it, and has a length.
    let text = String::from_utf8_lossy(&answer).to_lowercase();
    let length = text.split("content-length: ").nth(1);
    let length: usize = length.map_or(0, |rest| {
        rest.split("\r\n").next().unwrap().parse().unwrap()
    });
    let head = text.find("\r\n\r\n").unwrap() + 4;
    while answer.len() < head + length {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    String::from_utf8(answer).unwrap()
}

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
];

/// The path of the default organization's daemons.
fn serve(query: &str) -> String {
    format!("/api/v2/organizations/default/provisionerdaemons/serve?{query}")
}

const GOOD: &str = "name=one&provisioner=terraform&version=1.18";

/// A path, the headers, and the answer: its status and what is in its body.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test]
async fn a_daemon_that_does_not_belong_here_learns_why_in_the_order_of_the_reference() {
    let mut lab = Lab::start(Storage::Memory).await;
    lab.api
        .create_organization(api::CreateOrganizationRequest {
            name: "other".to_owned(),
        })
        .await
        .unwrap();
    let address = lab.server.address();
    let psk = lab.psk.expose().to_owned();
    let psk = [("Coder-Provisioner-Daemon-PSK", psk.as_str())];
    let wrong_psk = [("Coder-Provisioner-Daemon-PSK", "wrong")];
    let token = lab.server.admin_token().expose().to_owned();
    let both = [psk[0], ("Coder-Session-Token", token.as_str())];
    let other = serve(GOOD).replace("default", "other");
    // Each has the faults of those below it as well, as far as they go together.
    let cases: &[Case<'_>] = &[
        (
            &serve("tag=x&version=9.9"),
            &both,
            400,
            "API key and external provisioner authentication provided, but only one is allowed",
        ),
        (
            &serve("tag=x&version=9.9"),
            &wrong_psk,
            401,
            "API key or external provisioner authentication required, but none provided",
        ),
        (
            &serve(GOOD),
            &[],
            401,
            "API key or external provisioner authentication required, but none provided",
        ),
        (
            "/api/v2/organizations/none/provisionerdaemons/serve?tag=x",
            &psk,
            404,
            "Resource not found",
        ),
        (
            &serve("tag=x&version=9.9"),
            &psk,
            400,
            "Invalid format for tag \\\"x\\\"",
        ),
        (
            &serve("version=9.9"),
            &psk,
            400,
            "The provisioner query parameter must be specified.",
        ),
        (
            &serve("provisioner=pulumi&version=9.9"),
            &psk,
            400,
            "Unknown provisioner type \\\"pulumi\\\"",
        ),
        (
            &other,
            &psk,
            403,
            "You aren't allowed to create provisioner daemons with scope \\\"organization\\\"",
        ),
        (
            &serve("provisioner=echo&version=9.9&tag=a%3D%00"),
            &psk,
            400,
            "Given tags are not acceptable to the service",
        ),
        (
            &serve("provisioner=echo&version=1.21"),
            &psk,
            400,
            "server is at version 1.20, behind requested minor version 1.21",
        ),
        (
            &serve(&GOOD.replace("=one", &format!("={}", "n".repeat(65)))),
            &psk,
            500,
            "Internal error creating provisioner daemon.",
        ),
        (&serve(GOOD), &psk, 101, "sec-websocket-accept"),
    ];
    for (path, credential, status, text) in cases {
        let headers = [&UPGRADE[..], credential].concat();
        let answer = knock(address, path, &headers).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
        assert!(answer.contains(text), "{path}: {answer}");
        assert!(
            answer
                .to_lowercase()
                .contains("x-coder-build-version: v0.1.0"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused_and_the_daemon_is_written_down_all_the_same() {
    let mut lab = Lab::start(Storage::Memory).await;
    let (address, psk) = (lab.server.address(), lab.psk.expose().to_owned());
    let psk = ("Coder-Provisioner-Daemon-PSK", psk.as_str());
    let [connection, upgrade, version, key] = UPGRADE;
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[psk], 426),
        (&[psk, connection, version, key], 426),
        (
            &[
                psk,
                connection,
                upgrade,
                ("Sec-WebSocket-Version", "8"),
                key,
            ],
            400,
        ),
        (&[psk, connection, upgrade, version], 400),
        (&[psk, connection, upgrade, version, key, key], 400),
        (
            &[
                psk,
                connection,
                upgrade,
                version,
                ("Sec-WebSocket-Key", "c2hvcnQ="),
            ],
            400,
        ),
        (
            &[
                psk,
                connection,
                upgrade,
                version,
                key,
                ("Origin", "https://evil.example.com"),
            ],
            403,
        ),
    ];
    for (headers, status) in cases {
        let answer = knock(address, &serve(GOOD), headers).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(
            answer.contains("Internal error accepting websocket connection."),
            "{answer}"
        );
    }

    let daemons = lab
        .api
        .list_daemons(api::ListDaemonsRequest::default())
        .await;
    let daemons = daemons.unwrap().into_inner().daemons;
    assert_eq!(daemons.len(), 1);
    assert_eq!(
        (&daemons[0].name[..], &daemons[0].api_version[..]),
        ("one", "1.18")
    );
}

#[tokio::test]
async fn a_daemon_on_coders_wire_imports_builds_logs_and_sees_a_cancel() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.coder_daemon("one");
    lab.import(&daemon).await;
    lab.api
        .create_workspace(workspace_request("a"))
        .await
        .unwrap();
    let job = daemon.acquire(&Stop::new()).await.unwrap().unwrap();
    assert!(daemon.commit_quota(job.id, 3).await.unwrap().ok);
    let line = LogLine {
        source: LogSource::Provisioner,
        level: LogLevel::Info,
        created_at: job.created_at,
        stage: "Starting workspace".to_owned(),
        output: "working".to_owned(),
    };
    let update = JobUpdate {
        logs: vec![line],
        ..JobUpdate::heartbeat(job.id)
    };
    assert!(!daemon.update(update).await.unwrap().cancelled);

    let request = api::CancelJobRequest {
        id: job.id.to_string(),
    };
    lab.api.cancel_job(request).await.unwrap();
    assert!(
        daemon
            .update(JobUpdate::heartbeat(job.id))
            .await
            .unwrap()
            .cancelled
    );

    daemon.complete(built(&job)).await.unwrap();
    assert_eq!(
        pull_state(&mut lab.api, "a").await,
        state_of(&build_id(&job))
    );
    let stranger = lab.coder_daemon("two");
    let refused = stranger.update(JobUpdate::heartbeat(job.id)).await;
    assert!(
        matches!(&refused, Err(SourceError::Gone(why)) if why.contains("you don't own this job")),
        "{refused:?}"
    );
    let daemons = lab
        .api
        .list_daemons(api::ListDaemonsRequest::default())
        .await;
    let daemons = daemons.unwrap().into_inner().daemons;
    assert_eq!(daemons[0].api_version, "1.20");
}

#[tokio::test]
async fn a_daemon_whose_connection_broke_ends_its_job_on_the_next_one() {
    for fault in [Fault::Fin, Fault::Rst] {
        let mut lab = Lab::start(Storage::Memory).await;
        let proxy = FaultProxy::start(lab.server.address());
        let credential = Credential::Psk(lab.psk.clone());
        let daemon = coder_source(&proxy.url(), "one", credential, &[]);
        lab.import(&daemon).await;
        lab.api
            .create_workspace(workspace_request("a"))
            .await
            .unwrap();
        let job = daemon.acquire(&Stop::new()).await.unwrap().unwrap();

        proxy.set(fault);
        let lost = daemon.update(JobUpdate::heartbeat(job.id)).await;
        assert!(matches!(lost, Err(SourceError::Lost(_))), "{lost:?}");
        proxy.set(Fault::None);

        let ended = timeout(PATIENCE, insist(|| daemon.complete(built(&job)))).await;
        ended.unwrap().unwrap();
        assert_eq!(
            pull_state(&mut lab.api, "a").await,
            state_of(&build_id(&job))
        );
    }
}

#[tokio::test]
async fn a_daemon_that_stops_waiting_leaves_the_job_to_the_next_one() {
    let mut lab = Lab::start(Storage::Memory).await;
    let (first, second) = (lab.coder_daemon("first"), lab.coder_daemon("second"));
    let stop = Stop::new();
    let (stopped, waiting) = (stop.clone(), first.connected().unwrap());
    let waits = tokio::spawn(async move { first.acquire(&stopped).await });
    waiting
        .clone()
        .wait_for(|connected| *connected)
        .await
        .unwrap();
    stop.drain();
    assert!(waits.await.unwrap().unwrap().is_none());

    lab.import(&second).await;
}

#[tokio::test]
async fn modules_too_large_for_a_message_come_back_to_the_builds() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.coder_daemon("one");
    lab.api
        .create_version(version_request("demo"))
        .await
        .unwrap();
    let import = daemon.acquire(&Stop::new()).await.unwrap().unwrap();
    let modules: Vec<u8> = (0..5_000_000_u32).map(|n| (n * 31) as u8).collect();
    let CompletedWork::TemplateImport(result) = imported(import.id).result else {
        unreachable!()
    };
    let result = ImportResult {
        module_files: modules.clone().into(),
        ..*result
    };
    let result = CompletedWork::TemplateImport(Box::new(result));
    let id = import.id;
    daemon.complete(CompletedJob { id, result }).await.unwrap();

    lab.api
        .create_workspace(workspace_request("a"))
        .await
        .unwrap();
    let build = daemon.acquire(&Stop::new()).await.unwrap().unwrap();
    let Work::WorkspaceBuild(work) = &build.work else {
        panic!("{build:?}")
    };
    let file = work.metadata.template_version_modules_file.parse().unwrap();
    assert_eq!(daemon.download_modules(file).await.unwrap(), modules);

    let unknown = daemon.download_modules(uuid::Uuid::new_v4()).await;
    assert!(
        matches!(&unknown, Err(SourceError::Refused(why)) if why.contains("modules file")),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_job_over_the_limit_of_the_wire_fails_and_says_so() {
    let mut lab = Lab::start(Storage::Memory).await;
    let daemon = lab.coder_daemon("one");
    let request = api::CreateVersionRequest {
        archive: Bytes::from(vec![0; (4 << 20) + 1]),
        ..version_request("demo")
    };
    lab.api.create_version(request).await.unwrap();

    let refused = daemon.acquire(&Stop::new()).await;

    assert!(refused.is_err(), "{refused:?}");
    let jobs = lab.api.list_jobs(api::ListJobsRequest::default()).await;
    let job = jobs.unwrap().into_inner().jobs.remove(0);
    assert_eq!(job.status, "failed");
    assert!(job.error.contains("payload was too big: "), "{}", job.error);
}

#[tokio::test]
async fn a_provisioner_key_brings_its_tags_and_tells_them() {
    let mut lab = Lab::start(Storage::Memory).await;
    let request = api::CreateProvisionerKeyRequest {
        organization: String::new(),
        name: "west".to_owned(),
        tags: [("region".to_owned(), "us".to_owned())].into(),
    };
    let made = lab
        .api
        .create_provisioner_key(request)
        .await
        .unwrap()
        .into_inner();
    let key = Credential::Key(Secret::new(made.value.clone()));
    let tagged = api::CreateVersionRequest {
        tags: [("region".to_owned(), "us".to_owned())].into(),
        ..version_request("demo")
    };
    lab.api.create_version(tagged).await.unwrap();

    let daemon = coder_source(lab.server.url(), "one", key.clone(), &[]);
    let job = daemon.acquire(&Stop::new()).await.unwrap().unwrap();
    daemon.complete(imported(job.id)).await.unwrap();

    let greedy = coder_source(lab.server.url(), "two", key, &[("region", "eu")]);
    let refused = greedy.acquire(&Stop::new()).await;
    assert!(
        matches!(refused, Err(SourceError::Unsuitable(_))),
        "{refused:?}"
    );
    let header = [("Coder-Provisioner-Daemon-Key", made.value.as_str())];
    let path = format!("/api/v2/provisionerkeys/{}", made.value);
    let answer = knock(lab.server.address(), &path, &header).await;
    assert!(
        answer.contains(r#""name":"west""#) && answer.contains(r#""region":"us""#),
        "{answer}"
    );
    assert!(!answer.contains(&made.value), "{answer}");
    for (value, status) in [("short".to_owned(), 400), ("x".repeat(43), 401)] {
        let header = [("Coder-Provisioner-Daemon-Key", value.as_str())];
        let answer = knock(lab.server.address(), &path, &header).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_person_may_serve_their_own_jobs_and_an_administrator_everybodys() {
    let mut lab = Lab::start(Storage::Memory).await;
    let user = api::CreateUserRequest {
        name: "ann".to_owned(),
        budget: -1,
        ..Default::default()
    };
    lab.api.create_user(user).await.unwrap();
    let token = api::CreateTokenRequest {
        user: "ann".to_owned(),
        name: "daemon".to_owned(),
        lifetime_seconds: 0,
    };
    let token = lab
        .api
        .create_token(token)
        .await
        .unwrap()
        .into_inner()
        .value;
    let ann = Credential::SessionToken(Secret::new(token.clone()));
    let admin = Credential::SessionToken(lab.server.admin_token().clone());

    let url = lab.server.url();
    let refused = coder_source(url, "all", ann.clone(), &[])
        .acquire(&Stop::new())
        .await;
    assert!(
        matches!(refused, Err(SourceError::Unsuitable(_))),
        "{refused:?}"
    );
    let own = coder_source(url, "own", ann, &[("scope", "user")]);
    let stop = Stop::new();
    let (waits, own_stop) = (own.connected().unwrap(), stop.clone());
    let waiting = tokio::spawn(async move { own.acquire(&own_stop).await });
    waits
        .clone()
        .wait_for(|connected| *connected)
        .await
        .unwrap();
    lab.import(&coder_source(url, "any", admin, &[])).await;
    stop.drain();
    assert!(waiting.await.unwrap().unwrap().is_none());

    let headers = [("Coder-Session-Token", token.as_str())];
    let address = lab.server.address();
    let answer = knock(address, "/api/v2/users/me/organizations", &headers).await;
    assert!(
        answer.contains(r#""name":"default""#) && answer.contains(r#""is_default":true"#),
        "{answer}"
    );
    let answer = knock(address, "/api/v2/users/me/organizations", &[]).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_server_that_stops_lets_its_daemons_go() {
    let mut config = config(Storage::Memory, &tokens::generate());
    config.limits.shutdown = Duration::from_secs(60);
    let lab = Lab::with(config).await;
    let daemon = lab.coder_daemon("one");
    let connected = daemon.connected().unwrap();
    let waiting = tokio::spawn(async move { daemon.acquire(&Stop::new()).await });
    connected
        .clone()
        .wait_for(|connected| *connected)
        .await
        .unwrap();

    timeout(Duration::from_secs(30), lab.server.shutdown())
        .await
        .unwrap();

    let lost = waiting.await.unwrap();
    assert!(lost.is_err(), "{lost:?}");
}

#[tokio::test]
async fn whoever_knocks_too_often_is_told_when_to_come_back() {
    let lab = Lab::start(Storage::Memory).await;
    let address = lab.server.address();
    for _ in 0..512 {
        let answer = knock(address, "/api/v2/users/me/organizations", &[]).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }

    let answer = knock(address, "/api/v2/users/me/organizations", &[]).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(
        answer.contains("retry-after: 60") && answer.contains("rate limited"),
        "{answer}"
    );
    // Other questions are counted apart.
    let answer = knock(address, &serve(GOOD), &[]).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}
