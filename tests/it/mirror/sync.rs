//! `outpost mirror sync` against an origin that fails in every way it can.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use outpost::{
    mirror::{
        Store,
        fetch::{
            FetchError, Fetcher, RequestLimits, Retry, Watch, network_mirror::NetworkMirror,
            registry::Registries,
        },
        serve::{Access, Server},
        sync::{Accepted, MirrorConfig, Report, Sync, Trust, read_keys, write_review},
    },
    net::{
        listener::{Limits, Listener},
        proxy::Proxies,
        tls,
        web::Web,
    },
    secret::Secret,
    stop::Stop,
};

use super::origin::{Fault, Origin, Publisher};

const HOST: &str = "registry.example";
const DEMO: &str = "registry.example/acme/demo";
const PLATFORMS: [&str; 2] = ["linux_amd64", "linux_arm64"];

/// Keeps what it is told.
#[derive(Default)]
pub struct Notes(Mutex<Vec<String>>);

impl Watch for Notes {
    fn phase(&self, _: &str) {}
    fn arrived(&self, _: &str, _: u64) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn advanced(&self, _: &str, _: u64, _: Option<u64>) {}
    fn trying_again(&self, what: &str, error: &FetchError, _: Duration) {
        self.0.lock().unwrap().push(format!("{what}: {error}"));
    }
}

/// What fills the mirror in `dir`, by its `mirror.toml` and its lock file.
pub(super) fn sync_at<W: Watch + 'static>(
    dir: &Path,
    limits: RequestLimits,
    watch: Arc<W>,
) -> Sync {
    let config = MirrorConfig::load(&dir.join("mirror.toml")).unwrap();
    let known = read_keys(&dir.join("mirror.lock")).unwrap();
    let store = Store::open(&dir.join("mirror")).unwrap();
    let web = Web::new(&tls::Trust::default(), Proxies::default()).unwrap();
    let fetcher = Fetcher::new(web, limits, Arc::clone(&watch) as Arc<_>);
    Sync {
        trust: Trust::new(config.trust.clone(), known, &store),
        store,
        registries: Registries::new(fetcher.clone(), &config.hosts, Arc::new(|_| None)),
        config,
        fetcher,
        watch,
        authorities: Vec::new(),
        import_dirs: Vec::new(),
        session_token: None,
        dry_run: false,
    }
}

/// A place with a mirror.toml and a mirror.
struct Site {
    dir: tempfile::TempDir,
    notes: Arc<Notes>,
    limits: RequestLimits,
    accepted: Accepted,
    dry_run: bool,
}

impl Site {
    fn new(config: &str, origin: &Origin) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let platforms = "platforms = [\"linux_amd64\", \"linux_arm64\"]\n";
        let text = format!("{platforms}{config}\n{}", origin.host(HOST));
        std::fs::write(dir.path().join("mirror.toml"), text).unwrap();
        let retry = Retry {
            tries: 4,
            first_pause: Duration::from_millis(1),
        };
        Self {
            dir,
            notes: Arc::default(),
            limits: RequestLimits {
                retry,
                silence: Duration::from_secs(20),
                ..RequestLimits::default()
            },
            accepted: Accepted::default(),
            dry_run: false,
        }
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("mirror")).unwrap()
    }

    fn lock_file(&self) -> std::path::PathBuf {
        self.dir.path().join("mirror.lock")
    }

    fn prepare(&self) -> Sync {
        let mut sync = sync_at(self.dir.path(), self.limits, Arc::clone(&self.notes));
        sync.trust = sync
            .trust
            .accepting(self.accepted.clone())
            .dry(self.dry_run);
        sync.dry_run = self.dry_run;
        sync
    }

    async fn sync(&self) -> Report {
        let sync = self.prepare();
        let report = sync.run(&Stop::new()).await.unwrap();
        if report.failures.is_empty() && !self.dry_run {
            let keys = sync.trust.keys(&report.synced).unwrap();
            write_review(&self.lock_file(), &report.synced, &keys).unwrap();
        }
        report
    }

    fn said(&self) -> String {
        self.notes.0.lock().unwrap().join("\n")
    }
}

fn reasons(report: &Report) -> String {
    let all = report.failures.iter().map(|failure| {
        let hint = failure.hint().unwrap_or_default();
        format!("{}: {} [{hint}]", failure.what, failure.reason())
    });
    all.collect::<Vec<_>>().join("\n")
}

fn entry(versions: &str) -> String {
    format!("[[providers]]\nsource = \"{DEMO}\"\nversions = [{versions}]\n")
}

/// Downloads among what the origin was asked.
fn downloads(asked: &[String]) -> Vec<&String> {
    let is_zip = |line: &&String| line.starts_with("GET") && line.contains(".zip");
    asked.iter().filter(is_zip).collect()
}

