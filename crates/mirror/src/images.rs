//! Container images: from registries into the store, byte for byte, and from the store into a site's registry.
//!
//! An image is named by its digest, so nobody on the way can replace it. An index is stored complete, with all its
//! platforms, because a registry may refuse one whose parts it does not have.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use http::HeaderValue;
use oci_client::{
    Client, Reference,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    manifest::OciDescriptor,
    secrets::RegistryAuth,
};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::{
    Digest, Store, StoreError,
    fetch::{Watch, blocking},
    generation::{Image, ImageBlob, ImageManifest},
};

/// Maximum size of a manifest in bytes; registries accept four million.
const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Maximum number of manifests of an image, and of files of all of them.
const MAX_PARTS: usize = 4096;
/// Time limit for a manifest, and for the next bytes of a file.
const PATIENCE: Duration = Duration::from_secs(60);

/// Media types of manifests that are accepted.
const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Reason why an image is not fetched or pushed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A text is not the name of an image with a digest.
    #[error("`{0}` is not an image with a digest: write it as REGISTRY/REPOSITORY@sha256:…")]
    Reference(String),
    /// A request to the registry failed.
    #[error("{what} of {image}")]
    Registry {
        /// Purpose of the request.
        what: &'static str,
        /// Name of the image.
        image: String,
        /// Error from the registry client.
        source: Box<OciDistributionError>,
    },
    /// The registry did not answer in time.
    #[error("{what} of {image}: no answer from the registry for {PATIENCE:?}")]
    Silent {
        /// Purpose of the request.
        what: &'static str,
        /// Name of the image.
        image: String,
    },
    /// The content does not match its digest, or is not that of an image.
    #[error("{image} is refused: {why}")]
    Invalid {
        /// Name of the image.
        image: String,
        /// Problem with the content.
        why: String,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Client of container registries.
#[derive(Clone)]
pub struct Registry {
    client: Client,
    auth: RegistryAuth,
}

/// Credentials and trust for registries.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// User name and password, if the registry requires them.
    pub login: Option<(String, outpost_base::secret::Secret)>,
    /// Authorities in addition to the system's, in PEM.
    pub authorities: Vec<Vec<u8>>,
    /// `true` for HTTP without TLS.
    pub is_plain: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    size: u64,
    /// Addresses of layers that are on a web server instead of the registry.
    #[serde(default)]
    urls: Vec<String>,
}

