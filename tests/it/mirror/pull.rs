//! A server that has nothing and asks a registry, which is an origin of ours, for what real engines ask of it.

mod quota;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    time::Duration,
};

use outpost::{
    mirror::{
        Digest, Store,
        fetch::{FetchError, RequestLimits, Retry, Watch},
        serve::{Access, Server},
        sync::Upstream,
    },
    net::listener::{Limits, Listener},
    registry::Platform,
    stop::Stop,
};
use tokio::task::JoinSet;

use super::{
    modules::{piped, tar},
    origin::{Fault, Origin, Publisher},
    sync::sync_at,
};

const HOST: &str = "registry.example";
const DEMO: &str = "registry.example/acme/demo";
/// Nobody listens there: whatever wants out fails, and says so.
const NO_WAY_OUT: &str = "http://127.0.0.1:9";

struct Silent;

impl Watch for Silent {
    fn phase(&self, _: &str) {}
    fn arrived(&self, _: &str, _: u64) {}
    fn note(&self, _: &str) {}
    fn advanced(&self, _: &str, _: u64, _: Option<u64>) {}
    fn trying_again(&self, _: &str, _: &FetchError, _: Duration) {}
}

/// A server on a loopback port, with an empty store.
struct Site {
    dir: tempfile::TempDir,
    store: Store,
    url: String,
    server: Server,
    _tasks: JoinSet<()>,
}

impl Site {
    async fn before(origin: &Origin) -> Self {
        Self::at(origin, tempfile::tempdir().unwrap()).await
    }

    /// Another server, of the same mirror.
    async fn again(self, origin: &Origin) -> Self {
        Self::at(origin, self.dir).await
    }

    async fn at(origin: &Origin, dir: tempfile::TempDir) -> Self {
        Self::with_limit(origin, dir, None).await
    }

    async fn with_limit(origin: &Origin, dir: tempfile::TempDir, max_bytes: Option<u64>) -> Self {
        let file = dir.path().join("mirror.toml");
        if !file.exists() {
            fs::write(&file, origin.host(HOST)).unwrap();
        }
        let store = Store::open(&dir.path().join("mirror")).unwrap();
        let retry = Retry {
            tries: 1,
            first_pause: Duration::from_millis(1),
        };
        let limits = RequestLimits {
            retry,
            ..RequestLimits::default()
        };
        let sync = sync_at(dir.path(), limits, Arc::new(Silent));
        let upstream = Upstream::with_limit(sync, max_bytes);
        let server = Server::new(store.clone(), Access::default()).with_upstream(upstream);
        let listen = ([127, 0, 0, 1], 0).into();
        let listener = Listener::bind(listen, None, Limits::standard())
            .await
            .unwrap();
        let url = listener.url().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.serve(server.router(), Stop::new()));
        Self {
            dir,
            store,
            url,
            server,
            _tasks: tasks,
        }
    }

    async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap();
        (
            answer.status().as_u16(),
            answer.bytes().await.unwrap().to_vec(),
        )
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// A directory with a template that wants the provider, and the engine in it.
    fn job(&self, name: &str) -> (PathBuf, tokio::process::Command) {
        let template = format!(
            "terraform {{\n  required_providers {{\n    demo = {{ source = \"{DEMO}\" }}\n  }}\n}}\n"
        );
        self.job_of(name, &template)
    }

    fn job_of(&self, name: &str, template: &str) -> (PathBuf, tokio::process::Command) {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("main.tf"), template).unwrap();
        let url = &self.url;
        let config = format!(
            "host \"{HOST}\" {{\n  services = {{\n    \"providers.v1\" = \"{url}v1/providers/{HOST}/\"\n    \
             \"modules.v1\" = \"{url}v1/modules/{HOST}/\"\n  }}\n}}\n"
        );
        fs::write(dir.join("config.tfrc"), config).unwrap();
        let mut command = tokio::process::Command::new("terraform");
        command.args(["init", "-no-color"]).current_dir(&dir);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("TF_CLI_CONFIG_FILE", dir.join("config.tfrc"));
        command
            .env("CHECKPOINT_DISABLE", "1")
            .env("HTTPS_PROXY", NO_WAY_OUT);
        (dir, command)
    }
}

