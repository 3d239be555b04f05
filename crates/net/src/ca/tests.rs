use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
    pem::PemObject as _,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

struct Site {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Site {
    fn new(permitted: &[&str]) -> Self {
        crate::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let permitted: Vec<_> = permitted.iter().map(|one| (*one).to_owned()).collect();
        let path = dir.path().join("ca");
        let authority = Authority::create(&path, "Example CA", &permitted, now()).unwrap();
        Self { dir, authority }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    fn issue(&mut self, name: &str, role: Role, hosts: &[&str]) -> Result<Entry, CaError> {
        let request = Request {
            name: name.to_owned(),
            role,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            certificate: None,
            key: None,
        };
        self.authority.issue(request, now())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(root_file(&self.path())).unwrap();
        roots.add(root).unwrap();
        Arc::new(roots)
    }

    fn revoked(&self) -> CertificateRevocationListDer<'static> {
        CertificateRevocationListDer::from_pem_file(revoked_file(&self.path())).unwrap()
    }

    /// Verifies a certificate as a rustls client that has the list of revoked certificates does.
    fn as_server(
        &self,
        leaf: &CertificateDer<'_>,
        host: &str,
        at: Timestamp,
    ) -> Result<(), String> {
        let builder = WebPkiServerVerifier::builder(self.roots());
        let verifier = builder.with_crls([self.revoked()]).build().unwrap();
        let host = ServerName::try_from(host).unwrap();
        let verified = verifier.verify_server_cert(leaf, &[], &host, &[], unix(at));
        verified.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Verifies a certificate as a rustls server that requires client certificates does.
    fn as_client(&self, leaf: &CertificateDer<'_>, at: Timestamp) -> Result<(), String> {
        let builder = WebPkiClientVerifier::builder(self.roots());
        let verifier = builder.with_crls([self.revoked()]).build().unwrap();
        let verified = verifier.verify_client_cert(leaf, &[], unix(at));
        verified.map(|_| ()).map_err(|error| error.to_string())
    }
}

fn unix(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().try_into().unwrap()))
}

fn leaf(entry: &Entry) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&entry.certificate).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_certificate_is_good_for_its_hosts_its_use_and_ninety_days() {
    let mut site = Site::new(&[]);
    let mirror = site.issue(
        "mirror",
        Role::Mirror,
        &["mirror.example", "*.lab.example", "10.0.0.7"],
    );
    let mirror = leaf(&mirror.unwrap());
    let daemon = leaf(&site.issue("build-1", Role::Daemon, &[]).unwrap());
    let relay = leaf(&site.issue("relay", Role::Relay, &["::1"]).unwrap());

    for host in ["mirror.example", "a.lab.example", "10.0.0.7"] {
        assert_eq!(site.as_server(&mirror, host, now()), Ok(()), "{host}");
    }
    assert_eq!(site.as_server(&relay, "::1", now()), Ok(()));
    assert_eq!(site.as_client(&relay, now()), Ok(()));
    assert_eq!(site.as_client(&daemon, now()), Ok(()));
    let early = now() - DAY / 48;
    assert_eq!(site.as_server(&mirror, "a.lab.example", early), Ok(()));
    assert_eq!(
        site.as_server(&mirror, "a.lab.example", now() + 89 * DAY),
        Ok(())
    );

    for (what, refused, reason) in [
        (
            "another host",
            site.as_server(&mirror, "other.example", now()),
            "not valid for name",
        ),
        (
            "too late",
            site.as_server(&mirror, "a.lab.example", now() + 91 * DAY),
            "expired",
        ),
        (
            "another use",
            site.as_client(&mirror, now()),
            "does not allow extended key usage",
        ),
        (
            "another use",
            site.as_server(&daemon, "build-1", now()),
            "does not allow extended key usage",
        ),
    ] {
        let error = refused.unwrap_err();
        assert!(error.to_lowercase().contains(reason), "{what}: {error}");
    }
}

#[test]
fn a_limited_authority_is_believed_for_nothing_else() {
    let mut site = Site::new(&["corp.example"]);
    let error = site
        .issue("other", Role::Mirror, &["mirror.example"])
        .unwrap_err();
    assert!(
        error.to_string().contains("only for corp.example"),
        "{error}"
    );
    let error = site
        .issue("other", Role::Mirror, &["10.0.0.1"])
        .unwrap_err();
    assert!(matches!(error, CaError::NotPermitted { .. }), "{error}");

    // As if its key were stolen: clients enforce the limits as well.
    site.authority.ledger.permitted.clear();
    let good = leaf(
        &site
            .issue("good", Role::Mirror, &["a.corp.example"])
            .unwrap(),
    );
    let stolen = leaf(
        &site
            .issue("stolen", Role::Mirror, &["mirror.example"])
            .unwrap(),
    );
    let address = leaf(&site.issue("address", Role::Mirror, &["10.0.0.1"]).unwrap());

    assert_eq!(site.as_server(&good, "a.corp.example", now()), Ok(()));
    assert!(site.as_server(&stolen, "mirror.example", now()).is_err());
    assert!(site.as_server(&address, "10.0.0.1", now()).is_err());
}

