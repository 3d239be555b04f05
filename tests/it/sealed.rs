//! A real engine without a way out, and a mirror with all it needs.

use std::{
    fs::Permissions,
    io::{Cursor, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outpost::{
    mirror::{
        Generation, Packages, Remote, Store,
        generation::{Package, Provider, StaticFile, Tool},
        serve::{Access, Loopback, Proxy, Server},
        tend::{Keep, collect, prune},
    },
    net::{
        http,
        listener::{Limits, Listener},
    },
    provision::StepFailure,
    registry::Platform,
    secret::Secret,
    stop::Stop,
    terraform::{
        Engine,
        providers::{Mode, Presenter},
    },
};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    mirror::serve::{module, repository},
    plugin_cache::{built, engine_with, planned, presenter},
};

/// Nobody listens there: whatever wants out fails, and says so.
const NO_WAY_OUT: &str = "http://127.0.0.1:9";

/// A package whose program is ours: it serves the plugin protocol like any other.
pub fn package(store: &Store, version: &str) -> Package {
    let program = env!("CARGO_BIN_EXE_outpost");
    package_of(
        store,
        version,
        &format!("#!{program} terraform-provider-coder\n"),
    )
}

/// A package with a script for its program.
fn package_of(store: &Store, version: &str, script: &str) -> Package {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    let name = format!("terraform-provider-coder_v{version}");
    zip.start_file(name, options).unwrap();
    zip.write_all(script.as_bytes()).unwrap();
    zip.start_file("VERSION", SimpleFileOptions::default())
        .unwrap();
    zip.write_all(version.as_bytes()).unwrap();
    let content = zip.finish().unwrap().into_inner();
    let archive = store.put(&content).unwrap();
    let platform = Platform::current();
    let filename = format!("terraform-provider-coder_{version}_{platform}.zip");
    let (h1_zip, h1_tree) = store.checksums(archive, &filename).unwrap();
    Package {
        platform,
        filename,
        archive,
        size: content.len() as u64,
        h1_zip,
        h1_tree,
    }
}

/// A mirror with some versions of a provider.
async fn mirror(dir: &Path, versions: &[&str]) -> Store {
    let store = Store::open(&dir.join("store")).unwrap();
    let packages = versions
        .iter()
        .map(|version| (*version, package(&store, version)));
    commit(&store, packages.collect()).await;
    store
}

/// A mirror whose one provider runs a script.
pub async fn mirror_of(dir: &Path, script: &str) {
    let store = Store::open(dir).unwrap();
    let package = package_of(&store, "1.0.0", script);
    commit(&store, vec![("1.0.0", package)]).await;
}

async fn commit(store: &Store, packages: Vec<(&str, Package)>) {
    let provider = |(version, package): (&str, Package)| Provider {
        addr: "registry.terraform.io/acme/coder".parse().unwrap(),
        version: version.parse().unwrap(),
        protocols: vec!["6.0".to_owned()],
        signed: None,
        packages: vec![package],
    };
    let generation = Generation {
        providers: packages.into_iter().map(provider).collect(),
        ..Generation::default()
    };
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
}

async fn sealed(dir: &Path, store: &Store) -> Engine {
    let packages = Packages {
        store: store.clone(),
        platform: Platform::current(),
        server: Some(Arc::new(Loopback::start(store.clone()).await.unwrap())),
        max_unpacked_bytes: None,
        is_sealed: true,
    };
    let presenter = presenter(dir, Mode::Builtin)
        .with_mirror(Some(Arc::new(packages)))
        .sealed(true);
    without_way_out(dir, presenter)
}

fn without_way_out(dir: &Path, presenter: Presenter) -> Engine {
    engine_with(dir, presenter, |environment| {
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
            environment.set(name, NO_WAY_OUT);
        }
    })
}

fn template(source: &str, constraint: &str) -> String {
    format!(
        r#"
terraform {{
  required_providers {{
    acme  = {{
      source  = "{source}"
      version = "{constraint}"
    }}
    coder = {{ source = "coder/coder" }}
  }}
}}
data "coder_workspace" "builtin" {{}}
data "coder_workspace" "mirrored" {{ provider = acme }}
"#
    )
}

async fn installed(engine: &Engine, constraint: &str) -> (Result<(), StepFailure>, String) {
    let template = template("acme/coder", constraint);
    planned(engine, &[("main.tf", &template)]).await
}

#[tokio::test]
async fn an_engine_picks_the_version_that_it_would_pick_from_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0", "1.1.0", "2.0.0"]).await;
    let engine = sealed(dir.path(), &store).await;

    for (constraint, version) in [(">= 1", "2.0.0"), ("~> 1.0", "1.1.0"), ("1.0.0", "1.0.0")] {
        let (ended, log) = installed(&engine, constraint).await;

        ended.unwrap_or_else(|failure| panic!("{constraint}: {failure:?}\n{log}"));
        assert!(
            log.contains(&format!("acme/coder v{version}")),
            "{constraint}: {log}"
        );
    }
}