fn name(version: &str) -> String {
    format!(
        "terraform-provider-demo_{version}_{}.zip",
        Platform::current()
    )
}

fn lock_of(dir: &Path) -> String {
    fs::read_to_string(dir.join(".terraform.lock.hcl")).unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_cold_jobs_download_each_package_once() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let here = Platform::current().to_string();
    origin.publish(&publisher, DEMO, "1.2.0", &[&here, "plan9_mips"], 300_000);
    let site = Site::before(&origin).await;
    let jobs: Vec<_> = (0..16)
        .map(|number| site.job(&format!("job{number}")))
        .collect();

    let mut running = JoinSet::new();
    for (dir, mut command) in jobs {
        running.spawn(async move { (dir, command.output().await.unwrap()) });
    }
    while let Some(ended) = running.join_next().await {
        let (dir, output) = ended.unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let lock = lock_of(&dir);
        assert_eq!(
            (lock.matches("h1:").count(), lock.matches("zh:").count()),
            (1, 2),
            "{lock}"
        );
    }

    let asked = origin.asked();
    let of = |end: &str| asked.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!(of(&name("1.2.0")), 1, "{asked:#?}");
    assert_eq!(of("/acme/demo/versions"), 1, "{asked:#?}");
    assert_eq!(of("plan9_mips.zip"), 0, "nobody wanted it: {asked:#?}");
    let (_, generation) = site.store.newest().unwrap();
    assert_eq!(generation.providers.len(), 1);
    assert!(
        site.server.misses().is_empty(),
        "{:?}",
        site.server.misses()
    );
}

#[tokio::test]
async fn what_was_pulled_is_served_while_the_registry_is_away() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let here = Platform::current().to_string();
    origin.publish(&publisher, DEMO, "1.2.0", &[&here], 10);
    origin.publish(&publisher, DEMO, "1.3.0", &[&here], 10);
    let site = Site::before(&origin).await;
    let (os, arch) = here.split_once('_').unwrap();
    let download = |version: &str| format!("v1/providers/{DEMO}/{version}/download/{os}/{arch}");
    let found = site.json(&download("1.2.0")).await;
    let place = found["download_url"]
        .as_str()
        .unwrap()
        .trim_start_matches('/')
        .to_owned();
    assert_eq!(site.get(&place).await.0, 200);

    origin.fail("", Fault::Status(503, usize::MAX));

    let versions = site.json(&format!("v1/providers/{DEMO}/versions")).await;
    assert_eq!(
        versions["versions"].as_array().unwrap().len(),
        1,
        "{versions}"
    );
    let found = site.json(&download("1.2.0")).await;
    assert!(
        found["packages"][&here]["hashes"][1]
            .as_str()
            .unwrap()
            .starts_with("h1:"),
        "{found}"
    );
    assert_eq!(site.get(&place).await.0, 200);
    let (status, why) = site.get(&download("1.3.0")).await;
    assert_eq!(status, 502, "{}", String::from_utf8_lossy(&why));

    origin.heal();
    assert_eq!(site.get(&download("1.3.0")).await.0, 200);
}

#[tokio::test]
async fn a_network_mirror_offers_what_the_registry_has() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let here = Platform::current().to_string();
    origin.publish(&publisher, DEMO, "1.2.0", &[&here, "plan9_mips"], 10);
    let site = Site::before(&origin).await;

    let index = site.json(&format!("mirror/{DEMO}/index.json")).await;
    assert_eq!(index, serde_json::json!({ "versions": { "1.2.0": {} } }));
    let version = site.json(&format!("mirror/{DEMO}/1.2.0.json")).await;
    for platform in [here.as_str(), "plan9_mips"] {
        let archive = &version["archives"][platform];
        let place = archive["url"].as_str().unwrap().trim_start_matches('/');
        let (status, content) = site.get(place).await;
        assert_eq!(status, 200, "{version}");
        let hash = Digest::of(&content).zh().to_string();
        assert!(
            archive["hashes"].as_array().unwrap().contains(&hash.into()),
            "{version}"
        );
    }
}

