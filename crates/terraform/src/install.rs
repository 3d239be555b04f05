//! Installation of an engine where there is none: a pinned version, whose checksum and publisher's signature are
//! verified.
//!
//! # Source
//! The layout of the publisher's releases site: `<product>/<version>/<product>_<version>_<os>_<arch>.zip` beside
//! `…_SHA256SUMS` and `…_SHA256SUMS.sig`. The version is the one that Coder installs.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_base::{registry::HASHICORP_KEY, stop::Stop};
use outpost_files as files;
use pgp::composed::{Deserializable as _, DetachedSignature, SignedPublicKey};
use semver::Version;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tracing::info;
use url::Url;

/// The version that is downloaded.
pub(crate) const PINNED: Version = Version::new(1, 14, 5);

/// Maximum size of a package, of its executable, and of a list of checksums, in bytes.
const MAX_PACKAGE_BYTES: usize = 256 << 20;
const MAX_BINARY_BYTES: u64 = 512 << 20;
const MAX_LIST_BYTES: usize = 1 << 20;
/// Default of [`Installer::read_timeout`] for downloads.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Source of engines and cache for them.
#[derive(Clone, Debug)]
pub struct Installer {
    /// Cache directory, which is created if it is missing.
    pub cache_dir: PathBuf,
    /// Address of the releases site, or of a mirror of it.
    pub(crate) base_url: Url,
    /// Armored public key of the publisher.
    pub(crate) publisher_key: String,
    /// Time without a byte after which a download counts as dead.
    pub(crate) read_timeout: Duration,
}

/// Reason why no engine was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file cannot be downloaded.
    #[error("failed to download {url}")]
    Download {
        /// Address of the file.
        url: String,
        /// Error from the HTTP client.
        source: reqwest::Error,
    },
    /// A server stopped sending, or did not answer.
    #[error("download of {url} received no data for {after:?}")]
    Stalled {
        /// Address of the file.
        url: String,
        /// Time that we waited.
        after: Duration,
    },
    /// A file exceeds its limit.
    #[error("{url} has more than {limit} bytes")]
    TooLarge {
        /// Address of the file.
        url: String,
        /// Maximum size in bytes.
        limit: usize,
    },
    /// The list of checksums has no valid signature of the publisher.
    #[error("the signature of {url} is not the publisher's")]
    Signature {
        /// Address of the list.
        url: String,
        /// Reason why the signature is not valid.
        source: Box<pgp::errors::Error>,
    },
    /// The package does not match the publisher's checksum.
    #[error("{url} has the checksum {found}, but the publisher signed {wanted}")]
    Checksum {
        /// Address of the package.
        url: String,
        /// Expected checksum; empty if the list does not contain the package.
        wanted: String,
        /// Checksum of the download.
        found: String,
    },
    /// The package contains no engine.
    #[error("{url} has no usable executable")]
    Package {
        /// Address of the package.
        url: String,
        /// Error while unpacking the package.
        source: zip::result::ZipError,
    },
    /// The cache cannot be used.
    #[error("cache directory `{}` cannot be used", .path.display())]
    Cache {
        /// Path of the directory.
        path: PathBuf,
        /// Error from the operating system.
        source: io::Error,
    },
    /// The installation was cancelled.
    #[error("stopped before an engine was downloaded")]
    Stopped,
}

impl InstallError {
    /// Returns a suggestion for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Download { .. } | Self::Stalled { .. } | Self::TooLarge { .. } | Self::Package { .. } => Some(
                "without a network, put `terraform` or `tofu` on PATH, or name one with --engine PATH".to_owned(),
            ),
            Self::Signature { .. } | Self::Checksum { .. } => Some(
                "do not use this file; check for proxies between this machine and the releases site, or name an engine \
                 with --engine PATH"
                    .to_owned(),
            ),
            Self::Cache { path, .. } => Some(format!("make `{}` writable, or choose another cache", path.display())),
            Self::Stopped => None,
        }
    }
}

impl Installer {
    /// Returns an installer that downloads from the publisher.
    pub fn from_publisher(cache_dir: PathBuf) -> Self {
        let base_url = Url::parse("https://releases.hashicorp.com/").expect("the address is valid");
        Self {
            cache_dir,
            base_url,
            publisher_key: HASHICORP_KEY.to_owned(),
            read_timeout: READ_TIMEOUT,
        }
    }

    /// Returns the path of the engine in the cache, which is downloaded if it is missing. Several processes may do
    /// this at once; one of them downloads.
    ///
    /// # Errors
    /// [`InstallError`]; the cache contains the whole engine or none.
    pub async fn install(
        &self,
        client: &reqwest::Client,
        stop: &Stop,
    ) -> Result<PathBuf, InstallError> {
        let unusable = |source| InstallError::Cache {
            path: self.cache_dir.clone(),
            source,
        };
        files::create_private_dir(&self.cache_dir).map_err(unusable)?;
        let binary = self.cache_dir.join(format!("terraform-{PINNED}"));
        let lock = files::Lock::acquire(&self.cache_dir.join("engine.lock"), stop)
            .await
            .map_err(unusable)?;
        let Some(_lock) = lock else {
            return Err(InstallError::Stopped);
        };
        // Another process may have installed it while we waited for the lock.
        if binary.exists() {
            return Ok(binary);
        }
        info!(version = %PINNED, from = %self.base_url, "no engine found; downloading Terraform");
        tokio::select! {
            fetched = self.fetch(client, &binary) => fetched?,
            () = stop.cancelled() => return Err(InstallError::Stopped),
        }
        info!(path = %binary.display(), "downloaded Terraform");
        Ok(binary)
    }

