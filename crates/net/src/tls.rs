//! TLS of clients: trusted authorities, and our own certificate.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};

use super::certificate;

/// Trust of a client, and its identity. The default trusts the system's authorities and has no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// File with authorities that replace the system's, in PEM.
    pub only: Option<PathBuf>,
    /// Files with authorities in addition to the system's, in PEM.
    pub extra: Vec<PathBuf>,
    /// File with lists of revoked certificates, in PEM. It is read again when it changes.
    pub revoked: Option<PathBuf>,
    /// Certificate of our own, read again at every handshake that asks for it.
    pub identity: Option<Identity>,
}

/// Files of a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Path of our certificate and its chain, in PEM.
    pub certificate: PathBuf,
    /// Path of its private key, in PEM.
    pub key: PathBuf,
}

/// Reasons why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or lacks its content.
    #[error("failed to read {what} from `{}`", .path.display())]
    File {
        /// Expected content of the file.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Reason why it cannot be used.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate or key that cannot be used.
    #[error("certificate in `{}` cannot be used; make sure that it belongs to its key", .path.display())]
    Unusable {
        /// Path of its file.
        path: PathBuf,
        /// Error of the TLS library.
        source: Error,
    },
    /// A system without authorities, so that no server could be trusted.
    #[error(
        "system has no certificate authorities; install `ca-certificates`, or name a file of authorities"
    )]
    NoAuthorities,
    /// Authorities that cannot be used.
    #[error("certificate authorities cannot be used")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// A lack of TLS versions that fit our cryptography.
    #[error("TLS cannot be set up")]
    Setup(#[from] Error),
}

/// Returns a configuration for TLS 1.2 and later. Its errors name the certificate that was refused.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, TlsError> {
    let verifier = verifier(trust)?;
    let provider = CryptoProvider::get_default().expect("the verifier was made with it");
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            load(identity)?; // Fails now rather than at the first connection.
            builder.with_client_cert_resolver(Arc::new(FromFiles(identity.clone())))
        }
    };
    if trust.revoked.is_some() {
        // A resumed session would not present the certificate again.
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

/// Returns the verifier of servers' certificates, for callers with a configuration of their own.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn verifier(trust: &Trust) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    super::install_crypto_provider();
    let verifier = Believing::new(Arc::new(authorities(trust)?), trust.revoked.clone())?;
    Ok(Arc::new(Naming(verifier)))
}

