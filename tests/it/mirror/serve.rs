//! A real engine that knows nobody but our mirror.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Output,
    sync::{Arc, Mutex},
};

use axum::{extract::Request, middleware};
use outpost::{
    mirror::{
        Digest, Generation, Remote, Store,
        generation::{GitRepository, Module, Package, Provider, PublisherKey, Signed, Tool},
        serve,
    },
    net::http,
    registry::Platform,
    secret::Secret,
    stop::Stop,
};
use pgp::{
    composed::{ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedPublicKey},
    crypto::hash::HashAlgorithm,
    ser::Serialize as _,
    types::{KeyDetails as _, Password},
};

use crate::sealed::package;

/// Nobody listens there: whatever wants out fails, and says so.
pub const NO_WAY_OUT: &str = "http://127.0.0.1:9";
/// Another platform of which the publisher signed a package that the mirror does not have.
pub const ELSEWHERE: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// Checksums as a publisher signs them, with a key made for this test.
pub fn sign(store: &Store, package: &Package) -> Signed {
    // The engine does not know the newer kind of such keys.
    let mut params = SecretKeyParamsBuilder::default();
    params
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .primary_user_id("Test <test@example.com>".into());
    let secret = params.build().unwrap();
    let secret = secret.generate(rand_08::thread_rng()).unwrap();
    let (archive, name) = (package.archive, &package.filename);
    let sums =
        format!("{archive}  {name}\n{ELSEWHERE}  terraform-provider-coder_2.20.0_plan9_mips.zip\n");
    let signature = DetachedSignature::sign_binary_data(
        rand_08::thread_rng(),
        &secret.primary_key,
        &Password::empty(),
        HashAlgorithm::Sha256,
        sums.as_bytes(),
    );
    let key = SignedPublicKey::from(secret);
    let armored = key.to_armored_string(ArmorOptions::default()).unwrap();
    let key = PublisherKey {
        id: key.legacy_key_id().to_string().to_uppercase(),
        armored: store.put(armored.as_bytes()).unwrap(),
        trust_signature: String::new(),
    };
    Signed {
        shasums: store.put(sums.as_bytes()).unwrap(),
        signature: store.put(&signature.unwrap().to_bytes().unwrap()).unwrap(),
        keys: vec![key],
    }
}

pub fn module(store: &Store) -> Module {
    let text = b"output \"from\" { value = \"the mirror\" }\n";
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut tar = tar::Builder::new(gzip);
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, "main.tf", &text[..]).unwrap();
    let content = tar.into_inner().unwrap().finish().unwrap();
    Module {
        addr: "modules.example/acme/hello/coder".to_owned(),
        version: "1.2.0".parse().unwrap(),
        archive: store.put(&content).unwrap(),
        size: content.len() as u64,
        origin: String::new(),
        dir: String::new(),
    }
}

/// A mirror on a loopback port, and what it was asked for.
struct Site {
    dir: tempfile::TempDir,
    store: Store,
    package: Package,
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    server: serve::Server,
}

impl Site {
    async fn start() -> Self {
        Self::for_whom(serve::Access::default()).await
    }

    async fn for_whom(access: serve::Access) -> Self {
        outpost::net::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let note = move |request: Request, next: middleware::Next| {
            log.lock().unwrap().push(request.uri().path().to_owned());
            next.run(request)
        };
        let server = serve::Server::new(store.clone(), access);
        let routes = server.router().layer(middleware::from_fn(note));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let package = package(&store, "2.20.0");
        Self {
            dir,
            store,
            package,
            url,
            asked,
            server,
        }
    }

    async fn commit(&self, generation: Generation, after: Option<u64>) {
        let lock = self.store.lock(&Stop::new()).await.unwrap();
        self.store.commit(generation, after, &lock).unwrap();
    }

    fn provider(&self) -> Provider {
        Provider {
            addr: "registry.terraform.io/acme/coder".parse().unwrap(),
            version: "2.20.0".parse().unwrap(),
            protocols: vec!["5.0".to_owned()],
            signed: Some(sign(&self.store, &self.package)),
            packages: vec![self.package.clone()],
        }
    }

