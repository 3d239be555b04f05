//! Images against a real registry, which `go install` gives.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, LazyLock},
    time::Duration,
};

use outpost::mirror::{
    Digest, Store,
    fetch::Watch,
    generation::{Image, ImageBlob, ImageManifest},
    images::{Access, Registry},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::sync::Notes;
use crate::support::{go_install, skip::skipped};

const OCI: &str = "application/vnd.oci.image";

const MODULE: &str = "github.com/google/go-containerregistry/cmd/registry@v0.20.6";

/// The program, or why there is none.
static PROGRAM: LazyLock<Result<PathBuf, String>> =
    LazyLock::new(|| go_install(MODULE, "registry"));

/// A registry on the loopback device: it keeps all in memory.
struct Running {
    address: String,
    _process: Child,
}

async fn registry() -> Option<Running> {
    let program = match PROGRAM.as_ref() {
        Ok(program) => program,
        Err(error) => {
            skipped("a registry of images", error);
            return None;
        }
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut process = Command::new(program)
        .args(["--port", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    // Its first line says that it serves.
    let first = timeout(Duration::from_secs(60), lines.next_line()).await;
    assert!(
        first.unwrap().unwrap().is_some(),
        "the registry does not start"
    );
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Some(Running {
        address: format!("127.0.0.1:{port}"),
        _process: process,
    })
}

/// An image for two platforms, and the store that has it.
fn image(store: &Store, name: &str) -> Image {
    let mut blobs = Vec::new();
    let mut blob = |content: &[u8]| {
        let digest = store.put(content).unwrap();
        let size = content.len() as u64;
        blobs.push(ImageBlob { digest, size });
        format!("\"digest\":\"sha256:{digest}\",\"size\":{size}")
    };
    let layer = blob(&[7; 300_000]);
    let mut manifests = Vec::new();
    let mut parts = Vec::new();
    for arch in ["amd64", "arm64"] {
        let config = blob(format!("{{\"architecture\":\"{arch}\",\"os\":\"linux\"}}").as_bytes());
        let text = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{OCI}.manifest.v1+json\",\
             \"config\":{{\"mediaType\":\"{OCI}.config.v1+json\",{config}}},\
             \"layers\":[{{\"mediaType\":\"{OCI}.layer.v1.tar\",{layer}}}]}}"
        );
        let digest = store.put(text.as_bytes()).unwrap();
        parts.push(format!(
            "{{\"mediaType\":\"{OCI}.manifest.v1+json\",\"digest\":\"sha256:{digest}\",\"size\":{}}}",
            text.len()
        ));
        manifests.push(ImageManifest {
            digest,
            media_type: format!("{OCI}.manifest.v1+json"),
        });
    }
    let media_type = format!("{OCI}.index.v1+json");
    let text = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{media_type}\",\"manifests\":[{}]}}",
        parts.join(",")
    );
    let digest = store.put(text.as_bytes()).unwrap();
    manifests.push(ImageManifest { digest, media_type });
    blobs.sort_by_key(|blob| blob.digest);
    Image {
        reference: format!("{name}@sha256:{digest}"),
        manifests,
        blobs,
    }
}

fn client() -> Registry {
    Registry::new(Access {
        is_plain: true,
        ..Access::default()
    })
}

#[tokio::test]
async fn an_image_goes_into_a_registry_and_comes_out_of_it_as_it_was() {
    let Some(running) = registry().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
    let store = Store::open(&outside).unwrap();
    let source = image(&store, "ghcr.example/acme/workspace:v1");
    let watch: Arc<dyn Watch> = Arc::new(Notes::default());

    let target = format!("{}/site", running.address);
    let name = client().push(&source, &target, &store).await.unwrap();
    let again = client().push(&source, &target, &store).await.unwrap();
    let fresh = Store::open(&inside).unwrap();
    let fetched = client().fetch(&name, &fresh, &watch).await.unwrap();

    assert_eq!(name, again);
    assert!(
        name.starts_with(&format!("{target}/acme/workspace@sha256:")),
        "{name}"
    );
    assert_eq!(fetched.manifests, source.manifests);
    assert_eq!(fetched.blobs, source.blobs);
    for digest in fetched.digests() {
        fresh.verify(digest).unwrap();
    }
    let by_tag = format!("{target}/acme/workspace:v1");
    let unpinned = client().fetch(&by_tag, &fresh, &watch).await.unwrap_err();
    assert!(
        unpinned.to_string().contains("not an image with a digest"),
        "{unpinned}"
    );
    let unknown = Digest::of(b"unknown");
    let unknown = format!("{target}/acme/workspace@sha256:{unknown}");
    let missing = client().fetch(&unknown, &fresh, &watch).await.unwrap_err();
    assert!(
        missing.to_string().contains("fetch a manifest"),
        "{missing}"
    );
}
