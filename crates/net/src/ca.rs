//! Certificate authority of a site: issues certificates for services, renews them, and revokes them.
//!
//! Its files are in one directory: `root.pem` is the certificate that clients trust, `root.key` its secret key,
//! `ledger.json` lists every certificate that was ever issued, and `revoked.pem` the revoked ones.

mod names;
mod x509;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use outpost_files as files;
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};

/// Ten years: everybody who trusts an authority has to be told about a new one when it ends.
const ROOT: Duration = Duration::from_secs(3653 * 24 * 60 * 60);

/// Ninety days: a stolen key is soon worthless, and an operator who forgot to renew notices early.
const LEAF: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A week, for certificates that nobody can revoke.
const STAND_IN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A mirror: it answers.
    Mirror,
    /// A control plane: it answers.
    Server,
    /// A relay: it answers and calls others.
    Relay,
    /// A daemon: it calls.
    Daemon,
}

/// An issued certificate in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of the certificate, unique among the valid ones.
    pub name: String,
    /// Purpose of the certificate.
    pub role: Role,
    /// Host names and addresses that it is valid for.
    pub hosts: Vec<String>,
    /// Serial number in hexadecimal digits.
    pub serial: String,
    /// Time when it was issued.
    pub issued: Timestamp,
    /// Time when it expires.
    pub ends: Timestamp,
    /// Time when it was revoked; `None` if it was not.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
    /// Path of the certificate's file.
    pub certificate: PathBuf,
    /// Path of its private key.
    pub key: PathBuf,
}

impl Entry {
    /// Returns whether it can still be renewed: it is the newest of its name, and nobody has revoked it.
    fn is_good(&self) -> bool {
        self.revoked.is_none()
    }
}

/// Ledger of an authority: its limits, and all certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    name: String,
    serial: String,
    created: Timestamp,
    ends: Timestamp,
    permitted: Vec<String>,
    list_number: u64,
    certificates: Vec<Entry>,
}

/// Request for a certificate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the certificate.
    pub name: String,
    /// Purpose of the certificate.
    pub role: Role,
    /// Host names and addresses; if empty, the certificate's name.
    pub hosts: Vec<String>,
    /// Path for the certificate; `None` for a file in the authority's directory.
    pub certificate: Option<PathBuf>,
    /// Path for its key; `None` for a file in the authority's directory.
    pub key: Option<PathBuf>,
}

/// Reasons why an authority refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// An operation that the system refused.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// Operation that failed, such as `read`.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A certificate that was just issued and cannot be used.
    #[error("failed to use a certificate")]
    Tls(#[source] rustls::Error),
    /// A directory without an authority.
    #[error("`{}` has no certificate authority: create one with `outpost ca init`", .0.display())]
    Missing(PathBuf),
    /// A directory that already contains an authority.
    #[error("`{}` already has a certificate authority, and its clients would not trust a new one: choose another directory", .0.display())]
    Exists(PathBuf),
    /// An authority that another command is using.
    #[error("another command is changing the certificate authority in `{}`: try again", .0.display())]
    Busy(PathBuf),
    /// A ledger that is damaged.
    #[error("`{}` is not the ledger of a certificate authority: restore it from a backup", path.display())]
    Ledger {
        /// Path of the ledger.
        path: PathBuf,
        /// Error of the JSON parser.
        source: serde_json::Error,
    },
    /// A serial number that is damaged.
    #[error("`{0}` is not a serial number: restore the authority's `ledger.json` from a backup")]
    Serial(String),
    /// A text that cannot be a certificate's name.
    #[error(
        "`{0}` cannot be a certificate's name: use up to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`"
    )]
    Name(String),
    /// A text that is neither a host name nor an address.
    #[error("`{0}` is neither an address nor the name of a host")]
    Host(String),
    /// A text that is neither a domain nor a network.
    #[error("`{0}` is neither a domain nor a net such as 10.0.0.0/8")]
    Permission(String),
    /// A host outside of the limits that the authority was created with.
    #[error("this certificate authority cannot issue certificates for `{host}`, only for {}", permitted.join(", "))]
    NotPermitted {
        /// Host that was requested.
        host: String,
        /// Limits of the authority.
        permitted: Vec<String>,
    },
    /// A name that another valid certificate has.
    #[error("there is already a certificate `{0}`: renew it, or revoke it first")]
    Taken(String),
    /// A key file that exists already.
    #[error("`{}` already exists, and keys are never overwritten: choose another file", .0.display())]
    KeyExists(PathBuf),
    /// A name without a valid certificate.
    #[error("there is no valid certificate `{0}`: `outpost ca list` shows all certificates")]
    Unknown(String),
    /// An authority whose own certificate has expired.
    #[error("the certificate authority expired at {0}: create a new one in another directory")]
    Ended(Timestamp),
    /// A failure to create a certificate.
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
}

impl CaError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Lists all certificates that an authority issued, the oldest first. Needs no write permission.
///
/// # Errors
/// [`CaError::Missing`], or the error of its ledger.
pub fn list(dir: &Path) -> Result<Vec<Entry>, CaError> {
    read_ledger(dir).map(|ledger| ledger.certificates)
}

