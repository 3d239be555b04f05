//! Terraform as a plugin sees it.

use std::{collections::BTreeMap, io, path::PathBuf, pin::Pin, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P521_SHA512};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::{net::UnixStream, sync::oneshot};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::{
    super::{ServeError, run},
    provider,
};
use crate::{COOKIE, Launch, service::Service};

/// Its certificate, and the directory for sockets.
pub(super) struct Terraform {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    pub(super) directory: tempfile::TempDir,
}

impl Terraform {
    pub(super) fn new() -> Self {
        let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        Self {
            certificate: parameters.self_signed(&key).unwrap().into(),
            key,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn launch(&self, with_tls: bool) -> Launch {
        let mut variables = BTreeMap::from([
            (COOKIE.0.to_owned(), COOKIE.1.to_owned()),
            (
                "PLUGIN_UNIX_SOCKET_DIR".to_owned(),
                self.directory.path().display().to_string(),
            ),
        ]);
        let base64 = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            &self.certificate,
        );
        let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        if with_tls {
            variables.insert("PLUGIN_CLIENT_CERT".to_owned(), pem);
        }
        Launch::from_environment(&variables).unwrap()
    }

    /// Starts the plugin, reads its line and connects.
    pub(super) async fn start(
        &self,
        with_tls: bool,
    ) -> (Channel, tokio::task::JoinHandle<Result<(), ServeError>>) {
        let (sender, line) = oneshot::channel();
        let launch = self.launch(with_tls);
        let running = tokio::spawn(async move {
            run(
                Service::new(provider()),
                &launch,
                &mut Line(Some(sender), Vec::new()),
            )
            .await
        });
        let line = line.await.unwrap();
        let parts: Vec<_> = line.trim_end().split('|').collect();
        assert_eq!(
            (&parts[..3], parts[4]),
            (&["1", "5", "unix"][..], "grpc"),
            "{line}"
        );
        let tls = with_tls.then(|| self.connector(parts[5]));
        (connect(parts[3].into(), tls).await, running)
    }

    fn connector(&self, server: &str) -> TlsConnector {
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD_NO_PAD, server)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(der.into()).unwrap();
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![self.certificate.clone()],
                self.key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// A writer that sends its first line to a channel.
struct Line(Option<oneshot::Sender<String>>, Vec<u8>);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(sender) = self.0.take() {
            sender
                .send(String::from_utf8(self.1.clone()).unwrap())
                .unwrap();
        }
        Ok(())
    }
}

async fn connect(socket: PathBuf, tls: Option<TlsConnector>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let (socket, tls) = (socket.clone(), tls.clone());
        async move {
            let stream = UnixStream::connect(socket).await?;
            let stream: Pin<Box<dyn Io>> = match tls {
                Some(tls) => Box::pin(tls.connect("localhost".try_into().unwrap(), stream).await?),
                None => Box::pin(stream),
            };
            io::Result::Ok(hyper_util::rt::TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://plugin")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send> Io for T {}