#[tokio::test]
async fn what_its_publisher_did_not_sign_reaches_nobody() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let here = Platform::current().to_string();
    origin.publish(&publisher, DEMO, "1.2.0", &[&here], 10);
    origin.fail(&name("1.2.0"), Fault::Changed);
    let site = Site::before(&origin).await;

    let (_, mut command) = site.job("job");
    let output = command.output().await.unwrap();

    assert!(!output.status.success(), "{}", said(&output));
    assert!(site.store.blobs().unwrap().iter().all(|blob| {
        let content = fs::read(site.store.path(*blob)).unwrap();
        !content.starts_with(b"PK") && content.first() != Some(&(b'P' ^ 1))
    }));

    // Nor do checksums with a signature that is not over them.
    let sums = "demo_1.2.0_SHA256SUMS";
    origin.heal();
    let site = Site::before(&origin).await;
    origin.fail(sums, Fault::Changed);
    let (os, arch) = here.split_once('_').unwrap();
    let (status, _) = site
        .get(&format!("v1/providers/{DEMO}/1.2.0/download/{os}/{arch}"))
        .await;
    assert_eq!(status, 502);
}

#[tokio::test]
async fn only_registries_that_the_operator_names_are_asked() {
    let origin = Origin::start().await;
    let site = Site::before(&origin).await;

    let other = "internal.example/acme/demo";
    assert_eq!(
        site.get(&format!("v1/providers/{other}/versions")).await.0,
        404
    );
    assert_eq!(site.get(&format!("mirror/{other}/1.0.0.json")).await.0, 404);
    let digest = Digest::of(b"nobody named it");
    assert_eq!(site.get(&format!("blobs/{digest}/a.zip")).await.0, 404);

    assert!(origin.asked().is_empty());
    assert_eq!(site.server.misses().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_is_fetched_once_and_stays_while_its_registry_is_away() {
    let origin = Origin::start().await;
    let text = "output \"from\" { value = \"the registry\" }\n";
    origin.publish_git("git/mods.git", &[("hello/main.tf", text)]);
    let location = format!("git::{}/git/mods.git//hello?ref=v1", origin.url);
    origin.publish_module("registry.example/acme/hello/coder", "1.2.0", &location);
    let site = Site::before(&origin).await;
    let template = "module \"hello\" {\n  source = \"registry.example/acme/hello/coder\"\n}\n";

    let hosts = site.json("v1/hosts").await;
    let services = &hosts["hosts"][HOST];
    assert_eq!(
        services["modules.v1"],
        format!("/v1/modules/{HOST}/"),
        "{hosts}"
    );
    let (dir, mut command) = site.job_of("first", template);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        fs::read_to_string(dir.join(".terraform/modules/hello/main.tf")).unwrap(),
        text
    );
    let of_first = origin.asked();
    assert!(
        of_first.iter().any(|line| line.contains("/git/mods.git/")),
        "{of_first:#?}"
    );

    origin.fail("", Fault::Status(503, usize::MAX));
    let (_, mut command) = site.job_of("second", template);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(origin.asked().is_empty(), "versions are good for a minute");

    let gone = "v1/modules/registry.example/acme/gone/coder/versions";
    assert_eq!(
        site.get(gone).await.0,
        502,
        "nobody knows whether it is there"
    );
    origin.heal();
    let gone = "v1/modules/registry.example/acme/other/coder/versions";
    assert_eq!(site.get(gone).await.0, 404);
    let unlisted = "v1/modules/registry.example/acme/hello/coder/9.9.9/download";
    assert_eq!(site.get(unlisted).await.0, 404);
}

/// The path of the document about a version, for this platform or another.
fn download(version: &str, platform: &str) -> String {
    let (os, arch) = platform.split_once('_').unwrap();
    format!("v1/providers/{DEMO}/{version}/download/{os}/{arch}")
}

#[tokio::test]
async fn a_second_key_is_refused_by_the_same_server_by_the_next_and_until_it_is_accepted() {
    let (origin, first, second) = (Origin::start().await, Publisher::new(), Publisher::new());
    let here = Platform::current().to_string();
    origin.publish(&first, DEMO, "1.0.0", &[&here], 10);
    origin.publish(&second, DEMO, "1.1.0", &[&here], 10);
    let mut site = Site::before(&origin).await;
    let versions = format!("v1/providers/{DEMO}/versions");

    // The document names the package: whose it is is pinned before.
    site.json(&download("1.0.0", &here)).await;
    let pinned = fs::read_to_string(site.store.dir().join("trust/keys.toml")).unwrap();
    assert!(pinned.contains(&first.fingerprint()), "{pinned}");
    for round in ["the same server", "the next one"] {
        site.json(&versions).await;
        let (status, why) = site.get(&download("1.1.0", &here)).await;
        let why = String::from_utf8_lossy(&why).into_owned();
        assert_eq!(status, 502, "{round}: {why}");
        for key in [&first, &second] {
            assert!(why.contains(&key.fingerprint()), "{round}: {why}");
        }
        assert!(why.contains("--accept-key registry.example/acme="), "{why}");
        site = site.again(&origin).await;
    }

    let accepted = format!("registry.example/acme={}", second.fingerprint());
    let mut accept = std::process::Command::new(env!("CARGO_BIN_EXE_outpost"));
    accept.args(["mirror", "sync", "--accept-key", &accepted, "--mirror-dir"]);
    accept.arg(site.store.dir()).current_dir(site.dir.path());
    fs::rename(
        site.dir.path().join("mirror.toml"),
        site.dir.path().join("other.toml"),
    )
    .unwrap();
    let output = accept.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    site.json(&download("1.1.0", &here)).await;
}

#[tokio::test]
async fn a_version_that_is_republished_is_noticed_by_the_same_server_and_by_the_next() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    let here = Platform::current().to_string();
    let platforms = [here.as_str(), "plan9_mips"];
    origin.publish(&publisher, DEMO, "1.0.0", &platforms, 10);
    let site = Site::before(&origin).await;
    let found = site.json(&download("1.0.0", &here)).await;
    let first = found["shasum"].as_str().unwrap().to_owned();
    let place = found["download_url"].as_str().unwrap();
    let place = place.trim_start_matches('/').to_owned();
    origin.publish(&publisher, DEMO, "1.0.0", &platforms, 20);
    let now = Digest::of(&origin.file(&format!("{HOST}/files/{}", name("1.0.0"))));

    let (status, why) = site.get(&place).await;

    let says_it = |why: &[u8]| {
        let why = String::from_utf8_lossy(why).into_owned();
        assert!(why.contains(&first), "{why}");
        assert!(why.contains(&now.to_string()), "{why}");
        let remedy = format!("--accept-changed {DEMO}@1.0.0");
        assert!(why.contains(&remedy), "{why}");
    };
    assert_eq!(status, 502);
    says_it(&why);
    let site = site.again(&origin).await;
    let (status, why) = site.get(&download("1.0.0", "plan9_mips")).await;
    assert_eq!(status, 502);
    says_it(&why);
    let (_, mut command) = site.job("job");
    let output = command.output().await.unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    assert!(site.store.newest().is_err(), "nothing of it was taken");
}