impl Registry {
    /// Returns a client that has sent no request.
    pub fn new(access: Access) -> Self {
        outpost_net::install_crypto_provider();
        let certificate = |data: Vec<u8>| Certificate {
            encoding: CertificateEncoding::Pem,
            data,
        };
        let protocol = match access.is_plain {
            true => ClientProtocol::Http,
            false => ClientProtocol::Https,
        };
        let config = ClientConfig {
            protocol,
            use_monolithic_push: true, // Some registries support no chunked uploads.
            extra_root_certificates: access.authorities.into_iter().map(certificate).collect(),
            connect_timeout: Some(Duration::from_secs(10)),
            read_timeout: Some(PATIENCE),
            user_agent: concat!("outpost/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Self {
            client: Client::new(config),
            auth: match access.login {
                Some((name, password)) => RegistryAuth::Basic(name, password.expose().to_owned()),
                None => RegistryAuth::Anonymous,
            },
        }
    }

    /// Fetches what the store lacks of the image `name`, and returns its parts.
    ///
    /// # Errors
    /// [`ImageError`]; what was fetched stays in the store.
    pub async fn fetch(
        &self,
        name: &str,
        store: &Store,
        watch: &Arc<dyn Watch>,
    ) -> Result<Image, ImageError> {
        let reference = parse(name)?;
        let mut image = Image {
            reference: name.to_owned(),
            manifests: Vec::new(),
            blobs: Vec::new(),
        };
        let digest = reference.digest().unwrap_or_default().to_owned();
        let top = self.manifest(&reference, &digest, store).await?;
        let parts = match top.manifests.is_empty() {
            true => vec![(top, digest)],
            false => {
                if top.manifests.len() > MAX_PARTS {
                    return Err(invalid(name, "it lists too many manifests"));
                }
                let mut parts = Vec::new();
                for part in &top.manifests {
                    let manifest = self.manifest(&reference, &part.digest, store).await?;
                    parts.push((manifest, part.digest.clone()));
                }
                parts.push((top, digest));
                parts
            }
        };
        let mut blobs: BTreeSet<(String, u64)> = BTreeSet::new();
        for (manifest, digest) in parts {
            // The field is optional in OCI's manifests.
            let media_type = manifest.media_type.as_deref();
            image.manifests.push(ImageManifest {
                digest: sha256(name, &digest)?,
                media_type: media_type.unwrap_or(MEDIA_TYPES[1]).to_owned(),
            });
            let files = manifest.config.iter().chain(&manifest.layers);
            let files = files.filter(|file| file.urls.is_empty());
            blobs.extend(files.map(|file| (file.digest.clone(), file.size)));
        }
        if blobs.len() > MAX_PARTS {
            return Err(invalid(name, "it has too many layers"));
        }
        for (text, size) in blobs {
            let digest = sha256(name, &text)?;
            if !store.has(digest) {
                self.blob(&reference, digest, size, store, watch).await?;
            }
            image.blobs.push(ImageBlob { digest, size });
        }
        Ok(image)
    }

    /// Returns a manifest from the store, or fetches it into the store.
    async fn manifest(
        &self,
        image: &Reference,
        digest: &str,
        store: &Store,
    ) -> Result<Manifest, ImageError> {
        let (name, wanted) = (image.to_string(), sha256(&image.to_string(), digest)?);
        let what = "fetch a manifest";
        let part = image.clone_with_digest(digest.to_owned());
        let pulled = self
            .client
            .pull_manifest_raw(&part, &self.auth, &MEDIA_TYPES);
        let (content, _) = waited(what, &name, pulled).await?;
        if content.len() > MAX_MANIFEST_BYTES {
            return Err(invalid(&name, "a manifest has more than 4 MiB"));
        }
        if Digest::of(&content) != wanted {
            let why = format!("the registry sent a manifest other than {digest}");
            return Err(invalid(&name, &why));
        }
        let manifest = serde_json::from_slice(&content);
        let manifest = manifest.map_err(|error| invalid(&name, &error.to_string()))?;
        let store = store.clone();
        blocking(move || store.put(&content)).await?;
        Ok(manifest)
    }

    async fn blob(
        &self,
        image: &Reference,
        digest: Digest,
        size: u64,
        store: &Store,
        watch: &Arc<dyn Watch>,
    ) -> Result<(), ImageError> {
        let (name, what) = (image.to_string(), "fetch a layer");
        let descriptor = OciDescriptor {
            digest: format!("sha256:{digest}"),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let pulled = self.client.pull_blob_stream(image, &descriptor);
        let mut stream = waited(what, &name, pulled).await?.stream;
        let opened = store.clone();
        let mut incoming = blocking(move || opened.incoming()).await?;
        loop {
            let silent = |_| ImageError::Silent {
                what,
                image: name.clone(),
            };
            let Some(chunk) = timeout(PATIENCE, stream.next()).await.map_err(silent)? else {
                break;
            };
            let chunk = chunk.map_err(|error| invalid(&name, &error.to_string()))?;
            if incoming.size() + chunk.len() as u64 > size {
                return Err(invalid(&name, "a layer is longer than its manifest says"));
            }
            incoming = blocking(move || incoming.write(&chunk).map(|()| incoming)).await?;
            watch.advanced(&name, incoming.size(), Some(size));
        }
        let named = name.clone();
        let arrived = blocking(move || incoming.commit_as(digest, &named)).await?;
        watch.arrived(&name, arrived);
        Ok(())
    }

    /// Pushes an image to the registry `target`, which may have a path: `registry.example/mirror`. Returns its name
    /// there.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn push(
        &self,
        image: &Image,
        target: &str,
        store: &Store,
    ) -> Result<String, ImageError> {
        let source = parse(&image.reference)?;
        let target = format!("{}/{}", target.trim_end_matches('/'), source.repository());
        let to = |end: &str| -> Result<Reference, ImageError> {
            let name = format!("{target}{end}");
            name.parse().map_err(|_| ImageError::Reference(name))
        };
        let place = to("")?;
        self.client
            // The functions that push take no credentials; they use the stored ones.
            .store_auth_if_needed(place.resolve_registry(), &self.auth)
            .await;
        // Layers come first, because registries refuse a manifest whose parts they lack.
        for blob in &image.blobs {
            self.push_blob(&place, blob, store).await?;
        }
        let last = image.manifests.last().map(|manifest| manifest.digest);
        for manifest in &image.manifests {
            let (opened, digest) = (store.clone(), manifest.digest);
            let content = blocking(move || opened.read(digest, MAX_MANIFEST_BYTES as u64));
            let content = content.await?;
            let media_type = HeaderValue::try_from(manifest.media_type.as_str());
            let media_type =
                media_type.map_err(|_| invalid(&target, "a media type is not a valid header"))?;
            let (registry, repository) = (place.registry(), place.repository());
            let hex = manifest.digest.to_string();
            let place = match source.tag() {
                Some(tag) if Some(manifest.digest) == last => to(&format!(":{tag}"))?,
                // The library fails with registries that return no location for a manifest, unless its address ends
                // in the tag. Only the digest matters.
                _ => Reference::with_tag_and_digest(
                    registry.to_owned(),
                    repository.to_owned(),
                    hex.clone(),
                    format!("sha256:{hex}"),
                ),
            };
            let pushed = self.client.push_manifest_raw(&place, content, media_type);
            waited("push a manifest", &target, taken(pushed)).await?;
        }
        let digest = last.map(|digest| format!("@sha256:{digest}"));
        Ok(format!("{target}{}", digest.unwrap_or_default()))
    }

    async fn push_blob(
        &self,
        place: &Reference,
        blob: &ImageBlob,
        store: &Store,
    ) -> Result<(), ImageError> {
        let (name, digest) = (place.to_string(), format!("sha256:{}", blob.digest));
        let known = self.client.blob_exists(place, &digest);
        if waited("look for a layer", &name, known).await? {
            return Ok(());
        }
        let (opened, of) = (store.clone(), blob.digest);
        let file = blocking(move || opened.open_blob(of)).await?;
        let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 1 << 20);
        let stream = stream.map_err(OciDistributionError::IoError);
        let pushed = self
            .client
            .push_blob_stream(place, stream, &digest, Some(blob.size));
        taken(pushed).await.map_err(failed("push a layer", &name))
    }
}

