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
        inventory::Inventory,
    },
    registry::{Hash, Platform},
    stop::Stop,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use super::{Site, provider, said, said as said_of};
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

/// Changes the index of a generation, as no command of ours does.
fn rewrite(site: &Site, number: u64, change: impl FnOnce(&mut Value)) {
    let path = site.store().index_path(number);
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    fs::write(&path, serde_json::to_vec_pretty(&index).unwrap()).unwrap();
}

#[tokio::test]
async fn an_index_that_was_changed_is_named_entry_by_entry_used_by_nobody_and_put_aside() {
    let site = Site::new();
    site.publish("1.0.0").await;
    site.publish("1.1.0").await;
    assert!(problems(&site, &[]).is_empty());
    rewrite(&site, 2, |index| {
        let providers = index["providers"].as_array_mut().unwrap();
        providers.remove(0);
        let packages = providers[0]["packages"].as_array_mut().unwrap();
        packages.retain(|package| package["platform"] == "plan9_mips");
        providers[0]["protocols"] = serde_json::json!(["6.0"]);
        let mut newer = providers[0].clone();
        newer["version"] = "1.2.0".into();
        providers.push(newer);
        index["modules"] = serde_json::json!([{
            "addr": "registry.example/acme/evil/coder", "version": "1.0.0", "size": 1,
            "archive": "0".repeat(64),
        }]);
    });

    let said = site.refused(&["inspect"]);
    assert!(
        said.contains("generation 2") && said.contains("rollback"),
        "{said}"
    );
    let found = problems(&site, &[]);

    let platform = Platform::current();
    let expected = [
        (
            "provider registry.terraform.io/acme/demo 1.0.0 in",
            "removed",
        ),
        (
            "provider registry.terraform.io/acme/demo 1.1.0 in",
            "changed",
        ),
        (&format!("acme/demo 1.1.0 {platform} in"), "removed"),
        ("acme/demo 1.2.0 plan9_mips in generation 2", "added"),
        ("module registry.example/acme/evil/coder 1.0.0 in", "added"),
    ];
    for (entry, change) in expected {
        assert!(
            found
                .iter()
                .any(|it| it.contains(entry) && it.contains(change)),
            "{entry} was {change}: {found:?}"
        );
    }
    let repaired = site.run(&["verify", "--repair"]);
    let said = said_of(&repaired);
    assert!(
        said.contains("generation 1 is now the current one"),
        "{said}"
    );
    assert_eq!(site.store().current().unwrap(), Some(1));
    assert!(problems(&site, &[]).is_empty());
    assert_eq!(site.publish("1.3.0").await, 2);
    assert!(problems(&site, &["--deep"]).is_empty());
}

/// Writes the inventory anew, so that it fits whatever the index says by now.
fn forge_inventory(site: &Site, number: u64) {
    let store = site.store();
    let (text, generation) = store.unchecked(number).unwrap();
    let (old, _) = store.inventory(number).unwrap().unwrap();
    let forged = Inventory::new(number, &text, &generation, old.before);
    let forged = serde_json::to_vec_pretty(&forged).unwrap();
    fs::write(store.inventory_path(number), forged).unwrap();
}

#[tokio::test]
async fn a_signed_index_cannot_be_changed_by_who_changes_its_inventory_too() {
    let (outside, inside) = (Site::new(), Site::new());
    outside.publish("1.0.0").await;
    outside.done(&["key", "generate", "site"]);
    outside.done(&["key", "generate", "other"]);
    let trusted = ["--trust", "site.pub"];
    let unsigned = problems(&outside, &trusted);
    assert!(
        unsigned[0].contains("no trusted key has signed"),
        "{unsigned:?}"
    );
    outside.done(&["bundle", "--key", "site.key", "--out", "all"]);
    inside.carry("all", &outside);
    inside.carry("site.pub", &outside);
    inside.done(&["import", "all", "--trust", "site.pub"]);
    for site in [&outside, &inside] {
        assert!(problems(site, &trusted).is_empty());
    }
    assert!(!problems(&outside, &["--trust", "other.pub"]).is_empty());
    assert!(outside.done(&["verify"]).contains("not trusted here"));
    assert!(inside.done(&["verify"]).contains("signed by"));

    for site in [&outside, &inside] {
        rewrite(site, 1, |index| {
            index["providers"][0]["protocols"] = serde_json::json!(["6.0"]);
        });
        forge_inventory(site, 1);

        site.done(&["inspect"]); // As far as the inventory knows it is good.
        let found = problems(site, &trusted);

        assert!(!found.is_empty(), "the forged inventory is taken");
    }
    assert!(problems(&outside, &trusted)[0].contains("signature"));
    assert!(problems(&inside, &[])[0].contains("provider registry.terraform.io/acme/demo 1.0.0"));
}

#[tokio::test]
async fn a_generation_that_is_put_in_the_place_of_another_one_is_found_by_the_next() {
    let site = Site::new();
    site.publish("1.0.0").await;
    site.publish("1.1.0").await;
    rewrite(&site, 1, |index| {
        index["providers"][0]["protocols"] = serde_json::json!(["6.0"]);
    });
    forge_inventory(&site, 1);

    let found = problems(&site, &[]);

    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("generation 2") && found[0].contains("generation 1"));
    fs::remove_file(site.store().inventory_path(2)).unwrap();
    let found = problems(&site, &[]);
    assert!(found[0].contains("has no inventory"), "{found:?}");
}

#[tokio::test]
async fn a_mirror_of_an_older_release_works_and_verify_says_what_it_lacks() {
    let site = Site::new();
    site.publish("1.0.0").await;
    fs::remove_file(site.store().inventory_path(1)).unwrap();
    site.done(&["inspect"]);

    let said = site.done(&["verify"]);

    assert!(said.contains("made by an older release"), "{said}");
    site.done(&["key", "generate", "site"]);
    site.done(&["bundle", "--key", "site.key", "--out", "all"]);
    assert!(problems(&site, &["--trust", "site.pub"]).is_empty());
    fs::remove_file(site.store().inventory_path(1)).unwrap();
    site.publish("1.1.0").await;
    assert!(problems(&site, &[]).is_empty());
}

#[tokio::test]
async fn prune_keeps_what_templates_need() {
    let site = Site::new();
    for version in ["1.0.0", "1.1.0", "1.2.0", "2.0.0"] {
        site.publish(version).await;
    }
    for (name, constraint) in [("old", "~> 1.0, < 1.2"), ("new", ">= 1")] {
        fs::create_dir(site.path(name)).unwrap();
        let text = format!(
            "terraform {{\n  required_providers {{\n    demo = {{\n      source  = \"acme/demo\"\n      version = \"{constraint}\"\n    }}\n  }}\n}}\n"
        );
        fs::write(site.path(name).join("main.tf"), text).unwrap();
    }
    assert_eq!(
        site.run(&["prune", "--templates", "old"]).status.code(),
        Some(2)
    );

    site.done(&["prune", "--keep-versions", "1", "--templates", "old", "new"]);

    let (_, generation) = site.store().newest().unwrap();
    let kept = generation.providers.iter();
    let kept: Vec<_> = kept.map(|it| it.version.to_string()).collect();
    assert_eq!(kept, ["1.1.0", "2.0.0"]);
    site.done(&["doctor", "old", "new"]);
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