    async fn fetch(&self, client: &reqwest::Client, binary: &Path) -> Result<(), InstallError> {
        let name = format!(
            "terraform_{PINNED}_{}_{}.zip",
            std::env::consts::OS,
            architecture()
        );
        let list_url = self.url(&format!("terraform_{PINNED}_SHA256SUMS"));
        let list = self.download(client, &list_url, MAX_LIST_BYTES).await?;
        let signature_url = self.url(&format!("terraform_{PINNED}_SHA256SUMS.sig"));
        let signature = self
            .download(client, &signature_url, MAX_LIST_BYTES)
            .await?;
        verify(&list, &signature, &self.publisher_key).map_err(|source| {
            InstallError::Signature {
                url: list_url.to_string(),
                source: Box::new(source),
            }
        })?;
        let url = self.url(&name);
        let package = self.download(client, &url, MAX_PACKAGE_BYTES).await?;
        let (wanted, found) = (
            checksum_of(&list, &name),
            hex::encode(Sha256::digest(&package)),
        );
        if wanted.as_deref() != Some(&found) {
            return Err(InstallError::Checksum {
                url: url.to_string(),
                wanted: wanted.unwrap_or_default(),
                found,
            });
        }
        let (binary, cache) = (binary.to_owned(), self.cache_dir.clone());
        let unpacked =
            tokio::task::spawn_blocking(move || unpack(package, &binary, &cache, &url)).await;
        unpacked.unwrap_or_else(|panic| {
            Err(InstallError::Cache {
                path: self.cache_dir.clone(),
                source: io::Error::other(panic),
            })
        })
    }

    async fn download(
        &self,
        client: &reqwest::Client,
        url: &Url,
        limit: usize,
    ) -> Result<Vec<u8>, InstallError> {
        let failed = |source| InstallError::Download {
            url: url.to_string(),
            source,
        };
        let stalled = |_| InstallError::Stalled {
            url: url.to_string(),
            after: self.read_timeout,
        };
        let response = timeout(self.read_timeout, client.get(url.clone()).send()).await;
        let response = response.map_err(stalled)?.map_err(failed)?;
        let mut response = response.error_for_status().map_err(failed)?;
        let mut content = Vec::new();
        loop {
            let chunk = timeout(self.read_timeout, response.chunk()).await;
            let Some(chunk) = chunk.map_err(stalled)?.map_err(failed)? else {
                return Ok(content);
            };
            if content.len() + chunk.len() > limit {
                return Err(InstallError::TooLarge {
                    url: url.to_string(),
                    limit,
                });
            }
            content.extend_from_slice(&chunk);
        }
    }

    fn url(&self, name: &str) -> Url {
        let mut url = self.base_url.clone();
        url.set_path(&format!(
            "{}/terraform/{PINNED}/{name}",
            url.path().trim_end_matches('/')
        ));
        url
    }
}

/// Returns this platform's architecture in the publisher's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// Verifies a detached signature with a key or one of its subkeys.
fn verify(content: &[u8], signature: &[u8], key: &str) -> pgp::errors::Result<()> {
    let (key, _) = SignedPublicKey::from_string(key)?;
    // A subkey counts only if the primary key has signed it.
    key.verify_bindings()?;
    let signature = DetachedSignature::from_bytes(signature)?;
    let by_subkey = || {
        key.public_subkeys
            .iter()
            .any(|subkey| signature.verify(subkey, content).is_ok())
    };
    match signature.verify(&key, content) {
        Err(_) if by_subkey() => Ok(()),
        result => result,
    }
}

/// Returns the checksum of a file in a list of lines such as `HASH  NAME`.
fn checksum_of(list: &[u8], name: &str) -> Option<String> {
    let list = std::str::from_utf8(list).ok()?;
    list.lines().find_map(|line| {
        let (hash, file) = line.split_once("  ")?;
        (file == name).then(|| hash.to_ascii_lowercase())
    })
}

/// Writes the executable to a temporary file and moves it to its path.
fn unpack(package: Vec<u8>, binary: &Path, cache: &Path, url: &Url) -> Result<(), InstallError> {
    let damaged = |source| InstallError::Package {
        url: url.to_string(),
        source,
    };
    let unusable = |source| InstallError::Cache {
        path: cache.to_owned(),
        source,
    };
    let mut archive = zip::ZipArchive::new(io::Cursor::new(package)).map_err(damaged)?;
    let mut entry = archive
        .by_name("terraform")
        .map_err(damaged)?
        .take(MAX_BINARY_BYTES);
    let mut file = tempfile::NamedTempFile::new_in(cache).map_err(unusable)?;
    io::copy(&mut entry, &mut file).map_err(unusable)?;
    file.flush().map_err(unusable)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o755))
        .map_err(unusable)?;
    file.as_file().sync_all().map_err(unusable)?;
    file.persist(binary)
        .map_err(|error| unusable(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests;
