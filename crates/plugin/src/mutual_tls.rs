//! The mutual TLS of HashiCorp's plugin system: each side creates a certificate and sends it to the other in advance.
//!
//! Terraform's is self-signed, on P-521 and marked as an authority, so the usual verifier refuses it as a client
//! certificate. Ours accepts exactly that certificate and checks that the client has its key.

use std::sync::Arc;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
        verify_tls13_signature,
    },
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// The name that Terraform expects in a plugin's certificate.
const SERVER_NAME: &str = "localhost";

/// Reason why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Our own certificate cannot be created.
    #[error("failed to make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The configuration is not valid.
    #[error("failed to set up TLS")]
    Setup(#[from] Error),
}

/// Returns the server configuration for one client, and the certificate to send to that client.
pub(super) fn server_for(
    client: CertificateDer<'static>,
) -> Result<(ServerConfig, CertificateDer<'static>), TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (certificate, key) = make_certificate()?;
    let verifier = ExactClient::new(client, &provider);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![certificate.clone()], key)?;
    // Newer versions of gRPC for Go refuse a server that does not negotiate HTTP/2.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((config, certificate))
}

fn make_certificate() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let mut parameters = CertificateParams::new([SERVER_NAME.to_owned()])?;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    Ok((certificate.into(), key.into()))
}

/// Accepts one certificate and no other.
#[derive(Debug)]
struct ExactClient {
    expected: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ExactClient {
    fn new(expected: CertificateDer<'static>, provider: &CryptoProvider) -> Self {
        Self {
            expected,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ClientCertVerifier for ExactClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // A comparison in constant time is not necessary, because certificates are public.
        match end_entity.as_ref() == self.expected.as_ref() {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