/// Accepts the answer of a registry that stores something without returning a location, which is harmless: the name
/// is known.
async fn taken<T>(
    push: impl Future<Output = Result<T, OciDistributionError>>,
) -> Result<(), OciDistributionError> {
    match push.await {
        Ok(_) | Err(OciDistributionError::RegistryNoLocationError) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Parses the name of an image, which must have a digest.
///
/// # Errors
/// [`ImageError::Reference`].
pub fn parse(name: &str) -> Result<Reference, ImageError> {
    let wrong = || ImageError::Reference(name.to_owned());
    let reference: Reference = name.parse().map_err(|_| wrong())?;
    match reference
        .digest()
        .and_then(|digest| digest.strip_prefix("sha256:"))
    {
        Some(digest) if digest.parse::<Digest>().is_ok() => Ok(reference),
        _ => Err(wrong()),
    }
}

fn sha256(image: &str, digest: &str) -> Result<Digest, ImageError> {
    let digest = digest
        .strip_prefix("sha256:")
        .and_then(|hex| hex.parse().ok());
    digest.ok_or_else(|| invalid(image, "it has a digest that is not SHA-256"))
}

fn invalid(image: &str, why: &str) -> ImageError {
    ImageError::Invalid {
        image: image.to_owned(),
        why: why.to_owned(),
    }
}

fn failed<'a>(
    what: &'static str,
    image: &'a str,
) -> impl FnOnce(OciDistributionError) -> ImageError + use<'a> {
    move |source| ImageError::Registry {
        what,
        image: image.to_owned(),
        source: Box::new(source),
    }
}

async fn waited<T>(
    what: &'static str,
    image: &str,
    work: impl Future<Output = Result<T, OciDistributionError>>,
) -> Result<T, ImageError> {
    match timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(failed(what, image)),
        Err(_) => Err(ImageError::Silent {
            what,
            image: image.to_owned(),
        }),
    }
}
