//! Bundles: from one mirror, through a file, into another one.

mod hostile;
mod killed;
mod media;
mod runbook;
mod sbom;
mod tend;
mod trust;
mod vulnerabilities;

use std::{
    fs::{self, File},
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use outpost::{
    mirror::{
        Digest, Generation, Store,
        bundle::{Manifest, Trust, Wanted, Watch, plan, write},
        generation::{Package, Provider, StaticFile},
        keys::{PublicKey, SecretKey},
    },
    registry::Platform,
    stop::Stop,
};
use zip::{ZipWriter, write::SimpleFileOptions};

/// A place with a mirror, and keys and bundles beside it.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> Store {
        Store::open(&self.path("mirror")).unwrap()
    }

    /// `outpost mirror …` for this mirror, in this place.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("OUTPOST_MIRROR_DIR", self.path("mirror"))
            .current_dir(self.dir.path())
            .arg("mirror")
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints on stdout.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that fails says on stderr.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            said(&output)
        );
        said(&output)
    }

    /// Adds a version of a provider for two platforms, and makes the next generation.
    async fn publish(&self, version: &str) -> u64 {
        let store = self.store();
        let lock = store.lock(&Stop::new()).await.unwrap();
        let current = store.current().unwrap();
        let mut generation = match current {
            Some(number) => store.generation(number).unwrap(),
            None => Generation::default(),
        };
        generation.providers.push(provider(&store, version));
        store.commit(generation, current, &lock).unwrap()
    }

    /// Takes a file that somebody carried here.
    fn carry(&self, name: &str, from: &Self) {
        fs::copy(from.path(name), self.path(name)).unwrap();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn provider(store: &Store, version: &str) -> Provider {
    let platforms = [Platform::current(), "plan9_mips".parse().unwrap()];
    let mut packages: Vec<_> = platforms
        .map(|platform| package(store, version, platform))
        .into();
    packages.sort_by(|a, b| a.platform.cmp(&b.platform));
    Provider {
        addr: "registry.terraform.io/acme/demo".parse().unwrap(),
        version: version.parse().unwrap(),
        protocols: vec!["5.0".to_owned()],
        signed: None,
        packages,
    }
}

fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    zip.start_file(name, options).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner()
}

fn package(store: &Store, version: &str, platform: Platform) -> Package {
    let text = format!("#!/bin/sh\n# {version} {platform}\n");
    let content = zip(
        &format!("terraform-provider-demo_v{version}"),
        text.as_bytes(),
    );
    let archive = store.put(&content).unwrap();
    let filename = format!("terraform-provider-demo_{version}_{platform}.zip");
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

/// A generation of one file.
fn one_file(store: &Store, content: &[u8]) -> Generation {
    let file = StaticFile {
        url: "https://files.example/a".to_owned(),
        content: store.put(content).unwrap(),
        size: content.len() as u64,
    };
    Generation {
        files: vec![file],
        ..Generation::default()
    }
}

fn wanted(sequence: u64) -> Wanted {
    Wanted {
        channel: "main".to_owned(),
        sequence,
        created: "2026-01-01T00:00:00Z".parse().unwrap(),
        expires: None,
        revoked: Default::default(),
        there: Default::default(),
    }
}

fn quiet(stop: &Stop) -> Watch<'_> {
    Watch {
        stop,
        hear: &|_| {},
    }
}

fn trusting(key: PublicKey) -> Trust {
    Trust {
        keys: [key].into(),
        ..Trust::default()
    }
}

/// A bundle in memory, made by the library.
fn bundled(store: &Store, manifest: &Manifest, key: &SecretKey) -> Vec<u8> {
    let mut head = manifest.head().unwrap();
    head.sign(key, Vec::new());
    let mut bundle = Vec::new();
    write(store, &head, quiet(&Stop::new()), &mut bundle).unwrap();
    bundle
}

fn planned(store: &Store, generation: Generation, sequence: u64) -> Manifest {
    plan(store, generation, wanted(sequence)).unwrap()
}

fn digest_of(path: &Path) -> Digest {
    Digest::of(&fs::read(path).unwrap())
}

#[tokio::test]
async fn a_mirror_arrives_as_it_was_and_its_packages_are_unpacked() {
    let (outside, inside) = (Site::new(), Site::new());
    outside.publish("1.0.0").await;
    outside.publish("1.1.0").await;
    outside.done(&["key", "generate", "site"]);
    outside.done(&["bundle", "--key", "site.key", "--out", "all.opbundle"]);
    inside.carry("all.opbundle", &outside);
    inside.carry("site.pub", &outside);

    inside.done(&["import", "all.opbundle", "--trust", "site.pub"]);

    let (there, here) = (outside.store(), inside.store());
    let (_, generation) = there.newest().unwrap();
    assert_eq!(here.newest().unwrap(), (1, generation.clone()));
    for package in generation.providers.iter().flat_map(|p| &p.packages) {
        let is_ours = package.platform == Platform::current();
        assert_eq!(
            here.existing_tree(package).is_some(),
            is_ours,
            "{package:?}"
        );
    }
    // Again, without a word about trust: it is remembered, and nothing is new.
    let again = inside.done(&["import", "all.opbundle", "--output", "json"]);
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(
        (&again["generation"], &again["new_files"]),
        (&1.into(), &0.into())
    );
}