#[tokio::test]
async fn a_module_that_is_republished_is_not_handed_out() {
    const MODULE: &str = "registry.example/acme/hello/coder";
    let origin = Origin::start().await;
    let location = format!("{}/files/hello.tar.gz", origin.url);
    origin.publish_module(MODULE, "1.2.0", &location);
    let publish = |text: &str| {
        let packed = piped("gzip", &tar(&[("main.tf", text)]));
        origin.put("files/hello.tar.gz", &packed);
    };
    publish("# one\n");
    let download = format!("v1/modules/{MODULE}/1.2.0/download");
    let first = Site::before(&origin).await;
    assert_eq!(first.get(&download).await.0, 200);
    // The next mirror has the pins, as somebody who restores what is not in bundles, and not the module.
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mirror")).unwrap();
    let pins = first.store.dir().join("trust");
    fs::rename(pins, dir.path().join("mirror/trust")).unwrap();
    publish("# two\n");
    let site = Site::at(&origin, dir).await;

    let (status, why) = site.get(&download).await;

    let why = String::from_utf8_lossy(&why).into_owned();
    assert_eq!(status, 502, "{why}");
    let remedy = format!("--accept-changed {MODULE}@1.2.0");
    assert!(why.contains(&remedy), "{why}");
    assert!(site.store.newest().is_err(), "nothing of it was taken");
    publish("# one\n");
    assert_eq!(site.get(&download).await.0, 200);
}
