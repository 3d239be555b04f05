//! A mirror that is looked after: damage is found, what is nobody's goes, and somebody may go back.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outpost::{
    mirror::{
        Generation, Store,
        generation::{PublisherKey, Signed},
    },
    registry::{Hash, Platform},
    stop::Stop,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use super::{Site, provider, said};
use crate::mirror::origin::Publisher;

/// Changes a file that nobody may change.
fn damage(path: &Path) {
    let dir = path.parent().unwrap();
    let mode = fs::metadata(dir).unwrap().permissions();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut content = fs::read(path).unwrap();
    content[0] ^= 1;
    fs::write(path, content).unwrap();
    fs::set_permissions(dir, mode).unwrap();
}

/// What `verify` finds.
fn problems(site: &Site, arguments: &[&str]) -> Vec<String> {
    let output = site.run(&[&["verify", "--output", "json"][..], arguments].concat());
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let found = found["problems"].as_array().unwrap().clone();
    assert_eq!(output.status.success(), found.is_empty());
    let text = |problem: &Value| format!("{}: {}", problem["what"], problem["why"]);
    found.iter().map(text).collect()
}

#[tokio::test]
async fn damage_is_found_named_put_aside_and_healed() {
    let (outside, inside) = (Site::new(), Site::new());
    outside.publish("1.0.0").await;
    outside.done(&["key", "generate", "site"]);
    outside.done(&["bundle", "--key", "site.key", "--out", "all"]);
    inside.carry("all", &outside);
    inside.carry("site.pub", &outside);
    inside.done(&["import", "all", "--trust", "site.pub"]);
    assert!(problems(&inside, &["--deep"]).is_empty());
    inside.done(&["verify", "all"]);
    let store = inside.store();
    let (_, generation) = store.newest().unwrap();
    let [package, other] = [0, 1].map(|index| {
        let mut packages = generation.providers[0].packages.clone();
        packages.sort_by_key(|package| package.platform != Platform::current());
        packages[index].clone()
    });
    damage(&store.path(other.archive));
    let tree = store.existing_tree(&package).unwrap();
    damage(&tree.join("terraform-provider-demo_v1.0.0"));

    let found = problems(&inside, &["--repair"]);

    assert_eq!(found.len(), 2, "{found:?}");
    let has = |text: &str| found.iter().any(|problem| problem.contains(text));
    assert!(
        has("acme/demo 1.0.0 plan9_mips") && has("unpacked files"),
        "{found:?}"
    );
    assert!(problems(&inside, &[])[0].contains("missing"));
    inside.done(&["import", "all"]);
    assert!(problems(&inside, &["--deep"]).is_empty());
    assert!(store.existing_tree(&package).is_some());
}

#[tokio::test]
async fn a_deep_look_finds_what_the_publisher_did_not_sign() {
    let site = Site::new();
    let store = site.store();
    let publisher = Publisher::new();
    let mut good = provider(&store, "1.0.0");
    let signed = |sums: &str| Signed {
        shasums: store.put(sums.as_bytes()).unwrap(),
        signature: store.put(&publisher.sign(sums.as_bytes())).unwrap(),
        keys: vec![PublisherKey {
            id: publisher.fingerprint()[24..].to_owned(),
            armored: store.put(publisher.armored().as_bytes()).unwrap(),
            trust_signature: String::new(),
        }],
    };
    let line = |package: &outpost::mirror::generation::Package| {
        format!("{}  {}\n", package.archive, package.filename)
    };
    let sums: String = good.packages.iter().map(line).collect();
    good.signed = Some(signed(&sums));
    let mut partly = provider(&store, "1.1.0");
    partly.signed = Some(signed(&line(&partly.packages[0])));
    let mut forged = provider(&store, "1.2.0");
    let of_forged: String = forged.packages.iter().map(line).collect();
    forged.signed = Some(Signed {
        signature: store.put(&publisher.sign(b"something else")).unwrap(),
        ..signed(&of_forged)
    });
    let mut mislabelled = provider(&store, "1.3.0");
    mislabelled.packages[0].h1_zip = Hash::H1([7; 32]);
    let lock = store.lock(&Stop::new()).await.unwrap();
    let generation = Generation {
        providers: vec![good, partly, forged, mislabelled],
        ..Generation::default()
    };
    store.commit(generation, None, &lock).unwrap();
    drop(lock);

    assert!(problems(&site, &[]).is_empty());
    let found = problems(&site, &["--deep"]);

    assert_eq!(found.len(), 3, "{found:?}");
    for (version, why) in [
        ("1.1.0", "did not sign"),
        ("1.2.0", "signature"),
        ("1.3.0", "checksum"),
    ] {
        assert!(
            found.iter().any(|p| p.contains(version) && p.contains(why)),
            "{version}: {found:?}"
        );
    }
}