    async fn get(&self, path: &str, header: (&str, &str)) -> reqwest::Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("{}{path}", self.url));
        request.header(header.0, header.1).send().await.unwrap()
    }

    /// Writes the host blocks from what `/v1/hosts` says, and runs the engine with nothing else.
    async fn init(&self, template: &str) -> Output {
        self.init_with(template, "", None).await
    }

    /// The same, with further configuration, and with a header to ask for the hosts.
    async fn init_with(
        &self,
        template: &str,
        config: &str,
        header: Option<(&str, &str)>,
    ) -> Output {
        let hosts: serde_json::Value = {
            let answer = self
                .get("/v1/hosts", header.unwrap_or(("accept", "*/*")))
                .await;
            serde_json::from_str(&answer.text().await.unwrap()).unwrap()
        };
        let mut config = config.to_owned();
        for (host, services) in hosts["hosts"].as_object().into_iter().flatten() {
            config += &format!("host \"{host}\" {{\n  services = {{\n");
            for (service, path) in services.as_object().unwrap() {
                let path = path.as_str().unwrap();
                config += &format!("    \"{service}\" = \"{}{path}\"\n", self.url);
            }
            config += "  }\n}\n";
        }
        let dir = self.dir.path();
        fs::write(dir.join("config.tfrc"), config).unwrap();
        fs::create_dir_all(dir.join("template")).unwrap();
        fs::write(dir.join("template/main.tf"), template).unwrap();
        self.run(&dir.join("template")).await
    }

    async fn run(&self, template: &Path) -> Output {
        tokio::process::Command::new("terraform")
            .args(["init", "-no-color", "-input=false"])
            .current_dir(template)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("TF_CLI_CONFIG_FILE", self.dir.path().join("config.tfrc"))
            .env("CHECKPOINT_DISABLE", "1")
            .env("HTTPS_PROXY", NO_WAY_OUT)
            .output()
            .await
            .expect("terraform is on the PATH")
    }
}

const TEMPLATE: &str = r#"
terraform {
  required_providers {
    coder = { source = "acme/coder" }
  }
}
module "hello" {
  source  = "modules.example/acme/hello/coder"
  version = "~> 1.0"
}
"#;

#[tokio::test]
async fn an_engine_takes_providers_and_modules_from_us_for_their_registries() {
    let site = Site::start().await;
    let generation = Generation {
        providers: vec![site.provider()],
        modules: vec![module(&site.store)],
        ..Generation::default()
    };
    site.commit(generation, None).await;

    let output = site.init(TEMPLATE).await;

    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("self-signed, key ID"), "{said}");
    assert!(!said.contains("Incomplete lock file"), "{said}");
    let template = site.dir.path().join("template");
    let lock = fs::read_to_string(template.join(".terraform.lock.hcl")).unwrap();
    let elsewhere = format!("zh:{ELSEWHERE}");
    let expected = [
        site.package.h1_tree.to_string(),
        site.package.archive.zh().to_string(),
        elsewhere,
    ];
    for hash in expected {
        assert!(lock.contains(&hash), "{hash} is not in {lock}");
    }
    assert!(template.join(".terraform/modules/hello/main.tf").is_file());
    let asked = site.asked.lock().unwrap();
    let archive = format!("/blobs/{}/{}", site.package.archive, site.package.filename);
    assert!(asked.contains(&archive), "{asked:?}");
}

#[tokio::test]
async fn a_package_that_its_publisher_did_not_sign_is_refused_by_the_engine() {
    let site = Site::start().await;
    let mut provider = site.provider();
    let other = site.provider().signed.unwrap();
    provider.signed.as_mut().unwrap().keys = other.keys;
    let generation = Generation {
        providers: vec![provider],
        ..Generation::default()
    };
    site.commit(generation, None).await;

    let template = TEMPLATE.split("module").next().unwrap();
    let output = site.init(template).await;

    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(errors.contains("signature"), "{errors}");
}

#[tokio::test]
async fn another_generation_is_served_from_the_next_request_on() {
    let site = Site::start().await;
    let any = ("accept", "*/*");
    assert_eq!(site.get("/healthz", any).await.status(), 200);
    assert_eq!(site.get("/readyz", any).await.status(), 503);

    site.commit(Generation::default(), None).await;
    let index = "/mirror/registry.terraform.io/acme/coder/index.json";
    assert_eq!(site.get("/readyz", any).await.status(), 200);
    assert_eq!(site.get(index, any).await.status(), 404);
    let with_provider = Generation {
        providers: vec![site.provider()],
        ..Generation::default()
    };
    site.commit(with_provider, Some(1)).await;

    let answer = site.get(index, any).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(
        answer.text().await.unwrap(),
        r#"{"versions":{"2.20.0":{}}}"#
    );
    let again = site.get(index, ("if-none-match", &etag)).await;
    assert_eq!(again.status(), 304);
    let version = index.replace("index", "2.20.0");
    let archives = site.get(&version, any).await.text().await.unwrap();
    let archives: serde_json::Value = serde_json::from_str(&archives).unwrap();
    let package = &archives["archives"][site.package.platform.to_string()];
    let [zh, h1] = [site.package.archive.zh(), site.package.h1_zip.clone()];
    assert_eq!(
        package["hashes"],
        serde_json::json!([zh.to_string(), h1.to_string()]),
        "engines check the first one, and an `h1:` costs them most"
    );
}