/// Path of the certificate that clients trust.
pub fn root_file(dir: &Path) -> PathBuf {
    dir.join("root.pem")
}

/// Path of the list of revoked certificates.
pub(crate) fn revoked_file(dir: &Path) -> PathBuf {
    dir.join("revoked.pem")
}

/// Authority that this process uses exclusively.
pub struct Authority {
    dir: PathBuf,
    ledger: Ledger,
    signer: x509::Signer,
    _lock: files::Lock,
}

impl Authority {
    /// Creates an authority called `name`. If there are limits, clients trust it only for those domains and networks.
    ///
    /// # Errors
    /// [`CaError::Exists`], [`CaError::Permission`], or an I/O error.
    pub fn create(
        dir: &Path,
        name: &str,
        permitted: &[String],
        now: Timestamp,
    ) -> Result<Self, CaError> {
        if let Some(bad) = permitted.iter().find(|one| !names::is_permission(one)) {
            return Err(CaError::Permission(bad.clone()));
        }
        files::create_private_dir(dir).map_err(CaError::io("make", dir))?;
        let lock = lock(dir)?;
        if ledger_file(dir).exists() {
            return Err(CaError::Exists(dir.to_owned()));
        }
        let ledger = Ledger {
            name: name.to_owned(),
            serial: fresh_serial(),
            created: now,
            ends: now + ROOT,
            permitted: permitted.to_vec(),
            list_number: 0,
            certificates: Vec::new(),
        };
        let key = KeyPair::generate()?;
        write_private(&dir.join("root.key"), &key.serialize_pem())?;
        write_public(&root_file(dir), &x509::root(&ledger, &key)?.pem())?;
        let mut authority = Self {
            dir: dir.to_owned(),
            signer: x509::signer(&ledger, key)?,
            ledger,
            _lock: lock,
        };
        authority.publish_revoked(now)?; // The ledger comes last: before it, there is no authority.
        Ok(authority)
    }

