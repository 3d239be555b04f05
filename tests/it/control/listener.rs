//! The listener: HTTP beside gRPC, TLS, limits, and its end.

use std::{fs, net::SocketAddr, time::Duration};

use outpost::{
    client::{self, Target},
    control::{self, Limits, Storage, tokens},
    net::{listener::Tls, tls::Trust},
    proto::outpost::v1::{self as api},
    provision::{JobSource as _, SourceError},
    stop::Stop,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use super::{Lab, PATIENCE, config, version_request};

pub(super) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn plain_http_is_answered_beside_grpc() {
    let mut lab = Lab::start(Storage::Memory).await;
    let address = lab.server.address();

    assert!(
        get(address, "/healthz")
            .await
            .starts_with("HTTP/1.1 200 OK")
    );
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 OK"));
    let info = get(address, "/api/v2/buildinfo").await;
    assert!(info.contains("\"version\":\"v0.1.0\""), "{info}");
    assert!(
        info.contains("\"provisioner_api_version\":\"1.20\""),
        "{info}"
    );
    let user = lab
        .api
        .who_am_i(api::WhoAmIRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(user.name, "admin");
}

/// It has no token yet, and would offer to create a first user if there were none.
#[tokio::test]
async fn coder_login_finds_a_user_and_a_browser_the_way_to_a_token() {
    let lab = Lab::start(Storage::Memory).await;
    let address = lab.server.address();

    let first = get(address, "/api/v2/users/first").await;
    assert!(first.starts_with("HTTP/1.1 200 OK"), "{first}");
    let page = get(address, "/cli-auth").await;
    assert!(page.contains("outpost token create"), "{page}");
}

#[tokio::test]
async fn health_and_reflection_are_there() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let lab = Lab::start(Storage::Memory).await;
    let endpoint = tonic::transport::Endpoint::from_shared(lab.server.url().to_string()).unwrap();
    let channel = endpoint.connect().await.unwrap();

    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(health.into_inner().status, 1);
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(futures::stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = services
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"outpost.v1.ControlService"), "{names:?}");
    assert!(names.contains(&"outpost.v1.DaemonService"), "{names:?}");
}

#[tokio::test]
async fn tls_is_spoken_with_the_given_certificate() {
    let temp = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls {
        certificate: temp.path().join("cert.pem"),
        key: temp.path().join("key.pem"),
    };
    fs::write(&tls.certificate, made.cert.pem()).unwrap();
    fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let mut config = config(Storage::Memory, &tokens::generate());
    config.tls = Some(tls);
    let lab = Lab::with(config).await;
    let url = format!("https://localhost:{}", lab.server.address().port());
    let target = |extra| Target {
        url: url.parse().unwrap(),
        token: lab.server.admin_token().clone(),
        trust: Trust {
            extra,
            ..Trust::default()
        },
    };

    let trusting = target(vec![temp.path().join("cert.pem")]);
    let user = client::connect(&trusting)
        .unwrap()
        .who_am_i(api::WhoAmIRequest {})
        .await;
    assert_eq!(user.unwrap().into_inner().name, "admin");

    let strange = target(Vec::new());
    let status = client::connect(&strange)
        .unwrap()
        .who_am_i(api::WhoAmIRequest {})
        .await;
    let error = client::CallError::new(&strange.url, status.unwrap_err());
    assert!(error.hint().unwrap().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_key_that_does_not_fit_its_certificate_is_refused_at_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls {
        certificate: temp.path().join("cert.pem"),
        key: temp.path().join("key.pem"),
    };
    fs::write(&tls.certificate, make().cert.pem()).unwrap();
    fs::write(&tls.key, make().signing_key.serialize_pem()).unwrap();
    let mut wrong = config(Storage::Memory, &tokens::generate());
    wrong.tls = Some(tls.clone());
    let mut missing = wrong.clone();
    missing.tls = Some(Tls {
        key: temp.path().join("nowhere.pem"),
        ..tls
    });

    for (config, named) in [(wrong, "cert.pem"), (missing, "nowhere.pem")] {
        let error = control::start(config, Stop::new()).await.err().unwrap();
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_sent_away() {
    let mut short = config(Storage::Memory, &tokens::generate());
    short.limits.header_timeout = Duration::from_millis(200);
    let lab = Lab::with(short).await;

    for begun in ["", "P", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let mut stream = TcpStream::connect(lab.server.address()).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{begun:?} keeps the connection open");
    }
}

#[tokio::test]
async fn a_peer_has_a_limited_number_of_connections() {
    let mut few = config(Storage::Memory, &tokens::generate());
    few.limits.connections_per_peer = 2;
    let lab = Lab::with(few).await;
    let address = lab.server.address();
    let open = || async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // An answer shows that the server has counted it.
        let request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut byte = [0];
        match stream.write_all(request.as_bytes()).await {
            Ok(()) => stream.read_exact(&mut byte).await.ok().map(|_| stream),
            Err(_) => None,
        }
    };

    let mut first = open().await.unwrap();
    let _second = open().await.unwrap();
    // Who comes on top takes the place of who was silent longest.
    let _third = open().await.unwrap();
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, first.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "three connections are open");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let mut small = config(Storage::Memory, &tokens::generate());
    small.limits = Limits {
        message_bytes: 64 << 10,
        ..Limits::standard()
    };
    let mut lab = Lab::with(small).await;
    let request = api::CreateVersionRequest {
        archive: vec![0; 65 << 10].into(),
        ..version_request("demo")
    };

    let status = lab.api.create_version(request).await.unwrap_err();

    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn a_stop_ends_waiting_daemons_and_followed_logs() {
    let mut lab = Lab::start(Storage::Memory).await;
    let source = lab.daemon("daemon");
    let version = lab
        .api
        .create_version(version_request("demo"))
        .await
        .unwrap()
        .into_inner();
    source.acquire(&Stop::new()).await.unwrap().unwrap();
    let request = api::StreamLogsRequest {
        job_id: version.job.unwrap().id,
        after: 0,
        follow: true,
    };
    let mut logs = lab.api.stream_logs(request).await.unwrap().into_inner();
    let waiting = tokio::spawn(async move { source.acquire(&Stop::new()).await });

    timeout(PATIENCE, lab.server.shutdown()).await.unwrap();

    let ended = waiting.await.unwrap();
    assert!(matches!(ended, Err(SourceError::Lost(_))), "{ended:?}");
    assert_eq!(logs.message().await.unwrap_err().code(), Code::Unavailable);
}