#[tokio::test]
async fn files_are_served_whole_in_part_or_not_at_all() {
    let site = Site::start().await;
    let digest = site.store.put(b"0123456789").unwrap();
    let unknown = Digest::of(b"unknown");
    let (here, gone) = (format!("/blobs/{digest}/a"), format!("/blobs/{unknown}/a"));
    let etag = format!("\"{digest}\"");
    for (path, header, status, body) in [
        (here.as_str(), ("accept", "*/*"), 200, "0123456789"),
        (here.as_str(), ("range", "bytes=2-4"), 206, "234"),
        (here.as_str(), ("range", "bytes=20-"), 416, ""),
        (here.as_str(), ("if-none-match", etag.as_str()), 304, ""),
    ] {
        let answer = site.get(path, header).await;
        assert_eq!(answer.status(), status, "{header:?}");
        assert_eq!(answer.headers()["etag"], etag.as_str());
        assert_eq!(answer.text().await.unwrap(), body, "{header:?}");
    }
    for path in [gone.as_str(), "/blobs/..%2f..%2fetc/passwd"] {
        assert_eq!(site.get(path, ("accept", "*/*")).await.status(), 404);
    }
}

/// Changes a byte of a file, and not when it was written.
fn damage(path: &Path) {
    let written = fs::metadata(path).unwrap().modified().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut content = fs::read(path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(written).unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_handed_out_to_nobody_and_an_engine_hears_why() {
    let site = Site::start().await;
    let provider = site.provider();
    let key = provider.signed.clone().unwrap().keys[0].armored;
    let generation = Generation {
        providers: vec![provider],
        modules: vec![module(&site.store)],
        ..Generation::default()
    };
    let module = generation.modules[0].archive;
    site.commit(generation, None).await;
    let any = ("accept", "*/*");
    let (package, name) = (site.package.archive, &site.package.filename);
    let link = format!("/blobs/{package}/{name}");
    assert_eq!(site.get(&link, any).await.status(), 200);
    damage(&site.store.path(package));
    damage(&site.store.path(module));

    for (path, header) in [
        (link.as_str(), any),
        (&link, ("range", "bytes=0-3")),
        (&format!("/blobs/{module}/module.tar.gz"), any),
    ] {
        let answer = site.get(path, header).await;

        assert_eq!(answer.status(), 500, "{path}");
        let said = answer.text().await.unwrap();
        assert!(
            said.contains("damaged") && said.contains("verify --repair"),
            "{said}"
        );
    }
    let output = site.init(TEMPLATE).await;
    assert!(!output.status.success());
    let metrics = site.get("/metrics", any).await.text().await.unwrap();
    let counted = "outpost_mirror_damaged_requests_total ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(counted));
    assert!(counted.unwrap().parse::<u64>().unwrap() >= 4, "{metrics}");
    // A key that is damaged is in no document, either.
    damage(&site.store.path(key));
    let document = format!(
        "/v1/providers/registry.terraform.io/acme/coder/2.20.0/download/{}",
        Platform::current().to_string().replace('_', "/")
    );
    assert_eq!(site.get(&document, any).await.status(), 500);
}

/// A repository with one commit and a tag, as a mirror keeps it, and the commit.
pub fn repository(dir: &Path, store: &Store) -> (GitRepository, String) {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.com"])
            .args(["-c", "init.defaultBranch=main"])
            .args(args)
            .current_dir(dir)
            .output()
            .expect("git is on the PATH");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    fs::create_dir(dir.join("inner")).unwrap();
    fs::write(
        dir.join("inner/main.tf"),
        "output \"from\" { value = \"git\" }\n",
    )
    .unwrap();
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    let commit = git(&["rev-parse", "HEAD"]);
    git(&["repack", "-adq"]);
    let packs: Vec<_> = fs::read_dir(dir.join(".git/objects/pack"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let blob = |ending: &str| {
        let path = packs
            .iter()
            .find(|path| path.extension().is_some_and(|it| it == ending));
        store.put(&fs::read(path.unwrap()).unwrap()).unwrap()
    };
    let refs = ["refs/heads/main", "refs/tags/v1.0.0"];
    let repository = GitRepository {
        url: "https://git.example/acme/mods.git".to_owned(),
        refs: refs.map(|name| (name.to_owned(), commit.clone())).into(),
        head: Some("refs/heads/main".to_owned()),
        pack: blob("pack"),
        index: blob("idx"),
    };
    (repository, commit)
}

#[tokio::test]
async fn git_clones_what_the_mirror_has() {
    let site = Site::start().await;
    let origin = site.dir.path().join("origin");
    fs::create_dir(&origin).unwrap();
    let (repository, commit) = repository(&origin, &site.store);
    let generation = Generation {
        git: vec![repository],
        ..Generation::default()
    };
    site.commit(generation, None).await;

    for (form, reference) in [
        ("https://git.example/acme/mods.git", "v1.0.0"),
        ("https://git.example/acme/mods", "main"),
        ("ssh://git@git.example/acme/mods.git", "main"),
        ("git@git.example:acme/mods.git", "main"),
    ] {
        let target = tempfile::tempdir().unwrap();
        let remote = http::Client::new(http::Config::new(site.url.parse().unwrap())).unwrap();
        let repositories = Remote::new(remote, None)
            .hosts()
            .await
            .unwrap()
            .repositories;
        let mut git = tokio::process::Command::new("git");
        git.args(["clone", "-q", "--branch", reference, form, "clone"])
            .current_dir(target.path())
            .env("HOME", target.path())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_COUNT", repositories.len().to_string());
        for (index, (from, to)) in repositories.iter().enumerate() {
            git.env(
                format!("GIT_CONFIG_KEY_{index}"),
                format!("url.{to}.insteadOf"),
            );
            git.env(format!("GIT_CONFIG_VALUE_{index}"), from);
        }

        let output = git.output().await.unwrap();

        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{form}: {errors}");
        assert!(target.path().join("clone/inner/main.tf").is_file());
        let head = fs::read_to_string(target.path().join("clone/.git/HEAD")).unwrap();
        let is_detached = head.trim() == commit;
        assert!(is_detached || head.contains("refs/heads/main"), "{head}");
    }
}

#[tokio::test]
async fn engines_are_published_as_their_publisher_does() {
    let site = Site::start().await;
    let archive = site.store.put(b"an engine").unwrap();
    let name = format!("terraform_1.11.4_{}.zip", Platform::current());
    let tool = Tool {
        name: "terraform".to_owned(),
        version: "1.11.4".parse().unwrap(),
        platform: Platform::current(),
        filename: name.clone(),
        archive,
        size: 9,
        signed: site.provider().signed,
    };
    let generation = Generation {
        tools: vec![tool],
        ..Generation::default()
    };
    site.commit(generation, None).await;
    let any = ("accept", "*/*");

    let index = site.get("/releases/terraform/index.json", any).await;
    assert_eq!(index.headers()["content-type"], "application/json");
    let index: serde_json::Value = serde_json::from_str(&index.text().await.unwrap()).unwrap();
    let one = site.get("/releases/terraform/1.11.4/index.json", any).await;
    let one: serde_json::Value = serde_json::from_str(&one.text().await.unwrap()).unwrap();
    assert_eq!(index["versions"]["1.11.4"], one);
    let url = one["builds"][0]["url"].as_str().unwrap();
    let file = site.get(url, any).await;
    assert_eq!(file.headers()["content-type"], "application/zip");
    assert_eq!(file.text().await.unwrap(), "an engine");
    for file in ["_SHA256SUMS", "_SHA256SUMS.sig", "_SHA256SUMS.72D7468F.sig"] {
        let path = format!("/releases/terraform/1.11.4/terraform_1.11.4{file}");
        assert_eq!(site.get(&path, any).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn whoever_has_no_token_gets_nothing_and_archives_need_a_link() {
    let token = Secret::new("0123456789abcdef");
    let site = Site::for_whom(serve::Access::tokens(vec![token])).await;
    let generation = Generation {
        providers: vec![site.provider()],
        modules: vec![module(&site.store)],
        ..Generation::default()
    };
    site.commit(generation, None).await;
    let versions = "/v1/providers/registry.terraform.io/acme/coder/versions";
    let any = ("accept", "*/*");
    let bearer = ("authorization", "Bearer 0123456789abcdef");

    assert_eq!(site.get(versions, any).await.status(), 401);
    assert_eq!(
        site.get(versions, ("authorization", "Bearer x"))
            .await
            .status(),
        401
    );
    assert_eq!(site.get(versions, bearer).await.status(), 200);
    let plain = format!("/blobs/{}/{}", site.package.archive, site.package.filename);
    assert_eq!(site.get(&plain, bearer).await.status(), 401);
    let config = "credentials \"registry.terraform.io\" {\n  token = \"0123456789abcdef\"\n}\n\
                  credentials \"modules.example\" {\n  token = \"0123456789abcdef\"\n}\n";

    let refused = site.init(TEMPLATE).await;
    let admitted = site.init_with(TEMPLATE, config, Some(bearer)).await;

    assert!(!refused.status.success());
    let errors = String::from_utf8_lossy(&admitted.stderr).into_owned();
    assert!(admitted.status.success(), "{errors}");
}

#[tokio::test]
async fn what_was_asked_for_in_vain_is_listed_and_kept() {
    let site = Site::start().await;
    site.commit(Generation::default(), None).await;
    let (stop, file) = (Stop::new(), site.dir.path().join("misses.json"));
    let keeping = {
        let (server, file, stop) = (site.server.clone(), file.clone(), stop.clone());
        tokio::spawn(async move { server.keep_misses(file, &stop).await })
    };
    let any = ("accept", "*/*");

    for path in [
        "/mirror/registry.terraform.io/hashicorp/null/index.json",
        "/mirror/registry.terraform.io/hashicorp/null/index.json",
        "/v1/modules/modules.example/acme/hello/coder/versions",
        "/git/git.example/acme/mods/info/refs",
        "/files/example.com/code-server.tar.gz",
        "/releases/tofu/index.json",
    ] {
        assert_eq!(site.get(path, any).await.status(), 404, "{path}");
    }
    let listed = site.get("/api/missing", any).await.text().await.unwrap();
    stop.drain();
    keeping.await.unwrap();

    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<_> = listed["missing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|miss| format!("{} {} {}", miss["kind"], miss["name"], miss["count"]).replace('"', ""))
        .collect();
    assert_eq!(
        names,
        [
            "file example.com/code-server.tar.gz 1",
            "git git.example/acme/mods 1",
            "module modules.example/acme/hello/coder 1",
            "provider registry.terraform.io/hashicorp/null 2",
            "tool tofu 1",
        ]
    );
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(kept, listed);
    let metrics = site.get("/metrics", any).await.text().await.unwrap();
    for line in [
        "outpost_mirror_missing_items 5",
        "outpost_mirror_generation 1",
        "outpost_mirror_requests_total{mode=\"network-mirror\",code=\"404\"} 2",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

#[tokio::test]
async fn an_oci_registry_gives_manifests_by_tag_and_by_digest_and_packages_of_the_provider_alone() {
    let token = Secret::new("0123456789abcdef");
    let site = Site::for_whom(serve::Access::tokens(vec![token])).await;
    let other = site.store.put(b"of another provider").unwrap();
    let generation = Generation {
        providers: vec![site.provider()],
        ..Generation::default()
    };
    site.commit(generation, None).await;
    let basic = ("authorization", "Basic eDowMTIzNDU2Nzg5YWJjZGVm");
    let base = "/v2/registry.terraform.io/acme/coder";

    let refused = site.get("/v2/", ("accept", "*/*")).await;
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Basic "), "{challenge}");
    assert_eq!(site.get("/v2/", basic).await.status(), 200);
    let tags = site.get(&format!("{base}/tags/list"), basic).await;
    let tags: serde_json::Value = serde_json::from_str(&tags.text().await.unwrap()).unwrap();
    assert_eq!(tags["tags"], serde_json::json!(["2.20.0"]));
    let index = site.get(&format!("{base}/manifests/2.20.0"), basic).await;
    let named = index.headers()["docker-content-digest"].clone();
    let text = index.text().await.unwrap();
    assert_eq!(named, format!("sha256:{}", Digest::of(text.as_bytes())));
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let target = index["manifests"][0]["digest"].as_str().unwrap();
    let target = site.get(&format!("{base}/manifests/{target}"), basic).await;
    let target: serde_json::Value = serde_json::from_str(&target.text().await.unwrap()).unwrap();
    for part in [&target["config"], &target["layers"][0]] {
        let path = format!("{base}/blobs/{}", part["digest"].as_str().unwrap());
        let content = site.get(&path, basic).await.bytes().await.unwrap();
        assert_eq!(content.len() as u64, part["size"].as_u64().unwrap());
        assert_eq!(site.get(&path, ("accept", "*/*")).await.status(), 401);
    }
    for path in [
        format!("{base}/blobs/sha256:{other}"),
        format!("{base}/blobs/{}", site.package.archive),
        format!("{base}/manifests/9.9.9"),
    ] {
        assert_eq!(site.get(&path, basic).await.status(), 404, "{path}");
    }
}