async fn origin_with(publisher: &Publisher, versions: &[&str], padding: usize) -> Origin {
    let origin = Origin::start().await;
    for version in versions {
        origin.publish(publisher, DEMO, version, &PLATFORMS, padding);
    }
    origin
}

#[tokio::test]
async fn what_is_wanted_comes_once_and_a_second_run_changes_nothing() {
    let publisher = Publisher::new();
    let origin = origin_with(&publisher, &["1.0.0", "1.1.0", "2.0.0"], 100).await;
    let site = Site::new(&entry("\"~> 1.0\", \"newest\""), &origin);

    let first = site.sync().await;

    assert_eq!(reasons(&first), "");
    assert_eq!(
        (first.generation, first.is_new, first.files),
        (Some(1), true, 4)
    );
    let asked = origin.asked();
    let unique: BTreeSet<_> = asked.iter().collect();
    assert_eq!(unique.len(), asked.len(), "{asked:#?}");
    let (_, generation) = site.store().newest().unwrap();
    let versions: Vec<_> = generation
        .providers
        .iter()
        .map(|p| p.version.to_string())
        .collect();
    assert_eq!(versions, ["1.1.0", "2.0.0"]);
    let signed = generation.providers[0].signed.as_ref().unwrap();
    let sums = std::fs::read(site.store().path(signed.shasums)).unwrap();
    assert_eq!(
        sums,
        origin.file("registry.example/files/demo_1.1.0_SHA256SUMS")
    );
    let lock = std::fs::read_to_string(site.lock_file()).unwrap();
    assert!(lock.contains(&publisher.fingerprint()), "{lock}");

    let second = site.sync().await;

    assert_eq!(
        (second.generation, second.is_new, second.present),
        (Some(1), false, 4)
    );
    assert!(downloads(&origin.asked()).is_empty());
    assert_eq!(std::fs::read_to_string(site.lock_file()).unwrap(), lock);
}

#[tokio::test]
async fn a_dry_run_counts_and_takes_nothing() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 1000).await;
    let mut site = Site::new(&entry(""), &origin);
    site.dry_run = true;

    let report = site.sync().await;

    let name =
        |platform| format!("registry.example/files/terraform-provider-demo_1.0.0_{platform}.zip");
    let bytes: usize = PLATFORMS.iter().map(|p| origin.file(&name(p)).len()).sum();
    assert_eq!(reasons(&report), "");
    assert_eq!(
        (report.files, report.bytes, report.unknown),
        (2, bytes as u64, 0)
    );
    assert!(downloads(&origin.asked()).is_empty());
    assert!(site.store().blobs().unwrap().is_empty() && report.generation.is_none());
}

#[tokio::test]
async fn faults_that_pass_cost_a_retry_and_a_broken_download_goes_on_where_it_broke() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 200_000).await;
    origin.fail("demo/versions", Fault::Status(500, 2));
    origin.fail("_SHA256SUMS", Fault::TooMany(1));
    origin.fail("linux_amd64.zip", Fault::Broken(100_000));
    origin.fail(
        "linux_arm64.zip",
        Fault::Moved("/registry.example/files/elsewhere".to_owned()),
    );
    let moved = origin.file("registry.example/files/terraform-provider-demo_1.0.0_linux_arm64.zip");
    origin.put("registry.example/files/elsewhere", &moved);
    let site = Site::new(&entry(""), &origin);

    let report = site.sync().await;

    assert_eq!(reasons(&report), "");
    let said = site.said();
    assert!(
        said.contains("500") && said.contains("429") && said.contains("closed the connection"),
        "{said}"
    );
    let asked = origin.asked();
    let pieces: Vec<_> = asked
        .iter()
        .filter(|line| line.contains("linux_amd64.zip"))
        .collect();
    assert_eq!(pieces.len(), 2, "{asked:#?}");
    assert!(pieces[1].contains("bytes="), "{asked:#?}");
}

