//! A real engine without a way out, and a mirror with all it needs.

use std::{
    io::{Cursor, Write as _},
    path::Path,
    sync::Arc,
};

use outpost::{
    mirror::{
        Generation, Packages, Store,
        generation::{Package, Provider},
    },
    provision::StepFailure,
    registry::Platform,
    stop::Stop,
    terraform::{Engine, providers::Mode},
};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::plugin_cache::{engine_with, planned, presenter};

/// Nobody listens there: whatever wants out fails, and says so.
const NO_WAY_OUT: &str = "http://127.0.0.1:9";

/// A package whose program is ours: it serves the plugin protocol like any other.
fn package(store: &Store, version: &str) -> Package {
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

fn sealed(dir: &Path, store: &Store) -> Engine {
    let packages = Packages {
        store: store.clone(),
        platform: Platform::current(),
    };
    let presenter = presenter(dir, Mode::Builtin)
        .with_mirror(Some(Arc::new(packages)))
        .sealed(true);
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
    let engine = sealed(dir.path(), &store);

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
    let engine = sealed(dir.path(), &store);
    // Our reader takes the root's constraint alone: a module in JSON calls this one from outside of the tree.
    let root = template("acme/coder", ">= 1") + "module \"inner\" { source = \"./inner\" }\n";
    let inner = r#"{"terraform": {"required_providers": {"acme": {"source": "acme/coder", "version": "< 2"}}}}"#;

    let files = [("main.tf", root.as_str()), ("inner/main.tf.json", inner)];
    let (ended, log) = planned(&engine, &files).await;

    ended.unwrap_or_else(|failure| panic!("{failure:?}\n{log}"));
    assert!(log.contains("acme/coder v1.0.0"), "{log}");
}

#[tokio::test]
async fn a_lock_file_from_elsewhere_is_satisfied_if_it_means_the_same_package() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0", "1.1.0"]).await;
    let engine = sealed(dir.path(), &store);
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
    let engine = sealed(dir.path(), &store);

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
async fn sessions_share_unpacked_packages_while_generations_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = mirror(dir.path(), &["1.0.0"]).await;
    let engine = sealed(dir.path(), &store);

    let sessions = (0..4).map(async |_| {
        for _ in 0..2 {
            let (ended, log) = installed(&engine, ">= 1").await;
            ended.map_err(|failure| format!("{failure:?}\n{log}"))?;
        }
        Ok::<(), String>(())
    });
    let switches = async {
        for _ in 0..6 {
            let lock = store.lock(&Stop::new()).await.unwrap();
            let (number, generation) = store.newest().unwrap();
            store.commit(generation, Some(number), &lock).unwrap();
            drop(lock);
            tokio::task::yield_now().await;
        }
    };
    let (ended, ()) = tokio::join!(futures::future::join_all(sessions), switches);

    let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for number in store.generations().unwrap() {
        assert!(
            !store.is_leased(number).unwrap(),
            "{number} is still leased"
        );
    }
}
