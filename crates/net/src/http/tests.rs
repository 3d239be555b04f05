//! Tests against servers that are sockets of the test, which records their requests.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{ca, listener, tls::Identity};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

type Heads = Arc<Mutex<Vec<String>>>;

/// Reads the head of a request, whose body is empty.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, heads: &Heads, with: &str) {
    let head = head(&mut stream).await;
    heads.lock().unwrap().push(head);
    // A client that has seen enough may be gone.
    let _ = stream.write_all(with.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Starts a server that answers the first request of each connection.
async fn plain(with: impl Fn(SocketAddr) -> String + Send + 'static) -> (Url, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Heads::default();
    let noted = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, &noted, &with(address)).await;
        }
    });
    (format!("http://{address}/").parse().unwrap(), heads)
}

/// An authority, with its certificates for a server and a client, as files.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn identity(&self) -> Identity {
        let (certificate, key) = self.issue("a-daemon");
        let identity = Identity {
            certificate: self.dir.path().join("client.pem"),
            key: self.dir.path().join("client.key"),
        };
        std::fs::write(&identity.certificate, certificate).unwrap();
        std::fs::write(&identity.key, key).unwrap();
        identity
    }

    /// Starts a TLS server as `localhost`; it requires a client certificate if `clients` is given.
    async fn serve(&self, clients: Option<&Self>) -> (u16, Heads) {
        crate::install_crypto_provider();
        let (certificate, key) = self.issue("localhost");
        let chain = rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                builder.with_client_cert_verifier(verifier.unwrap())
            }
        };
        let config = builder.with_single_cert(vec![chain.unwrap()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Heads::default();
        let noted = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, &noted, OK).await;
                }
            }
        });
        (port, heads)
    }
}

/// Starts a proxy that requires `user:secret` and connects to `port` here, whatever host is requested.
async fn proxy(port: u16) -> (String, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Heads::default();
    let noted = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let head = head(&mut near).await;
            let is_welcome = head.contains("Basic dXNlcjpzZWNyZXQ=");
            noted.lock().unwrap().push(head);
            if !is_welcome {
                let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                near.write_all(refusal).await.unwrap();
                continue;
            }
            let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    });
    (address.to_string(), heads)
}

async fn get(config: Config) -> Result<reqwest::StatusCode, RequestError> {
    let client = Client::new(config).unwrap();
    let headers = client.headers().await.unwrap();
    let response = client.get(client.url(), &headers).await?;
    Ok(response.status())
}

fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}

fn secure(port: u16, trust: Trust) -> Config {
    Config {
        trust,
        ..Config::new(format!("https://localhost:{port}/").parse().unwrap())
    }
}

fn only(authority: &Authority) -> Trust {
    Trust {
        only: Some(authority.file()),
        ..Trust::default()
    }
}

#[tokio::test]
async fn an_authority_of_ours_is_trusted_in_place_of_the_systems_or_beside_them() {
    let authority = Authority::new("Our CA");
    let (port, _) = authority.serve(None).await;
    let beside = Trust {
        extra: vec![authority.file()],
        ..Trust::default()
    };

    assert_eq!(get(secure(port, only(&authority))).await.unwrap(), 200);
    assert_eq!(get(secure(port, beside)).await.unwrap(), 200);
}