#[tokio::test]
async fn a_module_s_constraint_that_nobody_could_foresee_is_met_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0", "2.0.0"]).await;
    let engine = sealed(dir.path(), &store).await;
    // Our reader takes the root's constraint alone: a module in JSON calls this one from outside of the tree.
    let root = template("acme/coder", ">= 1") + "module \"inner\" { source = \"./inner\" }\n";
    let inner = r#"{"terraform": {"required_providers": {"acme": {"source": "acme/coder", "version": "< 2"}}}}"#;

    let files = [("main.tf", root.as_str()), ("inner/main.tf.json", inner)];
    let (ended, log) = planned(&engine, &files).await;

    ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
    assert!(log.contains("acme/coder v1.0.0"), "{log}");
}

#[tokio::test]
async fn an_unpacked_provider_that_was_changed_never_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0"]).await;
    let engine = sealed(dir.path(), &store).await;
    let (ended, log) = installed(&engine, ">= 1").await;
    ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
    let (_, generation) = store.newest().unwrap();
    let package = generation.providers[0].packages[0].clone();
    let tree = store.existing_tree(&package).unwrap();
    let program = tree.join("terraform-provider-coder_v1.0.0");
    let evidence = dir.path().join("it-ran");
    let changed = std::fs::metadata(&program).unwrap().modified().unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    // A step without a lock file is what the engine would check nothing against.
    std::fs::write(
        &program,
        format!("#!/bin/sh\ntouch {}\n", evidence.display()),
    )
    .unwrap();
    let file = std::fs::File::options().write(true).open(&program).unwrap();
    file.set_modified(changed).unwrap();
    drop(file);
    assert!(store.known_tree(&package).is_none());

    let (ended, log) = installed(&engine, ">= 1").await;

    ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
    assert!(!evidence.exists(), "the changed program ran");
    assert_eq!(store.known_tree(&package).unwrap(), tree);
    assert!(
        store.dir().join("trash").is_dir(),
        "the changed files are put aside"
    );
}

#[tokio::test]
async fn a_lock_file_from_elsewhere_is_satisfied_if_it_means_the_same_package() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0", "1.1.0"]).await;
    let engine = sealed(dir.path(), &store).await;
    let zh = package(&store, "1.0.0").archive.zh();
    let lock = |hash: &str| {
        format!(
            "provider \"registry.terraform.io/acme/coder\" {{\n  version = \"1.0.0\"\n  hashes = [\n    \
             \"{hash}\",\n  ]\n}}\n"
        )
    };
    let main = template("acme/coder", ">= 1");

    for (hash, is_same) in [
        (zh.to_string(), true),
        (format!("zh:{}", "7".repeat(64)), false),
    ] {
        let lock = lock(&hash);
        let files = [("main.tf", main.as_str()), (".terraform.lock.hcl", &lock)];
        let (ended, log) = planned(&engine, &files).await;

        assert_eq!(ended.is_ok(), is_same, "{hash}: {ended:?}\n{log}");
        match ended {
            Ok(()) => assert!(log.contains("acme/coder v1.0.0"), "{log}"),
            Err(failure) => assert!(failure.error.contains("checksums"), "{}", failure.error),
        }
    }
}