#[tokio::test]
async fn who_is_killed_in_the_middle_goes_on_and_asks_for_no_byte_twice() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 300_000).await;
    origin.fail("linux_amd64.zip", Fault::Stuck(150_000));
    let site = Site::new(&entry(""), &origin);
    let sync = site.prepare();
    let partial = site.store().dir().join("incoming/partial");
    // A part that does not grow any more; that of the other package does, until it is whole.
    let lengths = || {
        let files = std::fs::read_dir(&partial).into_iter().flatten().flatten();
        let lengths = files.filter_map(|file| Some(file.metadata().ok()?.len()));
        let lengths = lengths.filter(|length| (100_000..300_000).contains(length));
        lengths.collect::<std::collections::BTreeSet<_>>()
    };
    let is_stuck = async {
        loop {
            let before = lengths();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if !before.is_disjoint(&lengths()) {
                break;
            }
        }
    };
    let stop = Stop::new();
    tokio::select! {
        report = sync.run(&stop) => panic!("it ended: {:?}", report.map(|report| reasons(&report))),
        () = is_stuck => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("nothing came"),
    }
    drop(sync);
    origin.heal();
    let before = origin.asked();
    assert!(site.store().newest().is_err());

    let report = site.sync().await;

    assert_eq!(reasons(&report), "");
    let after = origin.asked();
    let again: Vec<_> = downloads(&after)
        .into_iter()
        .filter(|line| before.contains(line))
        .collect();
    let resumed = after
        .iter()
        .any(|line| line.contains("linux_amd64.zip bytes="));
    assert!(
        resumed && !again.iter().any(|line| line.contains("amd64")),
        "{after:#?}"
    );
    for digest in site.store().blobs().unwrap() {
        site.store().verify(digest).unwrap();
    }
}

#[tokio::test]
async fn what_was_changed_on_the_way_is_not_taken_and_the_rest_is() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 1000).await;
    origin.fail("linux_amd64.zip", Fault::Changed);
    let site = Site::new(&entry(""), &origin);

    let report = site.sync().await;

    assert_eq!(report.failures.len(), 1);
    assert!(report.failures[0].is_untrusted());
    assert!(
        reasons(&report).contains("demo_1.0.0_linux_amd64.zip"),
        "{}",
        reasons(&report)
    );
    let (_, generation) = site.store().newest().unwrap();
    let platforms: Vec<_> = generation.providers[0]
        .packages
        .iter()
        .map(|p| p.platform.to_string())
        .collect();
    assert_eq!(platforms, ["linux_arm64"]);

    origin.heal();
    let again = site.sync().await;
    assert_eq!(
        (again.failures.len(), again.files, again.present),
        (0, 1, 1)
    );
}

#[tokio::test]
async fn a_wrong_signature_another_key_and_an_expired_one_are_named_with_their_remedy() {
    let publisher = Publisher::new();
    let origin = origin_with(&publisher, &["1.0.0"], 10).await;
    let mut site = Site::new(&entry(""), &origin);
    origin.put(
        "registry.example/files/demo_1.0.0_SHA256SUMS.sig",
        b"rubbish",
    );
    let wrong = site.sync().await;
    assert!(wrong.failures[0].is_untrusted() && wrong.generation.is_none());

    origin.publish(&publisher, DEMO, "1.1.0", &PLATFORMS, 10);
    assert_eq!(reasons(&site.sync().await), "");
    let other = Publisher::new();
    origin.publish(&other, DEMO, "1.2.0", &PLATFORMS, 10);
    let refused = site.sync().await;
    let text = reasons(&refused);
    assert!(refused.failures[0].is_untrusted(), "{text}");
    assert!(
        text.contains(&format!(
            "--accept-key registry.example/acme={}",
            other.fingerprint()
        )),
        "{text}"
    );
    site.accepted.keys.insert(other.fingerprint());
    assert_eq!(reasons(&site.sync().await), "");

    let late = Publisher::expired(11);
    site.accepted.keys.insert(late.fingerprint());
    origin.publish(&late, DEMO, "1.3.0", &PLATFORMS, 10);
    let text = reasons(&site.sync().await);
    assert!(text.contains("expired on 2020-09-24"), "{text}");
    assert!(
        text.contains(&format!("--allow-expired {}", late.fingerprint())),
        "{text}"
    );
    site.accepted.expired.push(late.fingerprint());
    assert_eq!(reasons(&site.sync().await), "");
}

#[tokio::test]
async fn what_a_key_signed_before_it_expired_is_taken_with_a_word() {
    let early = Publisher::expired(9);
    let origin = origin_with(&early, &["1.0.0"], 10).await;
    let site = Site::new(&entry(""), &origin);

    let report = site.sync().await;

    assert_eq!(reasons(&report), "");
    assert!(
        site.said().contains(&early.fingerprint()),
        "{}",
        site.said()
    );
}

#[tokio::test]
async fn what_nobody_published_is_said_with_what_there_is() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 10).await;
    let gone = "[[providers]]\nsource = \"registry.example/acme/gone\"\n";
    let site = Site::new(
        &format!("{}{gone}", entry("\"~> 3.0\", \"newest\"")),
        &origin,
    );

    let report = site.sync().await;

    let text = reasons(&report);
    assert_eq!(report.failures.len(), 2, "{text}");
    assert!(
        text.contains("`~> 3.0`") && text.contains("the newest is 1.0.0"),
        "{text}"
    );
    assert!(text.contains("acme/gone"), "{text}");
    assert!(
        !report
            .failures
            .iter()
            .any(outpost::mirror::sync::Failure::is_untrusted)
    );
    assert_eq!(report.files, 2);
}

