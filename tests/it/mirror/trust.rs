//! Trust on first use: what is pinned, when, and who knows of it.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use outpost::mirror::{Digest, Generation, Store};
use tempfile::TempDir;

use super::{
    origin::{Fault, Origin, Publisher},
    round_trip::{done, quiet, run},
};

const HOST: &str = "registry.example";
const DEMO: &str = "registry.example/acme/demo";
const SYNC: [&str; 4] = ["mirror", "sync", "--mirror-dir", "mirror"];
const PLATFORMS: [&str; 2] = ["linux_amd64", "linux_arm64"];

/// A home with a mirror.toml that wants all versions of the provider for two platforms.
fn home(origin: &Origin) -> TempDir {
    let dir = TempDir::new().unwrap();
    write_wishes(dir.path(), origin, DEMO, &PLATFORMS);
    dir
}

fn write_wishes(home: &Path, origin: &Origin, addr: &str, platforms: &[&str]) {
    let config = format!(
        "platforms = {platforms:?}\n[[providers]]\nsource = \"{addr}\"\nversions = [\">= 1.0\"]\n\
         policy = \"all-matching\"\n{}",
        origin.host(HOST)
    );
    std::fs::write(home.join("mirror.toml"), config).unwrap();
}

fn sync(home: &Path, more: &[&str]) -> Output {
    run(home, &[&SYNC[..], more].concat())
}

/// The code of an ended command, and what it said.
fn ended(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code().unwrap(), text)
}

fn newest(home: &Path) -> Generation {
    let store = Store::open(&home.join("mirror")).unwrap();
    store.newest().unwrap().1
}

fn keys_file(home: &Path) -> PathBuf {
    home.join("mirror/trust/keys.toml")
}

