//! Providers in the form in which OpenTofu takes them from an OCI registry. Pure: no socket, no file.
//!
//! A blob of such a registry is named by its SHA-256, like a file of the store; so only two kinds of manifests are
//! made here, and the packages are unchanged.
//!
//! # Source
//! <https://opentofu.org/docs/cli/oci_registries/provider-mirror/>, the OCI distribution specification 1.1

use serde_json::{Value, json};

use super::documents::Asked;
use crate::{
    Digest,
    generation::{Generation, Package, Provider},
};

/// Media type of a manifest that lists others.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const PROVIDER: &str = "application/vnd.opentofu.provider";
const TARGET: &str = "application/vnd.opentofu.provider-target";
/// Content that replaces the configuration of an image.
pub(super) const EMPTY: &[u8] = b"{}";

/// A manifest with its media type.
pub(super) struct Manifest {
    pub(super) kind: &'static str,
    pub(super) content: Vec<u8>,
}

impl Manifest {
    fn new(kind: &'static str, content: &Value) -> Self {
        let content = content.to_string().into_bytes();
        Self { kind, content }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.content)
    }
}

/// Returns the versions of a provider; `None` if there is none.
pub(super) fn tags(generation: &Generation, asked: &Asked<'_>, name: &str) -> Option<Value> {
    let tags: Vec<_> = asked.of(generation).map(tag).collect();
    (!tags.is_empty()).then(|| json!({ "name": name, "tags": tags }))
}

/// Returns a version as a tag, which cannot contain a plus sign.
fn tag(provider: &Provider) -> String {
    provider.version.to_string().replace('+', "_")
}

/// Returns the manifest that a tag or a digest names.
pub(super) fn manifest(
    generation: &Generation,
    asked: &Asked<'_>,
    reference: &str,
) -> Option<Manifest> {
    let Some(digest) = digest(reference) else {
        let provider = asked.of(generation).find(|it| tag(it) == reference)?;
        return Some(index(provider));
    };
    asked.of(generation).find_map(|provider| {
        let of_packages = provider.packages.iter().map(target);
        let mut all = std::iter::once(index(provider)).chain(of_packages);
        all.find(|it| it.digest() == digest)
    })
}

/// Returns whether a file belongs to a provider: a registry serves no file of one under the name of another.
pub(super) fn has(generation: &Generation, asked: &Asked<'_>, digest: Digest) -> bool {
    let mut packages = asked.of(generation).flat_map(|it| &it.packages);
    packages.any(|it| it.archive == digest)
}

/// Parses a digest in OCI's form.
pub(super) fn digest(text: &str) -> Option<Digest> {
    text.strip_prefix("sha256:")?.parse().ok()
}

fn index(provider: &Provider) -> Manifest {
    let manifests: Vec<_> = provider
        .packages
        .iter()
        .map(|package| {
            let manifest = target(package);
            json!({
                "mediaType": MANIFEST,
                "artifactType": TARGET,
                "digest": format!("sha256:{}", manifest.digest()),
                "size": manifest.content.len(),
                "platform": { "os": package.platform.os, "architecture": package.platform.arch },
            })
        })
        .collect();
    let content = json!({
        "schemaVersion": 2, "mediaType": INDEX, "artifactType": PROVIDER, "manifests": manifests,
    });
    Manifest::new(INDEX, &content)
}

fn target(package: &Package) -> Manifest {
    let empty = Digest::of(EMPTY);
    let config = json!({
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": format!("sha256:{empty}"),
        "size": EMPTY.len(),
    });
    let layer = json!({
        "mediaType": "archive/zip",
        "digest": format!("sha256:{}", package.archive),
        "size": package.size,
    });
    let content = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": TARGET,
        "config": config, "layers": [layer],
    });
    Manifest::new(MANIFEST, &content)
}