/// A `tar.gz` whose files lie below one directory, as forges make them.
fn archive(dir: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        Default::default(),
    ));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let name = format!("{dir}/{name}");
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn requires(version: &str) -> String {
    let demo = format!("demo = {{ source = \"{DEMO}\", version = \"{version}\" }}");
    format!("terraform {{\n  required_providers {{\n    {demo}\n  }}\n}}\n")
}

#[tokio::test]
async fn a_template_brings_its_modules_from_wherever_they_are_and_what_those_need() {
    let versions = ["1.0.0", "1.1.0", "1.2.0", "2.0.0"];
    let origin = origin_with(&Publisher::new(), &versions, 10).await;
    let url = &origin.url;
    let in_git = format!(
        "module \"zip\" {{ source = \"{url}/files/extra.tar.gz//extra-1\" }}\n{}",
        requires("< 1.2")
    );
    origin.publish_git("git/mods.git", &[("vpc/main.tf", in_git.as_str())]);
    origin.put(
        "files/extra.tar.gz",
        &archive("extra-1", &[("main.tf", "")]),
    );
    let in_module =
        format!("module \"vpc\" {{ source = \"git::{url}/git/mods.git//vpc?ref=v1\" }}\n");
    let packed = archive(
        "ide-1.3.0/modules/ide",
        &[("main.tf", in_module.as_str()), ("run.sh", "#!/bin/sh")],
    );
    origin.put("registry.example/files/ide.tar.gz", &packed);
    for version in ["1.2.0", "1.3.0", "2.0.0"] {
        let location = "/registry.example/files/ide.tar.gz//*/modules/ide?archive=tar.gz";
        origin.publish_module("registry.example/acme/ide/coder", version, location);
    }
    let site = Site::new("[[templates]]\npath = \"templates/*\"\n", &origin);
    let write = |path: &str, text: &str| {
        let path = site.dir.path().join("templates").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let call = "module \"ide\" {\n  source  = \"registry.example/acme/ide/coder\"\n  version = \"~> 1.2\"\n}\n";
    write("docker/main.tf", &format!("{}{call}", requires(">= 1.0")));
    write(
        "docker/s3.tf",
        "module \"s3\" { source = \"s3::https://bucket.example/x.zip\" }\n",
    );
    write("locked/main.tf", &format!("{}{call}", requires(">= 1.0")));
    let hash = "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let lock =
        format!("provider \"{DEMO}\" {{\n  version = \"1.0.0\"\n  hashes = [\"{hash}\"]\n}}\n");
    write("locked/.terraform.lock.hcl", &lock);

    let report = site.sync().await;

    assert_eq!(reasons(&report), "");
    let (_, generation) = site.store().newest().unwrap();
    let versions: Vec<_> = generation
        .providers
        .iter()
        .map(|p| p.version.to_string())
        .collect();
    assert_eq!(
        versions,
        ["1.0.0", "1.1.0"],
        "the lock file's, and the newest that all modules accept"
    );
    let module = &generation.modules[0];
    assert_eq!(
        (module.addr.as_str(), module.version.to_string()),
        ("registry.example/acme/ide/coder", "1.3.0".to_owned())
    );
    let tree = outpost::mirror::scan::Tree::of_archive(
        &std::fs::read(site.store().path(module.archive)).unwrap(),
    )
    .unwrap();
    assert_eq!(tree.files.keys().collect::<Vec<_>>(), ["main.tf", "run.sh"]);
    let git = &generation.git[0];
    assert_eq!(git.url, format!("{url}/git/mods.git"));
    assert_eq!(
        (git.head.as_deref(), git.refs.contains_key("refs/tags/v1")),
        (Some("refs/heads/trunk"), true)
    );
    assert_eq!(generation.files[0].url, format!("{url}/files/extra.tar.gz"));
    let said = site.said();
    assert!(
        said.contains("module.s3: s3::https://bucket.example/x.zip cannot be mirrored"),
        "{said}"
    );
    assert!(
        said.contains(".terraform.lock.hcl of") && said.contains("does not match"),
        "{said}"
    );
    let asked: Vec<_> = origin
        .asked()
        .into_iter()
        .filter(|line| !line.contains("/git/"))
        .collect();
    let unique: BTreeSet<_> = asked.iter().collect();
    assert_eq!(unique.len(), asked.len(), "{asked:#?}");

    let again = site.sync().await;

    assert_eq!((reasons(&again).as_str(), again.is_new), ("", false));
    // The archive without a version. A module is compared with its pin, and stays.
    assert_eq!(again.files, 1);
    let asked = origin.asked();
    assert!(
        !asked.iter().any(|line| line.contains("/objects/")),
        "{asked:#?}"
    );
}

#[tokio::test]
async fn a_module_that_nobody_has_is_missed_with_its_caller_and_the_template_comes_all_the_same() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 10).await;
    let site = Site::new("[[templates]]\npath = \"template\"\n", &origin);
    let template = site.dir.path().join("template");
    std::fs::create_dir(&template).unwrap();
    let call = format!(
        "{}module \"gone\" {{ source = \"registry.example/acme/gone/coder\" }}\n",
        requires("1.0.0")
    );
    std::fs::write(template.join("main.tf"), call).unwrap();

    let report = site.sync().await;

    let text = reasons(&report);
    assert_eq!(report.failures.len(), 1, "{text}");
    assert!(
        text.contains("module.gone") && text.contains("404"),
        "{text}"
    );
    assert_eq!(report.files, 2);
}