/// Returns a configuration for connections without TLS: should there be one with it, it is refused.
pub(super) fn trusting_nobody() -> ClientConfig {
    super::install_crypto_provider();
    ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

fn authorities(trust: &Trust) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match &trust.only {
        Some(path) => add_file(&mut store, path)?,
        None => {
            // Unparsable files in the system's directory are ignored.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    for path in &trust.extra {
        add_file(&mut store, path)?;
    }
    if store.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    Ok(store)
}

fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    for certificate in certificates(path)? {
        store
            .add(certificate)
            .map_err(|source| TlsError::Unusable {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const WHAT: &str = "certificates";
    let text = fs::read(path).map_err(|error| unreadable(WHAT, path, error))?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unreadable(WHAT, path, error))?;
    if found.is_empty() {
        return Err(unreadable(WHAT, path, pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn load(identity: &Identity) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(&identity.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|error| unreadable("a private key", &identity.key, error))?;
    let provider = CryptoProvider::get_default().expect("it is installed before any handshake");
    CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Unusable {
        path: identity.certificate.clone(),
        source,
    })
}

fn unreadable(
    what: &'static str,
    path: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> TlsError {
    TlsError::File {
        what,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Certificate of our own, read from its files for each handshake, so that it can be renewed without a restart.
#[derive(Debug)]
struct FromFiles(Identity);

impl ResolvesClientCert for FromFiles {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match load(&self.0) {
            Ok(key) => Some(Arc::new(key)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "continuing without a client certificate");
                None
            }
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Refusal of a server's certificate, with its names: most often something in between replaced it.
#[derive(Debug, thiserror::Error)]
#[error("certificate of {} is refused (subject `{subject}`, issuer `{issuer}`): {reason}{}", .server.to_str(), advice(.reason))]
struct Refused {
    server: ServerName<'static>,
    subject: String,
    issuer: String,
    reason: Error,
}

/// Returns why a server's certificate was refused, if an error is about that: until somebody changes something, it
/// will be refused again.
pub fn refused_certificate(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    links(error).find_map(|link| match link.downcast_ref::<Error>()? {
        Error::Other(other) => Some(other.0.downcast_ref::<Refused>()?.to_string()),
        error @ Error::InvalidCertificate(_) => Some(error.to_string()),
        _ => None,
    })
}

/// Returns an error and its sources, including those inside of I/O errors.
pub(super) fn links<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |link| {
        match link
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref())
        {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => link.source(),
        }
    })
}

fn advice(reason: &Error) -> &'static str {
    match reason {
        Error::InvalidCertificate(CertificateError::Revoked) => {
            "; its authority revoked it, so ask whoever runs the server for a new one"
        }
        _ => "; if the issuer is yours, name its certificate with `--ca-file`",
    }
}

/// Usual verification, with an error that names the certificate.
#[derive(Debug)]
struct Naming(Believing);

/// Usual verification, with the newest list of revoked certificates.
///
/// Certificates of authorities that have no list there are believed as without one, and so are they when a list is past
/// its time: sites without a network have no other one.
#[derive(Debug)]
struct Believing {
    authorities: Arc<RootCertStore>,
    revoked: Option<PathBuf>,
    current: Mutex<(Option<SystemTime>, Arc<WebPkiServerVerifier>)>,
}

impl Believing {
    fn new(authorities: Arc<RootCertStore>, revoked: Option<PathBuf>) -> Result<Self, TlsError> {
        let changed = changed(revoked.as_deref());
        let verifier = usual(&authorities, revoked.as_deref())?;
        Ok(Self {
            authorities,
            revoked,
            current: Mutex::new((changed, verifier)),
        })
    }

    /// Returns the current verifier. While somebody writes a new list, or if it cannot be read, the old one is used.
    fn current(&self) -> Arc<WebPkiServerVerifier> {
        let changed = changed(self.revoked.as_deref());
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != changed {
            match usual(&self.authorities, self.revoked.as_deref()) {
                Ok(verifier) => *current = (changed, verifier),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "cannot use the new certificate revocation list; keeping the old one"
                    );
                }
            }
        }
        Arc::clone(&current.1)
    }
}

/// Returns when a file changed; `None` for one that does not exist now.
fn changed(file: Option<&Path>) -> Option<SystemTime> {
    file.and_then(|path| path.metadata().ok()?.modified().ok())
}

fn usual(
    authorities: &Arc<RootCertStore>,
    revoked: Option<&Path>,
) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let provider = CryptoProvider::get_default().expect("it is installed before any verifier");
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(provider));
    let Some(path) = revoked else {
        return Ok(builder.build()?);
    };
    const WHAT: &str = "lists of revoked certificates";
    let text = fs::read(path).map_err(|error| unreadable(WHAT, path, error))?;
    let lists: Result<Vec<_>, pem::Error> =
        CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let lists = lists.map_err(|error| unreadable(WHAT, path, error))?;
    if lists.is_empty() {
        return Err(unreadable(WHAT, path, pem::Error::NoItemsFound));
    }
    let builder = builder.with_crls(lists).allow_unknown_revocation_status();
    builder
        .build()
        .map_err(|error| unreadable(WHAT, path, error))
}

impl ServerCertVerifier for Naming {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.0
                .current()
                .verify_server_cert(end_entity, intermediates, server, ocsp, now);
        verified.map_err(|reason| {
            let Some(names) = certificate::names(end_entity) else {
                return reason;
            };
            Error::Other(OtherError(Arc::new(Refused {
                server: server.to_owned(),
                subject: names.subject,
                issuer: names.issuer,
                reason,
            })))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .current()
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .current()
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.current().supported_verify_schemes()
    }
}