/// Checks that a second key is refused with both keys and a remedy, and that the remedy works.
#[track_caller]
fn is_refused_until_it_is_accepted(home: &Path, first: &Publisher, second: &Publisher) {
    let (code, said) = ended(&sync(home, &[]));
    assert_eq!(code, 4, "{said}");
    for key in [first, second] {
        assert!(said.contains(&key.fingerprint()), "{said}");
    }
    let accepted = format!("registry.example/acme={}", second.fingerprint());
    assert!(said.contains(&format!("--accept-key {accepted}")), "{said}");

    let (code, said) = ended(&sync(home, &["--accept-key", &accepted]));
    assert_eq!(code, 0, "{said}");
    done(&sync(home, &[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_lacks_something_remembers_whom_it_trusted() {
    let (origin, first, second) = (Origin::start().await, Publisher::new(), Publisher::new());
    origin.publish(&first, DEMO, "1.0.0", &PLATFORMS, 10);
    origin.fail("linux_arm64.zip", Fault::Status(404, usize::MAX));
    let dir = home(&origin);

    let (code, said) = ended(&sync(dir.path(), &[]));

    assert_eq!(code, 3, "{said}");
    let lock_file = dir.path().join("mirror.lock");
    let lock = std::fs::read_to_string(&lock_file).unwrap();
    assert!(lock.contains(&first.fingerprint()), "{lock}");
    assert!(!lock.contains("[[provider]]"), "{lock}");
    // Whoever begins anew with the lock file knows it from there, whoever lost that from the mirror.
    std::fs::remove_file(&lock_file).unwrap();
    origin.heal();
    origin.publish(&second, DEMO, "1.1.0", &PLATFORMS, 10);
    is_refused_until_it_is_accepted(dir.path(), &first, &second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_file_of_a_partial_sync_keeps_what_it_had_beside_the_keys() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    origin.publish(&publisher, DEMO, "1.0.0", &PLATFORMS, 10);
    let dir = home(&origin);
    done(&sync(dir.path(), &[]));
    let lock_file = dir.path().join("mirror.lock");
    let before = std::fs::read_to_string(&lock_file).unwrap();
    origin.publish(&publisher, DEMO, "1.1.0", &PLATFORMS, 10);
    origin.fail("1.1.0_linux_arm64.zip", Fault::Status(404, usize::MAX));

    let (code, said) = ended(&sync(dir.path(), &[]));

    assert_eq!(code, 3, "{said}");
    assert_eq!(std::fs::read_to_string(&lock_file).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_is_killed_while_it_downloads_has_pinned_the_key() {
    let (origin, first, second) = (Origin::start().await, Publisher::new(), Publisher::new());
    origin.publish(&first, DEMO, "1.0.0", &["linux_amd64"], 100_000);
    origin.fail(".zip", Fault::Stuck(10));
    let dir = TempDir::new().unwrap();
    write_wishes(dir.path(), &origin, DEMO, &["linux_amd64"]);
    let mut command = tokio::process::Command::from(quiet(dir.path()));
    command
        .args(SYNC)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();

    // Versions, the package, the checksums, their signature; the fifth request is for the first byte of the package.
    tokio::select! {
        () = origin.counts(5) => {}
        status = child.wait() => panic!("it ended: {status:?}"),
    }
    child.kill().await.unwrap();

    let asked = origin.asked();
    assert!(asked.iter().any(|line| line.contains(".zip")), "{asked:#?}");
    let pinned = std::fs::read_to_string(keys_file(dir.path())).unwrap();
    assert!(pinned.contains(&first.fingerprint()), "{pinned}");
    origin.heal();
    origin.publish(&second, DEMO, "1.1.0", &["linux_amd64"], 10);
    is_refused_until_it_is_accepted(dir.path(), &first, &second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_keys_that_sign_at_once_one_is_trusted() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    for origin in [&one, &two] {
        origin.publish(&Publisher::new(), DEMO, "1.0.0", &PLATFORMS, 10);
    }
    let homes = [home(&one), home(&two)];
    let mirror = TempDir::new().unwrap();
    let others = format!("{HOST}/other/demo");
    one.publish(&Publisher::new(), &others, "1.0.0", &PLATFORMS, 10);
    let third = TempDir::new().unwrap();
    write_wishes(third.path(), &one, &others, &PLATFORMS);

    let at_once: Vec<_> = [&homes[0], &homes[1], &third]
        .map(|home| {
            let mut command = quiet(home.path());
            command.args(["mirror", "sync", "--mirror-dir"]);
            command
                .arg(mirror.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .into_iter()
        .map(|child| ended(&child.wait_with_output().unwrap()))
        .collect();

    let mut codes = [at_once[0].0, at_once[1].0];
    codes.sort_unstable();
    assert_eq!(codes, [0, 4], "{at_once:?}");
    assert_eq!(at_once[2].0, 0, "{at_once:?}");
    let pinned = std::fs::read_to_string(mirror.path().join("trust/keys.toml")).unwrap();
    for namespace in ["registry.example/acme", "registry.example/other"] {
        assert!(pinned.contains(namespace), "{pinned}");
    }
    let keys = pinned.lines().filter(|line| line.contains(" = [\""));
    assert!(keys.clone().count() == 2, "{pinned}");
    assert!(keys.clone().all(|line| !line.contains(',')), "{pinned}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_without_pins_trusts_who_signed_what_it_has() {
    let (origin, first, second) = (Origin::start().await, Publisher::new(), Publisher::new());
    origin.publish(&first, DEMO, "1.0.0", &PLATFORMS, 10);
    let dir = home(&origin);
    done(&sync(dir.path(), &[]));
    // As a release wrote it that had no pins, or as a bundle brings it.
    std::fs::remove_dir_all(dir.path().join("mirror/trust")).unwrap();
    std::fs::remove_file(dir.path().join("mirror.lock")).unwrap();
    origin.publish(&second, DEMO, "1.1.0", &PLATFORMS, 10);

    is_refused_until_it_is_accepted(dir.path(), &first, &second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_accepted_for_one_namespace_needs_no_configuration_and_counts_for_no_other() {
    let (origin, first, second) = (Origin::start().await, Publisher::new(), Publisher::new());
    let others = format!("{HOST}/other/demo");
    for addr in [DEMO, &others] {
        origin.publish(&first, addr, "1.0.0", &PLATFORMS, 10);
    }
    let dir = home(&origin);
    done(&sync(dir.path(), &[]));
    write_wishes(dir.path(), &origin, &others, &PLATFORMS);
    done(&sync(dir.path(), &[]));
    let elsewhere = TempDir::new().unwrap();
    let mirror = dir.path().join("mirror").display().to_string();
    let accepted = format!("registry.example/acme={}", second.fingerprint());

    let accept = [
        "mirror",
        "sync",
        "--mirror-dir",
        &mirror,
        "--accept-key",
        &accepted,
    ];
    done(&run(elsewhere.path(), &accept));

    for addr in [DEMO, &others] {
        origin.publish(&second, addr, "1.1.0", &PLATFORMS, 10);
    }
    let (code, said) = ended(&sync(dir.path(), &[]));
    assert_eq!(code, 4, "{said}");
    write_wishes(dir.path(), &origin, DEMO, &PLATFORMS);
    done(&sync(dir.path(), &[]));
}

/// Packages of a version that are not those before.
fn republish(origin: &Origin, publisher: &Publisher, platforms: &[&str]) {
    origin.publish(publisher, DEMO, "1.0.0", platforms, 20);
}

fn digest(origin: &Origin, platform: &str) -> Digest {
    let name = format!("registry.example/files/terraform-provider-demo_1.0.0_{platform}.zip");
    Digest::of(&origin.file(&name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_republished_is_noticed_and_not_taken_until_it_is_accepted() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    origin.publish(&publisher, DEMO, "1.0.0", &PLATFORMS, 10);
    let dir = home(&origin);
    done(&sync(dir.path(), &[]));
    let (before, first) = (newest(dir.path()), digest(&origin, "linux_amd64"));
    republish(&origin, &publisher, &PLATFORMS);
    let now = digest(&origin, "linux_amd64");

    let (code, said) = ended(&sync(dir.path(), &[]));

    assert_eq!(code, 4, "{said}");
    for text in [
        first.to_string(),
        now.to_string(),
        format!("--accept-changed {DEMO}@1.0.0"),
    ] {
        assert!(said.contains(&text), "{text} is not in {said}");
    }
    assert_eq!(newest(dir.path()), before, "what is there stays");

    // A dry run says the same, and takes nothing.
    let (code, _) = ended(&sync(dir.path(), &["--dry-run"]));
    assert_eq!(code, 4);
    let accept = ["--accept-changed", "registry.example/acme/demo@1.0.0"];
    done(&sync(dir.path(), &accept));
    let after = newest(dir.path());
    assert_eq!(after.providers.len(), 1);
    for package in &after.providers[0].packages {
        let platform = package.platform.to_string();
        assert_eq!(package.archive, digest(&origin, &platform));
    }
    assert_eq!(after.providers[0].packages.len(), 2);
    done(&sync(dir.path(), &[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_platform_of_a_republished_version_is_not_taken() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    origin.publish(&publisher, DEMO, "1.0.0", &PLATFORMS, 10);
    let dir = TempDir::new().unwrap();
    write_wishes(dir.path(), &origin, DEMO, &["linux_amd64"]);
    done(&sync(dir.path(), &[]));
    let before = newest(dir.path());
    let first = digest(&origin, "linux_arm64");
    // The mirror does not have this one, and what its publisher signed it to be is known all the same.
    let amd64 = origin.file("registry.example/files/terraform-provider-demo_1.0.0_linux_amd64.zip");
    let arm64 = super::origin::package("demo", "1.0.0", "linux_arm64", 20);
    origin.publish_packages(&publisher, DEMO, "1.0.0", &PLATFORMS, vec![amd64, arm64]);
    write_wishes(dir.path(), &origin, DEMO, &PLATFORMS);

    let (code, said) = ended(&sync(dir.path(), &[]));

    assert_eq!(code, 4, "{said}");
    assert!(said.contains(&first.to_string()), "{said}");
    assert_eq!(newest(dir.path()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_package_takes_no_other_ones_place() {
    let (origin, publisher) = (Origin::start().await, Publisher::new());
    origin.publish(&publisher, DEMO, "1.0.0", &["linux_amd64"], 10);
    let dir = TempDir::new().unwrap();
    write_wishes(dir.path(), &origin, DEMO, &["linux_amd64"]);
    done(&sync(dir.path(), &[]));
    let before = newest(dir.path());
    let tree = dir.path().join("tree").join(DEMO);
    let import = |more: &[&str]| {
        let arguments = [
            "mirror",
            "sync",
            "--mirror-dir",
            "mirror",
            "--file",
            "empty.toml",
        ];
        run(
            dir.path(),
            &[&arguments[..], &["--import-dir", "tree"], more].concat(),
        )
    };
    std::fs::write(dir.path().join("empty.toml"), "").unwrap();

    // The same, unpacked: `terraform providers mirror` packs, engines' caches do not.
    let unpacked = tree.join("1.0.0/linux_amd64");
    std::fs::create_dir_all(&unpacked).unwrap();
    let zip = origin.file("registry.example/files/terraform-provider-demo_1.0.0_linux_amd64.zip");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
    zip.extract(&unpacked).unwrap();
    let said = done(&import(&[]));
    assert_eq!(newest(dir.path()), before, "{said}");

    // Another one.
    let program = unpacked.join("terraform-provider-demo_v1.0.0");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    let (code, said) = ended(&import(&[]));
    assert_eq!(code, 4, "{said}");
    assert!(
        said.contains(&format!("--accept-changed {DEMO}@1.0.0")),
        "{said}"
    );
    assert_eq!(newest(dir.path()), before);

    // For a platform of which the publisher signed nothing.
    std::fs::rename(&unpacked, tree.join("1.0.0/linux_arm64")).unwrap();
    let (code, said) = ended(&import(&[]));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("do not list it"), "{said}");

    let accepted = format!("{DEMO}@1.0.0");
    done(&import(&["--accept-changed", &accepted]));
    let after = newest(dir.path());
    let [provider] = &after.providers[..] else {
        panic!("one version was imported");
    };
    assert!(provider.signed.is_none(), "nobody signed it");
    assert_eq!(provider.packages.len(), 1);
    assert_eq!(provider.packages[0].platform.to_string(), "linux_arm64");
}