#[tokio::test]
async fn engines_modules_repositories_files_and_this_program_come_by_name() {
    let publisher = Publisher::new();
    let origin = Origin::start().await;
    for version in ["1.14.4", "1.14.5", "1.15.0"] {
        origin.publish_tool(&publisher, "terraform", version, &PLATFORMS);
    }
    origin.put("files/ide.tar.gz", &archive("x", &[("main.tf", "")]));
    for version in ["1.0.0", "1.1.0", "2.0.0"] {
        origin.publish_module(
            "registry.example/acme/ide/coder",
            version,
            "/files/ide.tar.gz//x",
        );
    }
    origin.publish_git("git/mods.git", &[("main.tf", "")]);
    let code_server = vec![7; 100_000];
    origin.put("files/code-server.tar.gz", &code_server);
    let (url, digest) = (&origin.url, outpost::mirror::Digest::of(&code_server));
    let config = format!(
        "[[tools]]\nname = \"terraform\"\nversions = [\"~> 1.14.0\", \"newest\"]\nurl = \"{url}/releases\"\nkey = \"key.asc\"\n\
         [[tools]]\nname = \"outpost\"\npath = \"program\"\nplatforms = [\"linux_arm64\"]\n\
         [[modules]]\nsource = \"registry.example/acme/ide/coder\"\nversions = [\"newest-2\"]\n\
         [[git]]\nurl = \"{url}/git/mods.git\"\nrefs = [\"v*\"]\n\
         [[files]]\nurl = \"{url}/files/code-server.tar.gz\"\nsha256 = \"{digest}\"\n"
    );
    let mut site = Site::new(&config, &origin);
    std::fs::write(site.dir.path().join("key.asc"), publisher.armored()).unwrap();
    std::fs::write(site.dir.path().join("program"), "#!/bin/sh\n").unwrap();
    site.dry_run = true;
    let planned = site.sync().await;
    assert_eq!((reasons(&planned).as_str(), planned.unknown), ("", 0));
    assert!(
        !origin
            .asked()
            .iter()
            .any(|line| line.starts_with("GET") && line.ends_with("amd64.zip"))
    );
    site.dry_run = false;

    let report = site.sync().await;

    assert_eq!(reasons(&report), "");
    assert_eq!(report.files, planned.files);
    let store = site.store();
    let (_, generation) = store.newest().unwrap();
    let tools: Vec<_> = generation
        .tools
        .iter()
        .map(|t| format!("{} {} {}", t.name, t.version, t.platform))
        .collect();
    let own = format!("outpost {} linux_arm64", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        tools,
        [
            own.as_str(),
            "terraform 1.14.5 linux_amd64",
            "terraform 1.14.5 linux_arm64",
            "terraform 1.15.0 linux_amd64",
            "terraform 1.15.0 linux_arm64",
        ]
    );
    let unpacked = store.tool(&generation.tools[1]).unwrap().join("terraform");
    assert!(
        std::fs::read_to_string(unpacked)
            .unwrap()
            .contains("1.14.5 linux_amd64")
    );
    let modules: Vec<_> = generation
        .modules
        .iter()
        .map(|module| module.version.to_string())
        .collect();
    assert_eq!(modules, ["1.1.0", "2.0.0"]);
    let refs: Vec<_> = generation.git[0].refs.keys().collect();
    assert_eq!(refs, ["refs/tags/v1"]);
    assert_eq!(generation.files[0].size, 100_000);
    origin.asked();
    let again = site.sync().await;
    assert_eq!((again.is_new, again.files, again.present), (false, 0, 5));
    assert!(downloads(&origin.asked()).is_empty());
}