#[tokio::test]
async fn somebody_may_go_back_and_only_to_what_is_there() {
    let site = Site::new();
    site.publish("1.0.0").await;
    site.publish("1.1.0").await;

    site.done(&["rollback"]);
    assert_eq!(site.store().current().unwrap(), Some(1));
    assert_eq!(site.run(&["rollback"]).status.code(), Some(2));
    site.done(&["rollback", "2"]);
    assert_eq!(site.store().current().unwrap(), Some(2));

    let (_, generation) = site.store().newest().unwrap();
    for digest in generation.digests() {
        fs::remove_file(site.store().path(digest)).unwrap();
    }
    assert!(
        site.refused(&["rollback", "1"])
            .contains("2 files of generation 1")
    );
}

/// Collections that are killed.
const KILLS: u64 = 8;

#[tokio::test]
async fn a_killed_collection_leaves_a_good_mirror_and_the_next_one_ends_it() {
    let site = Site::new();
    site.publish("1.0.0").await;
    let store = site.store();
    let (_, kept) = store.newest().unwrap();
    let lost: BTreeSet<_> = (0..400_u32)
        .map(|n| store.put(&n.to_le_bytes()).unwrap())
        .collect();
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..KILLS {
        let mut child = site
            .command(&["gc", "--grace", "0s"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // A moment of which nobody knows what it interrupts.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGKILL).unwrap();
        child.wait().unwrap();

        assert!(problems(&site, &[]).is_empty());
        assert_eq!(store.newest().unwrap().1, kept);
    }

    site.done(&["gc", "--grace", "0s"]);

    let left: BTreeSet<_> = store.blobs().unwrap().into_iter().collect();
    assert!(left.is_disjoint(&lost));
    assert_eq!(left, kept.digests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_a_generation_keeps_its_files_while_others_prune_and_collect() {
    let site = Site::new();
    let store = site.store();
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        site.publish(version).await;
    }
    let held = |store: Store| {
        tokio::task::spawn_blocking(move || {
            for _ in 0..50 {
                let (_lease, generation) = store.lease_newest().unwrap();
                for package in generation.providers.iter().flat_map(|p| &p.packages) {
                    if package.platform == Platform::current() {
                        let tree = store.tree(package).unwrap();
                        assert!(
                            tree.join(format!("terraform-provider-demo_v{}", version_of(package)))
                                .is_file()
                        );
                    }
                }
            }
        })
    };
    let holders: Vec<_> = (0..4).map(|_| held(store.clone())).collect();
    for version in ["2.0.0", "2.1.0", "2.2.0"] {
        site.publish(version).await;
        site.done(&["prune", "--keep-generations", "1", "--keep-versions", "2"]);
        site.done(&["gc", "--grace", "0s"]);
    }
    for holder in holders {
        holder.await.unwrap();
    }

    assert!(problems(&site, &["--deep"]).is_empty());
    assert_eq!(store.newest().unwrap().1.providers.len(), 2);
}

fn version_of(package: &outpost::mirror::generation::Package) -> String {
    let version = package.filename.split('_').nth(1);
    version.unwrap().to_owned()
}
