//! Whom a site believes, and what it takes from them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use outpost::{
    mirror::{
        bundle::{Guard, import, plan},
        keys::{PublicKey, SecretKey},
    },
    registry::Platform,
    stop::Stop,
};

use super::Site;

/// A mirror outside with some keys, and a site that has the public halves.
async fn sites(keys: &[&str]) -> (Site, Site) {
    let (outside, inside) = (Site::new(), Site::new());
    outside.publish("1.0.0").await;
    for key in keys {
        outside.done(&["key", "generate", key]);
        inside.carry(&format!("{key}.pub"), &outside);
    }
    (outside, inside)
}

fn bundle(outside: &Site, inside: &Site, keys: &[&str], name: &str) {
    let mut arguments = vec!["bundle", "--out", name];
    for key in keys {
        arguments.extend(["--key", key]);
    }
    outside.done(&arguments);
    inside.carry(name, outside);
}

/// The name of a key.
fn id(site: &Site, file: &str) -> String {
    let shown = site.done(&["key", "show", file, "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_bundle_of_a_stranger_leaves_nothing() {
    let (outside, inside) = sites(&["ours", "theirs"]).await;
    bundle(&outside, &inside, &["theirs.key"], "all");

    let error = inside.refused(&["import", "all", "--trust", "ours.pub"]);

    assert!(error.contains("0 of its signers are trusted"), "{error}");
    assert!(error.contains(&id(&inside, "theirs.pub")), "{error}");
    assert!(inside.store().blobs().unwrap().is_empty());
}

#[tokio::test]
async fn two_people_must_sign_where_a_site_wants_two() {
    let (outside, inside) = sites(&["ann", "bob"]).await;
    bundle(&outside, &inside, &["ann.key"], "one");
    let trust = [
        "--trust",
        "ann.pub",
        "--trust",
        "bob.pub",
        "--threshold",
        "2",
    ];
    let import = |name| [&["import", name][..], &trust].concat();

    let error = inside.refused(&import("one"));
    outside.done(&["sign", "one", "--key", "bob.key", "--out", "two"]);
    inside.carry("two", &outside);
    inside.done(&import("two"));

    assert!(
        error.contains("1 of its signers are trusted, but 2 are required"),
        "{error}"
    );
    // It remembers that, too.
    outside.publish("1.1.0").await;
    bundle(&outside, &inside, &["bob.key"], "three");
    assert!(
        inside
            .refused(&["import", "three"])
            .contains("2 are required")
    );
}

#[tokio::test]
async fn an_older_bundle_is_not_taken_again_unless_somebody_says_so() {
    let (outside, inside) = sites(&["ours"]).await;
    bundle(&outside, &inside, &["ours.key"], "old");
    outside.publish("1.1.0").await;
    bundle(&outside, &inside, &["ours.key"], "new");
    inside.done(&["import", "new", "--trust", "ours.pub"]);

    let error = inside.refused(&["import", "old"]);

    assert!(
        error.contains("number 1 of channel `main`, and number 2 has already been imported"),
        "{error}"
    );
    assert_eq!(inside.store().current().unwrap(), Some(1));
    inside.done(&["import", "old", "--allow-rollback"]);
    assert_eq!(inside.store().newest().unwrap().1.providers.len(), 1);
}

#[tokio::test]
async fn a_bundle_expires_at_its_time_and_not_before() {
    let (outside, inside) = sites(&["ours"]).await;
    let bundle = ["bundle", "--key", "ours.key", "--out", "all", "--expires"];
    outside.done(&[&bundle[..], &["2199-01-01T00:00:00Z"]].concat());
    let over = outside.run(&[&bundle[..], &["2020-01-01T00:00:00Z"]].concat());
    let ours = fs::read_to_string(inside.path("ours.pub")).unwrap();
    let trust = super::trusting(PublicKey::from_file(&ours).unwrap());
    let store = inside.store();
    let lock = store.lock(&Stop::new()).await.unwrap();
    let at = |now: &str| {
        let guard = Guard {
            trust: trust.clone(),
            allow_rollback: false,
            now: now.parse().unwrap(),
            platform: Platform::current(),
        };
        let bundle = fs::File::open(outside.path("all")).unwrap();
        import(&store, &lock, bundle, &guard, super::quiet(&Stop::new()))
    };

    let error = at("2199-01-01T00:00:00Z").unwrap_err();

    let said = error.to_string();
    assert!(
        said.contains("it expired at 2199-01-01T00:00:00Z"),
        "{said}"
    );
    assert!(error.hint().unwrap().contains("later --expires"));
    assert!(store.newest().is_err());
    at("2198-12-31T23:59:59Z").unwrap();
    assert_eq!(over.status.code(), Some(2), "{}", super::said(&over));
    assert!(
        super::said(&over).contains("is in the past"),
        "{}",
        super::said(&over)
    );
}

#[tokio::test]
async fn a_bundle_that_expired_is_neither_verified_nor_signed() {
    let (outside, inside) = sites(&["ours"]).await;
    let (store, secret) = (outside.store(), SecretKey::generate().unwrap());
    let (_, generation) = store.newest().unwrap();
    let mut wanted = super::wanted(1);
    wanted.expires = Some("2020-01-01T00:00:00Z".parse().unwrap());
    let manifest = plan(&store, generation, wanted).unwrap();
    let bundle = super::bundled(&store, &manifest, &secret);
    for site in [&outside, &inside] {
        fs::write(site.path("old"), &bundle).unwrap();
    }
    fs::write(inside.path("old.pub"), secret.public().to_file()).unwrap();

    for said in [
        inside.refused(&["verify", "old", "--trust", "old.pub"]),
        inside.refused(&["import", "old", "--trust", "old.pub"]),
        outside.refused(&["sign", "old", "--key", "ours.key", "--out", "new"]),
    ] {
        assert!(
            said.contains("it expired at 2020-01-01T00:00:00Z"),
            "{said}"
        );
        assert!(said.contains("hint: have it made again"), "{said}");
    }
    let shown = inside.done(&["inspect", "old"]);
    assert!(shown.contains("Expired"), "{shown}");
}

#[tokio::test]
async fn a_key_gives_its_place_to_the_next_one() {
    let (outside, inside) = sites(&["first"]).await;
    bundle(&outside, &inside, &["first.key"], "one");
    inside.done(&["import", "one", "--trust", "first.pub"]);
    outside.done(&["key", "rotate", "first.key", "second"]);
    outside.done(&["key", "rotate", "second.key", "third"]);
    outside.publish("1.1.0").await;

    // The site never saw the second key.
    bundle(&outside, &inside, &["third.key"], "two");
    inside.done(&["import", "two"]);

    let trusted = inside.done(&["key", "show"]);
    assert!(trusted.contains(&id(&outside, "third.pub")), "{trusted}");
    assert!(!trusted.contains(&id(&outside, "first.pub")), "{trusted}");
    outside.publish("1.2.0").await;
    bundle(&outside, &inside, &["first.key"], "three");
    assert!(
        inside
            .refused(&["import", "three"])
            .contains("0 of its signers")
    );
}

#[tokio::test]
async fn keys_that_came_from_the_same_one_are_one_person() {
    let (outside, inside) = sites(&["ann", "bob"]).await;
    outside.done(&["key", "rotate", "ann.key", "ann-too"]);
    bundle(&outside, &inside, &["ann.key", "ann-too.key"], "all");

    let trust = [
        "--trust",
        "ann.pub",
        "--trust",
        "bob.pub",
        "--threshold",
        "2",
    ];
    let error = inside.refused(&[&["import", "all"][..], &trust].concat());

    assert!(error.contains("1 of its signers"), "{error}");
}

#[tokio::test]
async fn a_lost_key_counts_no_more_and_the_next_bundle_says_so() {
    let (outside, inside) = sites(&["lost", "kept"]).await;
    bundle(&outside, &inside, &["kept.key"], "one");
    inside.done(&[
        "import", "one", "--trust", "lost.pub", "--trust", "kept.pub",
    ]);
    let lost = id(&outside, "lost.pub");
    outside.done(&["key", "revoke", &lost]);
    outside.publish("1.1.0").await;
    bundle(&outside, &inside, &["kept.key"], "two");

    inside.done(&["import", "two"]);

    outside.publish("1.2.0").await;
    // Where it is known to be lost it does not sign; the finder has another mirror.
    for arguments in [
        &["bundle", "--key", "lost.key", "--out", "three"][..],
        &["sign", "two", "--key", "lost.key", "--out", "three"],
        &["key", "rotate", "lost.key", "lost-too"],
    ] {
        let error = outside.refused(arguments);
        assert!(
            error.contains(&lost) && error.contains("revoked"),
            "{error}"
        );
        assert!(error.contains("hint: "), "{error}");
    }
    assert!(!outside.path("three").exists() && !outside.path("lost-too.key").exists());
    let finder = Site::new();
    finder.publish("1.0.0").await;
    finder.publish("1.3.0").await;
    finder.publish("1.4.0").await;
    finder.carry("lost.key", &outside);
    finder.carry("two", &outside);
    let error = finder.refused(&["sign", "two", "--key", "lost.key", "--out", "three"]);
    assert!(
        error.contains("revoked"),
        "the bundle itself says so: {error}"
    );
    bundle(&finder, &inside, &["lost.key"], "three");
    for arguments in [
        &["import", "three"][..],
        &["import", "three", "--trust", "lost.pub"],
    ] {
        let error = inside.refused(arguments);
        assert!(error.contains("0 of its signers are trusted"), "{error}");
    }
    assert!(!inside.done(&["key", "show"]).contains(&lost));
}

#[test]
fn a_secret_key_is_for_its_owner_and_never_overwritten() {
    let site = Site::new();
    fs::write(site.path("phrase"), "correct horse\n").unwrap();
    fs::write(site.path("wrong"), "battery staple\n").unwrap();
    site.done(&["key", "generate", "safe", "--passphrase-file", "phrase"]);

    let mode = fs::metadata(site.path("safe.key")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let again = site.run(&["key", "generate", "safe"]);
    assert_eq!(again.status.code(), Some(2));
    for (arguments, expected) in [
        (&["key", "rotate", "safe.key", "next"][..], "encrypted"),
        (
            &[
                "key",
                "rotate",
                "safe.key",
                "next",
                "--passphrase-file",
                "wrong",
            ],
            "pass phrase is wrong",
        ),
    ] {
        let error = site.refused(arguments);
        assert!(
            error.contains(expected) && !error.contains("staple"),
            "{error}"
        );
    }
}