#[test]
fn a_renewed_certificate_has_the_same_key_and_a_later_end() {
    let mut site = Site::new(&[]);
    let first = site.issue("mirror", Role::Mirror, &[]).unwrap();
    let key = fs::read(&first.key).unwrap();
    let later = now() + 70 * DAY;
    drop(site.authority);
    site.authority = Authority::open(&site.dir.path().join("ca")).unwrap();

    assert!(site.authority.due(30 * DAY, now()).is_empty());
    assert_eq!(site.authority.due(30 * DAY, later), ["mirror"]);
    let second = site.authority.renew("mirror", later).unwrap();

    assert!(site.authority.due(30 * DAY, later).is_empty());
    assert_ne!(first.serial, second.serial);
    assert_eq!(fs::read(&second.key).unwrap(), key);
    let at = now() + 150 * DAY;
    assert_eq!(site.as_server(&leaf(&second), "mirror", at), Ok(()));
    assert_eq!(list(&site.path()).unwrap(), [first, second]);
}

#[test]
fn a_revoked_certificate_is_refused_by_who_reads_the_list() {
    let mut site = Site::new(&[]);
    let first = site.issue("mirror", Role::Mirror, &[]).unwrap();
    let first_leaf = leaf(&first);
    let second_leaf = leaf(&site.authority.renew("mirror", now() + DAY).unwrap());
    let other = leaf(&site.issue("other", Role::Mirror, &[]).unwrap());
    let at = now() + 2 * DAY;
    assert_eq!(site.as_server(&second_leaf, "mirror", at), Ok(()));

    site.authority.revoke("mirror", at).unwrap();

    for revoked in [&first_leaf, &second_leaf] {
        let error = site.as_server(revoked, "mirror", at).unwrap_err();
        assert!(error.to_lowercase().contains("revoked"), "{error}");
    }
    assert_eq!(site.as_server(&other, "other", at), Ok(()));
    assert!(!first.key.exists());
    let error = site.authority.renew("mirror", at).unwrap_err();
    assert!(matches!(error, CaError::Unknown(_)), "{error}");
    let again = leaf(&site.issue("mirror", Role::Mirror, &[]).unwrap());
    assert_eq!(site.as_server(&again, "mirror", at), Ok(()));
}

#[test]
fn only_the_owner_reads_keys_and_nobody_takes_their_place() {
    let mut site = Site::new(&[]);
    let entry = site.issue("mirror", Role::Mirror, &[]).unwrap();

    let path = site.path();
    assert_eq!(mode(&path), 0o700);
    for private in [
        entry.key.clone(),
        path.join("root.key"),
        path.join("ledger.json"),
    ] {
        assert_eq!(mode(&private), 0o600, "{}", private.display());
    }
    assert_eq!(mode(&entry.certificate), 0o644);
    assert!(PrivateKeyDer::from_pem_file(&entry.key).is_ok());

    let taken = site.issue("mirror", Role::Mirror, &[]).unwrap_err();
    assert!(matches!(taken, CaError::Taken(_)), "{taken}");
    fs::write(path.join("other.key"), "somebody's").unwrap();
    let exists = site.issue("other", Role::Mirror, &[]).unwrap_err();
    assert!(matches!(exists, CaError::KeyExists(_)), "{exists}");
    assert_eq!(fs::read(path.join("other.key")).unwrap(), b"somebody's");
    let busy = Authority::open(&path).err().unwrap();
    assert!(matches!(busy, CaError::Busy(_)), "{busy}");
    drop(site.authority);
    let second = Authority::create(&path, "Another", &[], now())
        .err()
        .unwrap();
    assert!(matches!(second, CaError::Exists(_)), "{second}");
}

#[test]
fn nothing_outlives_its_authority() {
    let mut site = Site::new(&[]);
    site.issue("mirror", Role::Mirror, &[]).unwrap();
    let nearly = now() + ROOT - 10 * DAY;

    let last = site.authority.renew("mirror", nearly).unwrap();
    assert_eq!(last.ends, now() + ROOT);
    let error = site.authority.renew("mirror", now() + ROOT).unwrap_err();
    assert!(matches!(error, CaError::Ended(_)), "{error}");
}