    /// Opens the authority in a directory.
    ///
    /// # Errors
    /// [`CaError::Missing`], [`CaError::Busy`], or the error of one of its files.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        read_ledger(dir)?; // Fails before the lock file is created.
        let lock = lock(dir)?;
        let ledger = read_ledger(dir)?;
        let path = dir.join("root.key");
        let key = fs::read_to_string(&path).map_err(CaError::io("read", &path))?;
        Ok(Self {
            dir: dir.to_owned(),
            signer: x509::signer(&ledger, KeyPair::from_pem(&key)?)?,
            ledger,
            _lock: lock,
        })
    }

    /// Issues a certificate with a key of its own.
    ///
    /// # Errors
    /// [`CaError`] names what is wrong with the request.
    pub fn issue(&mut self, request: Request, now: Timestamp) -> Result<Entry, CaError> {
        let Request { name, role, .. } = request;
        if !names::is_name(&name) {
            return Err(CaError::Name(name));
        }
        if self.find(&name).is_ok() {
            return Err(CaError::Taken(name));
        }
        let hosts = match request.hosts {
            none if none.is_empty() => vec![name.clone()],
            hosts => hosts,
        };
        for host in &hosts {
            self.check_host(host)?;
        }
        let own = |suffix: &str| self.dir.join(format!("{name}.{suffix}"));
        let entry = Entry {
            role,
            hosts,
            serial: fresh_serial(),
            issued: now,
            ends: self.end(now)?,
            revoked: None,
            certificate: request.certificate.unwrap_or_else(|| own("pem")),
            key: request.key.unwrap_or_else(|| own("key")),
            name,
        };
        let key = KeyPair::generate()?;
        let certificate = x509::leaf(&entry, &key, &self.signer)?;
        let is_new = files::write_private_new(&entry.key, key.serialize_pem().as_bytes());
        if !is_new.map_err(CaError::io("write", &entry.key))? {
            return Err(CaError::KeyExists(entry.key));
        }
        // From here on the certificate is in the ledger, so that it can be revoked even if the next step fails.
        self.ledger.certificates.push(entry.clone());
        self.write_ledger()?;
        write_public(&entry.certificate, &certificate.pem())?;
        Ok(entry)
    }

    /// Returns the configuration of a server that answers for `host` for a week, with a certificate that is not in
    /// the ledger: for a proxy that impersonates `host`.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn impersonate(&self, host: &str, now: Timestamp) -> Result<ServerConfig, CaError> {
        self.check_host(host)?;
        let key = KeyPair::generate()?;
        let entry = Entry {
            name: host.to_owned(),
            role: Role::Mirror,
            hosts: vec![host.to_owned()],
            serial: fresh_serial(),
            issued: now,
            ends: self.end(now)?.min(now + STAND_IN),
            revoked: None,
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        };
        let certificate = x509::leaf(&entry, &key, &self.signer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .map_err(CaError::Tls)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Replaces a certificate by a new one for the same key and names.
    ///
    /// The key stays the same, so that a single file changes and nobody can read a certificate that does not match
    /// the key.
    ///
    /// # Errors
    /// [`CaError::Unknown`], [`CaError::Ended`], or the error of one of the files.
    pub fn renew(&mut self, name: &str, now: Timestamp) -> Result<Entry, CaError> {
        let place = self.find(name)?;
        let old = &self.ledger.certificates[place];
        let renewed = Entry {
            serial: fresh_serial(),
            issued: now,
            ends: self.end(now)?,
            ..old.clone()
        };
        let key = fs::read_to_string(&renewed.key).map_err(CaError::io("read", &renewed.key))?;
        let certificate = x509::leaf(&renewed, &KeyPair::from_pem(&key)?, &self.signer)?;
        self.ledger.certificates.push(renewed.clone());
        self.publish_revoked(now)?;
        write_public(&renewed.certificate, &certificate.pem())?;
        Ok(renewed)
    }

    /// Names of certificates that expire within this time.
    pub fn due(&self, within: Duration, now: Timestamp) -> Vec<String> {
        let names = self.ledger.certificates.iter().map(|entry| &entry.name);
        let unique: std::collections::BTreeSet<_> = names.collect();
        let ends_soon = |name: &&&String| {
            let newest = self
                .find(name)
                .map(|place| &self.ledger.certificates[place]);
            newest.is_ok_and(|newest| newest.ends <= now + within)
        };
        unique
            .iter()
            .filter(ends_soon)
            .map(|name| (*name).clone())
            .collect()
    }

    /// Revokes all certificates of a name. Their key is not used again.
    ///
    /// # Errors
    /// [`CaError::Unknown`], or an I/O error.
    pub fn revoke(&mut self, name: &str, now: Timestamp) -> Result<Entry, CaError> {
        let place = self.find(name)?;
        let all = self.ledger.certificates.iter_mut();
        for entry in all.filter(|entry| entry.name == name && entry.is_good()) {
            entry.revoked = Some(now);
        }
        self.publish_revoked(now)?;
        let revoked = self.ledger.certificates[place].clone();
        for path in [&revoked.certificate, &revoked.key] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CaError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(revoked)
    }

    /// Finds the newest valid certificate of a name.
    fn find(&self, name: &str) -> Result<usize, CaError> {
        let all = &self.ledger.certificates;
        let newest = all
            .iter()
            .rposition(|entry| entry.name == name && entry.is_good());
        newest.ok_or_else(|| CaError::Unknown(name.to_owned()))
    }

    fn check_host(&self, host: &str) -> Result<(), CaError> {
        let permitted = &self.ledger.permitted;
        match names::is_host(host) {
            false => Err(CaError::Host(host.to_owned())),
            true if names::is_permitted(host, permitted) => Ok(()),
            true => Err(CaError::NotPermitted {
                host: host.to_owned(),
                permitted: permitted.clone(),
            }),
        }
    }

    /// Returns when a certificate that begins now expires: none outlives its authority.
    fn end(&self, now: Timestamp) -> Result<Timestamp, CaError> {
        match self.ledger.ends {
            ends if ends <= now => Err(CaError::Ended(ends)),
            ends => Ok(ends.min(now + LEAF)),
        }
    }

    fn publish_revoked(&mut self, now: Timestamp) -> Result<(), CaError> {
        self.ledger.list_number += 1;
        let list = x509::revoked(&self.ledger, &self.signer, now)?;
        self.write_ledger()?;
        write_public(&revoked_file(&self.dir), &list)
    }

    fn write_ledger(&self) -> Result<(), CaError> {
        let text = serde_json::to_string_pretty(&self.ledger);
        let text = text.expect("names, numbers and paths of our own are valid JSON");
        write_private(&ledger_file(&self.dir), &text)
    }
}

fn ledger_file(dir: &Path) -> PathBuf {
    dir.join("ledger.json")
}

fn read_ledger(dir: &Path) -> Result<Ledger, CaError> {
    let path = ledger_file(dir);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CaError::Missing(dir.to_owned()));
        }
        text => text.map_err(CaError::io("read", &path))?,
    };
    serde_json::from_str(&text).map_err(|source| CaError::Ledger { path, source })
}

fn lock(dir: &Path) -> Result<files::Lock, CaError> {
    let path = dir.join("lock");
    let lock = files::Lock::try_acquire(&path).map_err(CaError::io("lock", &path))?;
    lock.ok_or_else(|| CaError::Busy(dir.to_owned()))
}

fn write_private(path: &Path, text: &str) -> Result<(), CaError> {
    files::write_private(path, text.as_bytes()).map_err(CaError::io("write", path))
}

/// Writes a file that everybody can read: certificates are no secret, and services of other users read them.
fn write_public(path: &Path, text: &str) -> Result<(), CaError> {
    files::write_public(path, text.as_bytes()).map_err(CaError::io("write", path))
}

/// Returns 127 random bits as a positive number, as RFC 5280 requires.
fn fresh_serial() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    hex::encode(bytes)
}

#[cfg(test)]
mod tests;