#[tokio::test]
async fn what_the_mirror_does_not_have_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0"]).await;
    let engine = sealed(dir.path(), &store).await;

    for (source, constraint, said) in [
        ("acme/coder", ">= 3", "no available releases match"),
        ("acme/other", ">= 1", "acme/other"),
    ] {
        let template = template(source, constraint);
        let (ended, log) = planned(&engine, &[("main.tf", &template)]).await;

        ended.unwrap_err();
        assert!(log.contains(said) && !log.contains("127.0.0.1"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_jobs_build_while_generations_come_and_go_and_what_nobody_needs_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0"]).await;
    let engine = sealed(dir.path(), &store).await;
    let template = template("acme/coder", ">= 1")
        + "resource \"terraform_data\" \"built\" {\n  input = data.coder_workspace.mirrored.id\n}\n";

    let jobs = (0..16).map(async |_| {
        let (ended, log) = built(&engine, &[("main.tf", &template)]).await;
        ended.map_err(|failure| format!("{failure:?}\n{log}"))
    });
    let jobs = futures::future::join_all(jobs);
    // Each generation has a version of its own, and only the newest one stays but for what jobs hold.
    let mut collected = 0;
    let tending = async {
        for patch in 1.. {
            let version = format!("1.0.{patch}");
            let package = package(&store, &version);
            let lock = store.lock(&Stop::new()).await.unwrap();
            let (number, mut generation) = store.newest().unwrap();
            generation.providers[0].version = version.parse().unwrap();
            generation.providers[0].packages = vec![package];
            store.commit(generation, Some(number), &lock).unwrap();
            let keep = Keep {
                generations: 1,
                ..Keep::default()
            };
            prune(&store, &keep, &lock).unwrap();
            let now = SystemTime::now() + Duration::from_secs(1);
            collected += collect(&store, Duration::ZERO, now, false, &lock)
                .unwrap()
                .files;
            drop(lock);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::select! {
        ended = jobs => ended,
        () = tending => unreachable!("it has no end"),
    };

    assert!(collected > 0, "nothing was collected meanwhile");
    let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for number in store.generations().unwrap() {
        assert!(
            !store.is_leased(number).unwrap(),
            "{number} is still leased"
        );
    }
}

/// A template whose modules come from a registry and from a repository.
const MODULES: &str = r#"
module "hello" {
  source  = "modules.example/acme/hello/coder"
  version = "~> 1.0"
}
module "inner" {
  source = "git::https://git.example/acme/mods.git//inner?ref=v1.0.0"
}
output "from" {
  value = "${module.hello.from} and ${module.inner.from}"
}
"#;

/// The store's mirror with these modules, besides a provider.
async fn with_modules(dir: &Path) -> Store {
    let store = mirror(dir, &["1.0.0"]).await;
    let origin = dir.join("origin");
    std::fs::create_dir(&origin).unwrap();
    let (repository, _) = repository(&origin, &store);
    let (number, mut generation) = store.newest().unwrap();
    generation.modules = vec![module(&store)];
    generation.git = vec![repository];
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, Some(number), &lock).unwrap();
    store
}

#[tokio::test]
async fn modules_of_registries_and_repositories_come_from_the_mirror_for_templates_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_modules(dir.path()).await;
    let engine = sealed(dir.path(), &store).await;

    let (ended, log) = planned(&engine, &[("main.tf", MODULES)]).await;

    ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
    assert!(log.contains("Outputs: 1"), "{log}");
}

#[tokio::test]
async fn a_served_mirror_is_as_good_as_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_modules(dir.path()).await;
    let token = Secret::new("0123456789abcdef");
    let server = Server::new(store, Access::tokens(vec![token.clone()]));
    let anywhere = ([127, 0, 0, 1], 0).into();
    let listener = Listener::bind(anywhere, None, Limits::standard())
        .await
        .unwrap();
    let url = listener.url();
    tokio::spawn(listener.serve(server.router(), Stop::new()));
    let engine_for = |token| {
        let client = http::Client::new(http::Config::new(url.clone())).unwrap();
        let presenter = presenter(dir.path(), Mode::Builtin)
            .with_mirror(Some(Arc::new(Remote::new(client, token))))
            .sealed(true);
        without_way_out(dir.path(), presenter)
    };

    let (admitted, log) = planned(&engine_for(Some(token)), &[("main.tf", MODULES)]).await;
    let (refused, _) = planned(&engine_for(None), &[("main.tf", MODULES)]).await;

    admitted.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
    assert!(log.contains("Outputs: 1"), "{log}");
    let refused = refused.unwrap_err().error;
    assert!(refused.contains("requires a token"), "{refused}");
}

pub const ARCHIVE: &str = "https://archives.example/mods/v1/hello.tar.gz";

/// A mirror with a provider, and a module's archive by its own address.
pub async fn with_archive(dir: &Path) -> Store {
    let store = mirror(dir, &["1.0.0"]).await;
    let archive = module(&store);
    let (number, mut generation) = store.newest().unwrap();
    generation.files = vec![StaticFile {
        url: ARCHIVE.to_owned(),
        content: archive.archive,
        size: archive.size,
    }];
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, Some(number), &lock).unwrap();
    store
}

#[tokio::test]
async fn archives_come_from_the_mirror_by_their_own_addresses_and_nothing_else_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_archive(dir.path()).await;
    let packages = Packages {
        store: store.clone(),
        platform: Platform::current(),
        server: Some(Arc::new(Loopback::with_proxy(store).await.unwrap())),
        max_unpacked_bytes: None,
        is_sealed: true,
    };
    let presenter = presenter(dir.path(), Mode::Builtin)
        .with_mirror(Some(Arc::new(packages)))
        .sealed(true);
    let engine = without_way_out(dir.path(), presenter);
    let calls = |source: &str| {
        format!(
            "module \"hello\" {{\n  source = \"{source}\"\n}}\noutput \"from\" {{\n  value = module.hello.from\n}}\n"
        )
    };

    let (ended, log) = planned(&engine, &[("main.tf", &calls(ARCHIVE))]).await;
    ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
    assert!(log.contains("Outputs: 1"), "{log}");
    let elsewhere = calls("https://elsewhere.example/x.zip");
    let (refused, log) = planned(&engine, &[("main.tf", &elsewhere)]).await;
    let failure = refused.unwrap_err();
    assert!(log.contains("Forbidden"), "{failure:?}\n{log}");
}