#[tokio::test]
async fn the_same_mirror_and_keys_are_the_same_file_also_on_a_pipe() {
    let site = Site::new();
    site.publish("1.0.0").await;
    site.done(&["key", "generate", "site"]);
    let arguments = |out| ["bundle", "--key", "site.key", "--out", out];

    site.done(&arguments("one"));
    site.done(&arguments("two"));
    let piped = site.run(&arguments("-"));

    assert!(piped.status.success(), "{}", said(&piped));
    assert_eq!(digest_of(&site.path("one")), digest_of(&site.path("two")));
    assert_eq!(digest_of(&site.path("one")), Digest::of(&piped.stdout));
    let inside = Site::new();
    inside.carry("site.pub", &site);
    let mut import = inside.command(&["import", "-", "--trust", "site.pub"]);
    import.stdin(File::open(site.path("one")).unwrap());
    let imported = import.output().unwrap();
    assert!(imported.status.success(), "{}", said(&imported));
}

#[tokio::test]
async fn stock_tools_can_take_a_bundle_apart() {
    let site = Site::new();
    site.publish("1.0.0").await;
    site.done(&["key", "generate", "site"]);
    site.done(&["bundle", "--key", "site.key", "--out", "all.opbundle"]);

    let mut archive = tar::Archive::new(File::open(site.path("all.opbundle")).unwrap());
    archive.unpack(site.path("apart")).unwrap();

    let (_, generation) = site.store().newest().unwrap();
    for digest in generation.digests() {
        let path = site.path("apart/blobs/sha256").join(digest.to_string());
        assert_eq!(digest_of(&path), digest);
    }
}

#[tokio::test]
async fn a_receipt_makes_the_next_bundle_small_and_another_site_learns_what_it_lacks() {
    let (outside, inside, elsewhere) = (Site::new(), Site::new(), Site::new());
    outside.publish("1.0.0").await;
    outside.done(&["key", "generate", "site"]);
    outside.done(&["bundle", "--key", "site.key", "--out", "first"]);
    for site in [&inside, &elsewhere] {
        site.carry("site.pub", &outside);
    }
    inside.carry("first", &outside);
    inside.done(&[
        "import",
        "first",
        "--trust",
        "site.pub",
        "--receipt",
        "receipt",
    ]);
    outside.carry("receipt", &inside);
    outside.publish("2.0.0").await;

    for (since, name) in [
        ("receipt", "by-receipt"),
        ("first", "by-bundle"),
        ("1", "by-number"),
    ] {
        outside.done(&[
            "bundle", "--key", "site.key", "--since", since, "--out", name,
        ]);
        assert_eq!(
            digest_of(&outside.path(name)),
            digest_of(&outside.path("by-receipt"))
        );
    }
    for site in [&inside, &elsewhere] {
        site.carry("by-receipt", &outside);
    }
    let differences = inside.done(&["diff", "1", "by-receipt", "--output", "json"]);
    inside.done(&["import", "by-receipt"]);
    let error = elsewhere.refused(&["import", "by-receipt", "--trust", "site.pub"]);

    assert_eq!(
        inside.store().newest().unwrap().1,
        outside.store().newest().unwrap().1
    );
    let differences: Vec<serde_json::Value> = serde_json::from_str(&differences).unwrap();
    assert_eq!(differences.len(), 2);
    assert!(
        differences
            .iter()
            .all(|d| d["change"] == "added" && d["version"] == "2.0.0")
    );
    assert!(error.contains("needs 2 files"), "{error}");
    assert!(
        error.contains("registry.terraform.io/acme/demo 1.0.0 plan9_mips"),
        "{error}"
    );
    assert!(elsewhere.store().blobs().unwrap().is_empty());
}

#[tokio::test]
async fn a_bundle_is_shown_before_it_is_taken() {
    let site = Site::new();
    site.publish("1.0.0").await;
    site.done(&["key", "generate", "site"]);
    site.done(&[
        "bundle",
        "--key",
        "site.key",
        "--channel",
        "prod",
        "--out",
        "all",
    ]);

    let shown = site.done(&["inspect", "all"]);

    for expected in [
        "prod, number 1",
        "registry.terraform.io/acme/demo",
        "plan9_mips",
    ] {
        assert!(shown.contains(expected), "{shown}");
    }
}