#[tokio::test]
async fn a_refused_certificate_is_named_with_its_issuer() {
    let (ours, theirs) = (Authority::new("Our CA"), Authority::new("Their, CA"));
    let (port, _) = theirs.serve(None).await;

    let error = get(secure(port, only(&ours))).await.unwrap_err();

    let text = whole(&error);
    assert!(text.contains("subject `CN=localhost"), "{text}");
    assert!(text.contains("issuer `CN=Their\\u{2c} CA"), "{text}");
    assert!(text.contains("--ca-file"), "{text}");
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_a_renewed_one_without_a_restart() {
    let (authority, others) = (Authority::new("Our CA"), Authority::new("Other CA"));
    let (port, heads) = authority.serve(Some(&authority)).await;
    let identity = authority.identity();
    let wrong = others.identity();
    let good = std::fs::read(&identity.certificate).unwrap();
    let good_key = std::fs::read(&identity.key).unwrap();
    std::fs::copy(&wrong.certificate, &identity.certificate).unwrap();
    std::fs::copy(&wrong.key, &identity.key).unwrap();
    let trust = Trust {
        identity: Some(identity.clone()),
        ..only(&authority)
    };
    let client = Client::new(secure(port, trust)).unwrap();
    let headers = HeaderMap::new();

    assert!(client.get(client.url(), &headers).await.is_err());
    std::fs::write(&identity.certificate, good).unwrap();
    std::fs::write(&identity.key, good_key).unwrap();
    assert_eq!(
        client.get(client.url(), &headers).await.unwrap().status(),
        200
    );
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_the_next_connection_on() {
    crate::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now();
    let mut authority = ca::Authority::create(dir.path(), "Our CA", &[], now).unwrap();
    let issued = authority.issue(
        ca::Request {
            name: "localhost".to_owned(),
            role: ca::Role::Server,
            hosts: Vec::new(),
            certificate: None,
            key: None,
        },
        now,
    );
    let issued = issued.unwrap();
    let tls = listener::Tls {
        certificate: issued.certificate,
        key: issued.key,
    };
    let anywhere = ([127, 0, 0, 1], 0).into();
    let limits = listener::Limits::standard();
    let listener = listener::Listener::bind(anywhere, Some(&tls), limits);
    let listener = listener.await.unwrap();
    let port = listener.address().port();
    let stop = outpost_base::stop::Stop::new();
    tokio::spawn(listener.serve(axum::Router::new(), stop.clone()));
    let trust = Trust {
        only: Some(ca::root_file(dir.path())),
        revoked: Some(ca::revoked_file(dir.path())),
        ..Trust::default()
    };
    let config = Arc::new(tls::client_config(&trust).unwrap());
    let connect = async || {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let connected = connector.connect("localhost".try_into().unwrap(), stream);
        connected.await.map(drop)
    };

    let before = connect().await;
    std::fs::write(ca::revoked_file(dir.path()), "half of a li").unwrap();
    let meanwhile = connect().await;
    authority.revoke("localhost", now).unwrap();
    let after = connect().await.unwrap_err();

    assert!(
        before.is_ok() && meanwhile.is_ok(),
        "{before:?} {meanwhile:?}"
    );
    assert!(whole(&after).contains("Revoked"), "{}", whole(&after));
}

#[test]
fn a_file_without_certificates_and_a_foreign_key_are_found_at_once() {
    let (authority, others) = (Authority::new("Our CA"), Authority::new("Other CA"));
    let empty = authority.dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let identity = Identity {
        key: others.identity().key,
        ..authority.identity()
    };
    let cases = [
        Trust {
            only: Some(empty),
            ..Trust::default()
        },
        Trust {
            identity: Some(identity),
            ..only(&authority)
        },
    ];

    for (trust, name) in cases.into_iter().zip(["empty.pem", "client.pem"]) {
        let error = Client::new(secure(1, trust)).unwrap_err();
        assert!(whole(&error).contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_is_asked_to_connect_with_its_password_and_never_sees_ours() {
    let authority = Authority::new("Our CA");
    let (port, heads) = authority.serve(None).await;
    let (address, asked) = proxy(port).await;
    let config = |host: &str, none: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("coder-session-token", HeaderValue::from_static("hunter2"));
        Config {
            trust: only(&authority),
            proxies: Proxies {
                https: Some(format!("http://user:secret@{address}")),
                none: none.map(str::to_owned),
                ..Proxies::default()
            },
            headers,
            ..Config::new(format!("https://{host}:{port}/").parse().unwrap())
        }
    };

    // The certificate is for another name, so that the request fails: the test is about the proxy.
    let error = get(config("coder.example", None)).await.unwrap_err();
    assert!(whole(&error).contains("CN=localhost"), "{}", whole(&error));
    let connect = asked.lock().unwrap().pop().unwrap();
    assert!(connect.starts_with(&format!("CONNECT coder.example:{port} ")));
    assert!(!connect.contains("hunter2"));

    // Neither loopback nor exempt hosts go through the proxy.
    assert_eq!(get(config("localhost", None)).await.unwrap(), 200);
    assert!(heads.lock().unwrap()[0].contains("hunter2"));
    let direct = get(config("coder.invalid", Some(".invalid"))).await;
    assert!(direct.is_err());
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_server_and_not_to_another() {
    let (other, seen) = plain(|_| OK.to_owned()).await;
    let redirect =
        |to: String| format!("HTTP/1.1 307 x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    let (away, _) = plain(move |_| redirect(format!("{other}?secret"))).await;

    let error = get(Config::new(away)).await.unwrap_err();
    assert!(matches!(&error, RequestError::Redirected { .. }));
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(seen.lock().unwrap().is_empty());

    let (again, asked) = plain(move |_| redirect("/next".to_owned())).await;
    let error = get(Config::new(again)).await.unwrap_err();
    assert!(matches!(error, RequestError::Endless { .. }));
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), MAX_REDIRECTS + 1);
    assert!(asked[1].starts_with("GET /next "), "{}", asked[1]);
}

#[test]
fn the_encrypted_door_of_a_server_is_the_same_server_and_a_plain_one_is_not() {
    let same = |from: &str, to: &str| is_same_server(&from.parse().unwrap(), &to.parse().unwrap());

    assert!(same("http://a/x", "https://a/y"));
    assert!(same("https://a/x", "https://a:443/y"));
    assert!(!same("https://a/", "http://a/"));
    assert!(!same("https://a/", "https://b/"));
    assert!(!same("https://a/", "https://a:8443/"));
    assert!(!same("http://a:3000/", "https://a/"));
}

#[test]
fn an_address_in_an_error_has_no_password() {
    let url = "https://user:hunter2@coder.example.com/x?tag=secret";

    let shown = bare(&url.parse().unwrap());

    assert_eq!(shown.as_str(), "https://coder.example.com/x");
}
