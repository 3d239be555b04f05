use std::{io::Write as _, sync::Arc, sync::Mutex};

use axum::{Router, extract::Path as UrlPath, http::StatusCode, routing::get};
use pgp::{
    composed::{ArmorOptions, KeyType, SecretKeyParamsBuilder, SignedSecretKey},
    crypto::hash::HashAlgorithm,
    ser::Serialize as _,
    types::Password,
};

use super::*;

type Files = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A releases site with one signed package, whose files a test may change.
struct Site {
    files: Files,
    asked: Arc<Mutex<Vec<String>>>,
    url: Url,
    key: String,
    read_timeout: Duration,
}

fn package() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    zip.start_file("terraform", zip::write::SimpleFileOptions::default())
        .unwrap();
    zip.write_all(b"#!/bin/sh\necho engine\n").unwrap();
    zip.finish().unwrap().into_inner()
}

fn secret_key() -> SignedSecretKey {
    let mut params = SecretKeyParamsBuilder::default();
    params
        .key_type(KeyType::Ed25519)
        .can_sign(true)
        .primary_user_id("Test <test@example.com>".into());
    params
        .build()
        .unwrap()
        .generate(rand_08::thread_rng())
        .unwrap()
}

impl Site {
    async fn start() -> Self {
        let secret = secret_key();
        let name = format!(
            "terraform_{PINNED}_{}_{}.zip",
            std::env::consts::OS,
            architecture()
        );
        let sums = format!("{}  {name}\n", hex::encode(Sha256::digest(package()))).into_bytes();
        let rng = rand_08::thread_rng();
        let primary = &secret.primary_key;
        let signature = DetachedSignature::sign_binary_data(
            rng,
            primary,
            &Password::empty(),
            HashAlgorithm::Sha256,
            &sums[..],
        );
        let list = format!("terraform_{PINNED}_SHA256SUMS");
        let files = vec![
            (
                format!("{list}.sig"),
                signature.unwrap().to_bytes().unwrap(),
            ),
            (list, sums),
            (name, package()),
        ];
        let (files, asked) = (
            Arc::new(Mutex::new(files)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let url = serve(Arc::clone(&files), Arc::clone(&asked)).await;
        let key = SignedPublicKey::from(secret)
            .to_armored_string(ArmorOptions::default())
            .unwrap();
        Self {
            files,
            asked,
            url,
            key,
            read_timeout: READ_TIMEOUT,
        }
    }

    fn change(&self, suffix: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut files = self.files.lock().unwrap();
        files
            .iter_mut()
            .filter(|(name, _)| name.ends_with(suffix))
            .for_each(|(_, content)| change(content));
    }

    async fn install(&self, cache: &Path) -> Result<PathBuf, InstallError> {
        outpost_net::install_crypto_provider();
        let installer = Installer {
            cache_dir: cache.to_owned(),
            base_url: self.url.clone(),
            publisher_key: self.key.clone(),
            read_timeout: self.read_timeout,
        };
        installer
            .install(&reqwest::Client::new(), &Stop::new())
            .await
    }
}

async fn serve(files: Files, asked: Arc<Mutex<Vec<String>>>) -> Url {
    let answer = move |UrlPath((_, name)): UrlPath<(String, String)>| async move {
        asked.lock().unwrap().push(name.clone());
        let found = files
            .lock()
            .unwrap()
            .iter()
            .find(|(file, _)| *file == name)
            .map(|(_, content)| content.clone());
        found.ok_or(StatusCode::NOT_FOUND)
    };
    let routes = Router::new().route("/terraform/{version}/{name}", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url.parse().unwrap()
}

#[tokio::test]
async fn a_signed_engine_is_fetched_once() {
    let (site, cache) = (Site::start().await, tempfile::tempdir().unwrap());

    let first = site.install(cache.path()).await.unwrap();
    let second = site.install(cache.path()).await.unwrap();

    assert_eq!(first, second);
    assert_eq!(site.asked.lock().unwrap().len(), 3);
    let output = std::process::Command::new(first).output().unwrap();
    assert_eq!(output.stdout, b"engine\n");
}

#[tokio::test]
async fn a_list_that_somebody_else_signed_is_refused() {
    let (site, cache) = (Site::start().await, tempfile::tempdir().unwrap());
    site.change("SHA256SUMS", |list| list.extend(b"\n"));

    let error = site.install(cache.path()).await.unwrap_err();

    assert!(matches!(error, InstallError::Signature { .. }), "{error:?}");
    assert!(error.hint().is_some() && !cache.path().join(format!("terraform-{PINNED}")).exists());
}

#[tokio::test]
async fn a_package_that_was_changed_is_refused() {
    let (site, cache) = (Site::start().await, tempfile::tempdir().unwrap());
    site.change(".zip", |package| package[50] ^= 1);

    let error = site.install(cache.path()).await.unwrap_err();

    assert!(matches!(error, InstallError::Checksum { .. }), "{error:?}");
}

#[tokio::test]
async fn without_a_network_the_remedy_is_named() {
    let (mut site, cache) = (Site::start().await, tempfile::tempdir().unwrap());
    site.url = "http://127.0.0.1:1/".parse().unwrap();

    let error = site.install(cache.path()).await.unwrap_err();

    assert!(
        error
            .to_string()
            .starts_with("failed to download http://127.0.0.1:1/terraform/"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--engine PATH"));
}

#[tokio::test]
async fn a_site_that_never_answers_is_given_up() {
    let (mut site, cache) = (Site::start().await, tempfile::tempdir().unwrap());
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.url = format!("http://{}/", silent.local_addr().unwrap())
        .parse()
        .unwrap();
    site.read_timeout = Duration::from_millis(50);

    let error = site.install(cache.path()).await.unwrap_err();

    assert!(matches!(error, InstallError::Stalled { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--engine PATH"));
}

#[tokio::test]
async fn several_that_ask_at_once_fetch_once() {
    let (site, cache) = (Site::start().await, tempfile::tempdir().unwrap());

    let asked = (0..8).map(|_| site.install(cache.path()));
    let installed = futures::future::join_all(asked).await;

    let expected = cache.path().join(format!("terraform-{PINNED}"));
    assert!(installed.into_iter().all(|path| path.unwrap() == expected));
    assert_eq!(site.asked.lock().unwrap().len(), 3);
}

#[test]
fn the_publishers_key_can_be_read() {
    let (key, _) = SignedPublicKey::from_string(HASHICORP_KEY).unwrap();

    let fingerprint = pgp::types::KeyDetails::fingerprint(&key);
    assert_eq!(
        fingerprint.to_string().to_lowercase(),
        "c874011f0ab405110d02105534365d9472d7468f"
    );
}
