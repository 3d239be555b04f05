use rcgen::{BasicConstraints, IsCa, PKCS_ECDSA_P521_SHA512};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

use super::*;

/// A client like Terraform: P-521, self-signed, an authority.
struct Client {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Client {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        Self {
            certificate: parameters.self_signed(&key).unwrap().into(),
            key,
        }
    }

    fn connect(&self, server: &CertificateDer<'static>, key: &KeyPair) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(server.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let resolver = Unchecked(Arc::new(rustls::sign::CertifiedKey::new(
            vec![self.certificate.clone()],
            aws_lc_rs::sign::any_supported_type(&key).unwrap(),
        )));
        let config = builder.with_client_cert_resolver(Arc::new(resolver));
        ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
    }
}

/// Presents a certificate with any key, even one that does not belong to it.
#[derive(Debug)]
struct Unchecked(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Unchecked {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Transfers bytes both ways until both sides are done; returns the server's error if there is one.
fn handshake(mut client: ClientConnection, config: ServerConfig) -> Result<(), Error> {
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let mut reader = &bytes[..];
        while !reader.is_empty() {
            server.read_tls(&mut reader).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        let mut reader = &bytes[..];
        while !reader.is_empty() {
            client.read_tls(&mut reader).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn terraforms_own_certificate_is_accepted() {
    let terraform = Client::new();
    let (config, server) = server_for(terraform.certificate.clone()).unwrap();

    let done = handshake(terraform.connect(&server, &terraform.key), config);

    assert_eq!(done, Ok(()));
}

#[test]
fn another_certificate_is_refused() {
    let (terraform, other) = (Client::new(), Client::new());
    let (config, server) = server_for(terraform.certificate.clone()).unwrap();

    let done = handshake(other.connect(&server, &other.key), config);

    assert_eq!(
        done,
        Err(CertificateError::ApplicationVerificationFailure.into())
    );
}

#[test]
fn the_right_certificate_without_its_key_is_refused() {
    let (terraform, thief) = (Client::new(), Client::new());
    let (config, server) = server_for(terraform.certificate.clone()).unwrap();

    let done = handshake(terraform.connect(&server, &thief.key), config);

    assert_eq!(done, Err(CertificateError::BadSignature.into()));
}