#[tokio::test]
async fn an_engine_that_its_publisher_did_not_sign_is_not_taken() {
    let origin = Origin::start().await;
    origin.publish_tool(&Publisher::new(), "terraform", "1.14.5", &PLATFORMS);
    let url = &origin.url;
    let config = format!(
        "[[tools]]\nname = \"terraform\"\nversions = [\"1.14.5\"]\nurl = \"{url}/releases/\"\n"
    );
    let site = Site::new(&config, &origin);

    let report = site.sync().await;

    assert!(report.failures[0].is_untrusted(), "{}", reasons(&report));
    assert!(report.generation.is_none() && downloads(&origin.asked()).is_empty());
}

#[tokio::test]
async fn doctor_and_lock_tell_a_template_what_a_mirror_has() {
    let origin = origin_with(&Publisher::new(), &["1.0.0", "2.0.0"], 10).await;
    let site = Site::new(&entry("\"1.0.0\""), &origin);
    assert_eq!(reasons(&site.sync().await), "");
    let template = site.dir.path().join("template");
    std::fs::create_dir(&template).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outpost"));
        command
            .arg("mirror")
            .args(arguments)
            .args(["--output", "json"]);
        command
            .arg(&template)
            .env("OUTPOST_MIRROR_DIR", site.store().dir());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    };

    std::fs::write(template.join("main.tf"), requires("~> 2.0")).unwrap();
    let (code, text) = run(&["doctor"]);
    assert!(
        code == 1 && text.contains("version-unsatisfiable") && text.contains("there is 1.0.0"),
        "{code} {text}"
    );
    assert_eq!(run(&["lock"]).0, 1);

    std::fs::write(template.join("main.tf"), requires("~> 1.0")).unwrap();
    let (code, text) = run(&[
        "doctor",
        "--platform",
        "linux_amd64",
        "--platform",
        "linux_arm64",
    ]);
    assert!(code == 0 && text.contains("\"present\""), "{code} {text}");
    assert_eq!(run(&["lock", "--check"]).0, 1);
    assert_eq!(run(&["lock"]).0, 0);
    assert_eq!(run(&["lock", "--check"]).0, 0);
    let lock = std::fs::read_to_string(template.join(".terraform.lock.hcl")).unwrap();
    assert_eq!(
        (lock.matches("h1:").count(), lock.matches("zh:").count()),
        (2, 2),
        "{lock}"
    );

    let other = "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let foreign =
        format!("provider \"{DEMO}\" {{\n  version = \"1.0.0\"\n  hashes = [\"{other}\"]\n}}\n");
    std::fs::write(template.join(".terraform.lock.hcl"), foreign).unwrap();
    let (code, text) = run(&["doctor"]);
    assert!(code == 1 && text.contains("lock-mismatch"), "{code} {text}");
}

/// A directory of the web as `terraform providers mirror` makes one: documents beside packages, and `h1` alone.
fn publish_as_network_mirror(origin: &Origin, hash: &str) {
    let package =
        origin.file("registry.example/files/terraform-provider-demo_1.1.0_linux_amd64.zip");
    let base = format!("net/{DEMO}");
    origin.put(&format!("{base}/demo.zip"), &package);
    let index = serde_json::json!({"versions": {"1.0.0": {}, "1.1.0": {}}});
    origin.put(&format!("{base}/index.json"), index.to_string().as_bytes());
    let version = serde_json::json!({
        "archives": {"linux_amd64": {"url": "demo.zip", "hashes": [hash]}}
    });
    origin.put(
        &format!("{base}/1.1.0.json"),
        version.to_string().as_bytes(),
    );
}