#[tokio::test]
async fn a_proxy_gives_what_the_mirror_has_to_who_may_have_it() {
    outpost::net::install_crypto_provider();
    let dir = tempfile::tempdir().unwrap();
    let store = with_archive(dir.path()).await;
    let expected = std::fs::read(store.path(store.newest().unwrap().1.files[0].content)).unwrap();
    let token = Secret::new("0123456789abcdef");
    let server = Server::new(store, Access::tokens(vec![token]));
    let proxy = Proxy::new(&server, &dir.path().join("proxy")).unwrap();
    let anywhere = ([127, 0, 0, 1], 0).into();
    let listener = Listener::bind(anywhere, None, Limits::standard())
        .await
        .unwrap();
    let url = listener.url();
    tokio::spawn(listener.serve(proxy.router(), Stop::new()));
    let root = std::fs::read(outpost::net::ca::root_file(&dir.path().join("proxy"))).unwrap();
    let client = |password: &str| {
        let proxy = reqwest::Proxy::https(url.clone()).unwrap();
        let root = reqwest::Certificate::from_pem(&root).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]);
        client
            .proxy(proxy.basic_auth("x", password))
            .build()
            .unwrap()
    };
    let (ours, stranger) = (client("0123456789abcdef"), client("wrong"));

    for query in ["", "?archive=tar.gz"] {
        let answer = ours.get(format!("{ARCHIVE}{query}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.unwrap() == expected);
    }
    let gone = ours.get("https://archives.example/other.zip").send().await;
    assert_eq!(gone.unwrap().status(), 404);
    ours.get("https://elsewhere.example/x")
        .send()
        .await
        .unwrap_err();
    stranger.get(ARCHIVE).send().await.unwrap_err();
    let missed: Vec<_> = server
        .misses()
        .into_iter()
        .map(|miss| miss.item.name)
        .collect();
    assert_eq!(missed, ["archives.example/other.zip", "elsewhere.example"]);
}

#[tokio::test]
async fn an_unpacked_engine_that_was_changed_never_runs() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let store = Store::open(&home.join("mirror")).unwrap();
    let (good, evidence) = (home.join("good-ran"), home.join("it-ran"));
    let script = |file: &Path| format!("#!/bin/sh\necho x >> {}\nexit 1\n", file.display());
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file("terraform", options).unwrap();
    zip.write_all(script(&good).as_bytes()).unwrap();
    let content = zip.finish().unwrap().into_inner();
    let tool = Tool {
        name: "terraform".to_owned(),
        version: "1.11.4".parse().unwrap(),
        platform: Platform::current(),
        filename: "terraform.zip".to_owned(),
        archive: store.put(&content).unwrap(),
        size: content.len() as u64,
        signed: None,
    };
    let generation = Generation {
        tools: vec![tool.clone()],
        ..Generation::default()
    };
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
    drop(lock);
    std::fs::create_dir(home.join("template")).unwrap();
    std::fs::write(home.join("template/main.tf"), "").unwrap();
    let inspect = || {
        let mut inspect = std::process::Command::new(env!("CARGO_BIN_EXE_outpost"));
        inspect
            .args(["inspect", "template", "--mirror", "mirror"])
            .current_dir(home)
            .env_clear()
            // Without an engine in it, the mirror's is used.
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home);
        let output = inspect.output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = inspect();
    let runs = || std::fs::read_to_string(&good).map_or(0, |text| text.lines().count());
    let before = runs();
    assert!(before > 0, "the engine of the mirror ran: {said}");
    let program = store.unpacked(tool.archive).unwrap().join("terraform");
    let unpacked = std::fs::metadata(&program).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut other = script(&evidence);
    // Of the same length, and with the same time.
    while (other.len() as u64) < unpacked.len() {
        other.push('\n');
    }
    assert_eq!(other.len() as u64, unpacked.len());
    std::fs::write(&program, other).unwrap();
    let file = std::fs::File::options().write(true).open(&program).unwrap();
    file.set_modified(unpacked.modified().unwrap()).unwrap();
    drop(file);

    let said = inspect();

    assert!(!evidence.exists(), "the changed program ran");
    assert!(runs() > before, "the good one runs: {said}");
}