#[tokio::test]
async fn a_network_mirror_vouches_for_what_it_has_by_checksums() {
    let origin = origin_with(&Publisher::new(), &["1.0.0", "1.1.0"], 100).await;
    let upstream = Site::new(&entry("\"1.1.0\""), &origin);
    assert_eq!(reasons(&upstream.sync().await), "");
    let (_, generation) = upstream.store().newest().unwrap();
    let package = &generation.providers[0].packages[0];
    assert_eq!(package.platform.to_string(), "linux_amd64");
    let one = entry("\"~> 1.0\"") + "platforms = [\"linux_amd64\"]\n";
    let from = |site: &Site| {
        let mut sync = site.prepare();
        let url = format!("{}/net", origin.url).parse().unwrap();
        let mirror = NetworkMirror::new(&url, sync.fetcher.clone(), Arc::new(|_| None));
        sync.registries = sync.registries.with_mirror(mirror);
        sync
    };
    origin.asked();

    publish_as_network_mirror(&origin, &package.h1_zip.to_string());
    let site = Site::new(&one, &origin);
    let first = from(&site).run(&Stop::new()).await.unwrap();
    let second = from(&site).run(&Stop::new()).await.unwrap();

    assert_eq!(reasons(&first), "");
    assert_eq!((first.files, second.files, second.present), (1, 0, 1));
    let (_, taken) = site.store().newest().unwrap();
    assert_eq!(taken.providers[0].packages, std::slice::from_ref(package));
    assert!(taken.providers[0].signed.is_none());
    let asked = origin.asked();
    assert!(asked.iter().all(|line| line.contains("/net/")), "{asked:?}");

    publish_as_network_mirror(&origin, &format!("h1:{}=", "A".repeat(43)));
    let other = Site::new(&one, &origin);
    let report = from(&other).run(&Stop::new()).await.unwrap();
    assert!(
        reasons(&report).contains("none of the checksums") && report.failures[0].is_untrusted(),
        "{}",
        reasons(&report)
    );
    let pinned = format!(
        "{one}[trust]\n\"registry.example/acme\" = [\"{}\"]\n",
        "A".repeat(40)
    );
    let strict = Site::new(&pinned, &origin);
    let report = from(&strict).run(&Stop::new()).await.unwrap();
    assert!(
        reasons(&report).contains("publisher's signature") && report.failures[0].is_untrusted(),
        "{}",
        reasons(&report)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_read_from_another_ones_server() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 100).await;
    let upstream = Site::new(&entry("\"newest\""), &origin);
    assert_eq!(reasons(&upstream.sync().await), "");
    let server = Server::new(upstream.store(), Access::tokens(Vec::new()));
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::standard());
    let listener = listener.await.unwrap();
    let url = format!("{}mirror", listener.url());
    tokio::spawn(listener.serve(server.router(), Stop::new()));
    let site = Site::new(&entry("\"newest\""), &origin);
    origin.asked();

    let output = std::process::Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args([
            "mirror",
            "sync",
            "--mirror-dir",
            "mirror",
            "--from-mirror",
            &url,
        ])
        .current_dir(site.dir.path())
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let packages = |site: &Site| {
        site.store().newest().unwrap().1.providers[0]
            .packages
            .clone()
    };
    assert_eq!(packages(&site), packages(&upstream));
    assert!(origin.asked().is_empty(), "the origin was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_site_asked_for_in_vain_is_what_the_next_sync_brings() {
    outpost::net::install_crypto_provider();
    let origin = origin_with(&Publisher::new(), &["1.0.0", "1.1.0"], 100).await;
    let inside = tempfile::tempdir().unwrap();
    let store = Store::open(inside.path()).unwrap();
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(Default::default(), None, &lock).unwrap();
    drop(lock);
    let server = Server::new(store, Access::tokens(Vec::new()));
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, Limits::standard());
    let listener = listener.await.unwrap();
    let url = listener.url();
    tokio::spawn(listener.serve(server.router(), Stop::new()));
    for path in [
        format!("v1/providers/{HOST}/acme/demo/1.0.0/download/linux/arm64"),
        "files/files.example/tool.tar.gz".to_owned(),
    ] {
        let asked = reqwest::get(url.join(&path).unwrap()).await.unwrap();
        assert_eq!(asked.status(), 404, "{path}");
    }
    let list = reqwest::get(url.join("api/missing").unwrap())
        .await
        .unwrap();
    let site = Site::new("", &origin);
    let file = site.dir.path().join("misses.json");
    std::fs::write(&file, list.bytes().await.unwrap()).unwrap();

    let output = std::process::Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args([
            "mirror",
            "sync",
            "--mirror-dir",
            "mirror",
            "--misses",
            "misses.json",
        ])
        .current_dir(site.dir.path())
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("files.example/tool.tar.gz"), "{said}");
    let (_, generation) = site.store().newest().unwrap();
    let [demo] = &generation.providers[..] else {
        panic!("one provider was missing");
    };
    assert_eq!(demo.version.to_string(), "1.0.0");
    assert_eq!(demo.packages[0].platform.to_string(), "linux_arm64");
}

#[test]
fn the_command_tells_by_its_code_how_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outpost"));
        command
            .args(["mirror", "sync"])
            .args(arguments)
            .current_dir(dir.path());
        command.env("OUTPOST_MIRROR_DIR", dir.path().join("mirror"));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), text)
    };

    let (code, text) = run(&[]);
    assert!(code == 2 && text.contains("mirror.toml"), "{code} {text}");
    std::fs::write(dir.path().join("mirror.toml"), "platforms = [\"linux\"]\n").unwrap();
    let (code, text) = run(&[]);
    assert!(code == 2 && text.contains("line 1"), "{code} {text}");
    std::fs::write(dir.path().join("mirror.toml"), "").unwrap();
    import_tree(&dir.path().join("tree"));
    let (code, text) = run(&["--import-dir", "tree"]);
    assert!(code == 0, "{code} {text}");
    std::fs::write(
        dir.path()
            .join("tree/registry.example/acme/demo/terraform-provider-demo_2.0.0_linux_amd64.zip"),
        "rubbish",
    )
    .unwrap();
    let (code, text) = run(&["--import-dir", "tree"]);
    assert!(code == 4 && text.contains("demo_2.0.0"), "{code} {text}");
}

/// A directory as `terraform providers mirror` makes it.
fn import_tree(dir: &Path) {
    use std::io::Write as _;
    let dir = dir.join(DEMO);
    std::fs::create_dir_all(&dir).unwrap();
    let file =
        std::fs::File::create(dir.join("terraform-provider-demo_1.0.0_linux_amd64.zip")).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file("terraform-provider-demo_v1.0.0", options)
        .unwrap();
    zip.write_all(b"#!/bin/sh\n").unwrap();
    zip.finish().unwrap();
}

/// A Coder server with two templates, which wants a token.
async fn coder(templates: Vec<(&'static str, Vec<u8>)>) -> String {
    use axum::{Json, Router, extract::Path, http::HeaderMap, http::StatusCode, routing::get};
    let id = |index: usize| format!("00000000-0000-4000-8000-{index:012}");
    let listed: Vec<_> = templates
        .iter()
        .enumerate()
        .map(|(index, (name, _))| {
            serde_json::json!({
                "id": id(100 + index), "name": name, "organization_name": "coder",
                "active_version_id": id(index), "deprecated": false,
            })
        })
        .collect();
    let archives: Vec<_> = templates.into_iter().map(|(_, archive)| archive).collect();
    let index = |text: &str| text.rsplit('-').next().unwrap().parse::<usize>().unwrap();
    let admitted = |headers: &HeaderMap| {
        headers
            .get("coder-session-token")
            .is_some_and(|it| it == "a-token")
    };
    let app = Router::new()
        .route(
            "/api/v2/templates",
            get(async move |headers: HeaderMap| match admitted(&headers) {
                true => Ok(Json(listed)),
                false => Err(StatusCode::UNAUTHORIZED),
            }),
        )
        .route(
            "/api/v2/templateversions/{version}",
            get(async move |Path(version): Path<String>| {
                Json(serde_json::json!({ "job": { "file_id": id(index(&version)) } }))
            }),
        )
        .route(
            "/api/v2/files/{file}",
            get(async move |Path(file): Path<String>| archives[index(&file)].clone()),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn tar_of(text: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, "main.tf", text.as_bytes())
        .unwrap();
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn the_active_templates_of_a_server_get_what_they_need() {
    let origin = origin_with(&Publisher::new(), &["1.0.0", "2.0.0"], 1000).await;
    let old = tar_of(&requires("1.0.0"));
    let new = tar_of(&requires(">= 2"));
    let server = coder(vec![("old", old), ("new", new)]).await;
    let entry = format!("[[templates]]\ncoder = \"{server}\"\ntoken_file = \"token\"\n");
    let site = Site::new(&entry, &origin);

    let without = site.sync().await;
    std::fs::write(site.dir.path().join("token"), "wrong\n").unwrap();
    let refused = site.sync().await;
    std::fs::write(site.dir.path().join("token"), "a-token\n").unwrap();
    let report = site.sync().await;

    assert!(
        reasons(&without).contains("token` cannot be read"),
        "{}",
        reasons(&without)
    );
    let refused = reasons(&refused);
    assert!(
        refused.contains("does not accept this token") && !refused.contains("wrong"),
        "{refused}"
    );
    assert_eq!(reasons(&report), "");
    let versions: Vec<_> = report
        .synced
        .providers
        .iter()
        .map(|it| it.version.to_string())
        .collect();
    assert_eq!(versions, ["1.0.0", "2.0.0"]);
}

#[tokio::test]
async fn a_server_without_a_token_file_gets_the_token_of_the_session() {
    let origin = origin_with(&Publisher::new(), &["1.0.0"], 1000).await;
    let server = coder(vec![("only", tar_of(&requires("1.0.0")))]).await;
    let site = Site::new(&format!("[[templates]]\ncoder = \"{server}\"\n"), &origin);

    let mut sync = site.prepare();
    let without = sync.run(&Stop::new()).await.unwrap();
    sync.session_token = Some(Secret::new("a-token"));
    let with = sync.run(&Stop::new()).await.unwrap();

    let without = reasons(&without);
    assert!(without.contains("no token is given"), "{without}");
    assert_eq!(reasons(&with), "");
    assert_eq!(with.synced.providers.len(), 1);
}
