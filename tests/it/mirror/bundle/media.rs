//! Bundles in volumes, bundles that nobody on the way can read, and a list of what is in one.

use std::fs;

use age::secrecy::ExposeSecret as _;
use outpost::{
    mirror::{Generation, generation::StaticFile},
    stop::Stop,
};
use serde_json::Value;

use super::{Site, provider};

/// A mirror with a provider and three files of 1.5 MB.
async fn outside() -> Site {
    let site = Site::new();
    let store = site.store();
    let file = |number: u8| {
        let content: Vec<u8> = (0..1_500_000_u32).map(|i| (i / 5) as u8 ^ number).collect();
        StaticFile {
            url: format!("https://files.example/{number}"),
            content: store.put(&content).unwrap(),
            size: content.len() as u64,
        }
    };
    let generation = Generation {
        providers: vec![provider(&store, "1.0.0")],
        files: (0..3).map(file).collect(),
        ..Generation::default()
    };
    let lock = store.lock(&Stop::new()).await.unwrap();
    store.commit(generation, None, &lock).unwrap();
    site.done(&["key", "generate", "site"]);
    site
}

#[tokio::test]
async fn volumes_arrive_one_by_one_and_a_damaged_one_is_made_again_alone() {
    let (outside, inside) = (outside().await, Site::new());
    let split = [
        "bundle", "--key", "site.key", "--out", "all", "--split", "2MB",
    ];
    let made: Value =
        serde_json::from_str(&outside.done(&[&split[..], &["--output", "json"]].concat())).unwrap();
    assert_eq!(made["volumes"], 3);
    inside.carry("site.pub", &outside);
    let import = ["import", "all", "--trust", "site.pub"];

    for name in ["all.003", "all.001"] {
        inside.carry(name, &outside);
        let said = inside.refused(&import);
        assert!(
            said.contains("volume 1") || said.contains("volume 2"),
            "{said}"
        );
    }
    let mut bad = fs::read(outside.path("all.002")).unwrap();
    bad[1_000_000] ^= 1;
    fs::write(inside.path("all.002"), bad).unwrap();
    let said = inside.refused(&import);
    assert!(
        said.contains("all.002` is damaged") && said.contains("--volume 2"),
        "{said}"
    );
    assert!(inside.store().newest().is_err(), "nothing is served");

    let good = fs::read(outside.path("all.002")).unwrap();
    fs::remove_file(outside.path("all.002")).unwrap();
    outside.done(&[&split[..], &["--volume", "2"]].concat());
    assert!(fs::read(outside.path("all.002")).unwrap() == good);
    fs::remove_file(inside.path("all.002")).unwrap();
    inside.carry("all.002", &outside);
    inside.done(&["verify", "all", "--trust", "site.pub"]);
    inside.done(&import);

    assert_eq!(
        inside.store().newest().unwrap().1,
        outside.store().newest().unwrap().1
    );
}

#[tokio::test]
async fn an_encrypted_bundle_opens_for_its_recipient_and_for_nobody_else() {
    let (outside, inside) = (outside().await, Site::new());
    let (ours, other) = (
        age::x25519::Identity::generate(),
        age::x25519::Identity::generate(),
    );
    let recipient = ours.to_public().to_string();
    inside.carry("site.pub", &outside);
    for (name, identity) in [("ours.txt", &ours), ("other.txt", &other)] {
        fs::write(inside.path(name), identity.to_string().expose_secret()).unwrap();
    }
    let bundle = ["bundle", "--key", "site.key", "--encrypt", &recipient];
    outside.done(&[&bundle[..], &["--out", "one"]].concat());
    outside.done(&[&bundle[..], &["--out", "parts", "--split", "2MB"]].concat());
    for name in ["one", "parts.001", "parts.002", "parts.003"] {
        inside.carry(name, &outside);
    }
    let cleartext = b"files.example";
    let sealed = fs::read(inside.path("one")).unwrap();
    assert!(!sealed.windows(cleartext.len()).any(|it| it == cleartext));

    let without = inside.refused(&["import", "one", "--trust", "site.pub"]);
    assert!(
        without.contains("encrypted") && without.contains("--identity"),
        "{without}"
    );
    let wrong = inside.refused(&[
        "import",
        "one",
        "--trust",
        "site.pub",
        "--identity",
        "other.txt",
    ]);
    assert!(wrong.contains("cannot be decrypted"), "{wrong}");
    inside.done(&["inspect", "one", "--identity", "ours.txt"]);
    inside.done(&[
        "import",
        "parts",
        "--trust",
        "site.pub",
        "--identity",
        "ours.txt",
    ]);

    assert_eq!(
        inside.store().newest().unwrap().1,
        outside.store().newest().unwrap().1
    );
    let said = outside.refused(&[
        "bundle",
        "--key",
        "site.key",
        "--out",
        "x",
        "--encrypt",
        "me",
    ]);
    assert!(said.contains("`me` is not an age recipient"), "{said}");
}

#[tokio::test]
async fn a_second_signature_keeps_volumes_and_writes_in_clear_only_what_somebody_says() {
    let (outside, inside) = (outside().await, Site::new());
    let ours = age::x25519::Identity::generate();
    let recipient = ours.to_public().to_string();
    for site in [&outside, &inside] {
        fs::write(site.path("ours.txt"), ours.to_string().expose_secret()).unwrap();
    }
    outside.done(&["key", "generate", "second"]);
    outside.done(&[
        "bundle",
        "--key",
        "site.key",
        "--encrypt",
        &recipient,
        "--out",
        "parts",
        "--split",
        "2MB",
    ]);
    let sign = [
        "sign",
        "parts",
        "--key",
        "second.key",
        "--identity",
        "ours.txt",
        "--out",
    ];

    let refused = outside.run(&[&sign[..], &["both"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    let said = super::said(&refused);
    assert!(
        said.contains("--encrypt") && said.contains("--decrypt"),
        "{said}"
    );
    let written = fs::read_dir(outside.dir.path()).unwrap();
    let names = written.map(|it| it.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("both")).count(), 0);
    let made = outside.done(
        &[
            &sign[..],
            &["both", "--encrypt", &recipient, "--output", "json"],
        ]
        .concat(),
    );
    let made: Value = serde_json::from_str(&made).unwrap();
    outside.done(&[&sign[..], &["clear", "--decrypt", "--split", "25MB"]].concat());

    assert_eq!(made["volumes"], 3);
    assert_eq!(made["signers"].as_array().unwrap().len(), 2);
    for key in ["site.pub", "second.pub"] {
        inside.carry(key, &outside);
    }
    let cleartext = b"files.example";
    for number in 1..=3 {
        let name = format!("both.00{number}");
        let bytes = fs::read(outside.path(&name)).unwrap();
        assert!(
            !bytes.windows(cleartext.len()).any(|it| it == cleartext),
            "{name}"
        );
        assert!(bytes.len() <= 2_000_000);
        inside.carry(&name, &outside);
    }
    inside.carry("clear.001", &outside);
    let trust = [
        "--trust",
        "site.pub",
        "--trust",
        "second.pub",
        "--threshold",
        "2",
    ];
    inside.done(&[&["import", "both", "--identity", "ours.txt"][..], &trust].concat());
    inside.done(&[&["import", "clear"][..], &trust].concat());
}

#[tokio::test]
async fn the_advice_about_a_damaged_encrypted_volume_works() {
    let (outside, inside) = (outside().await, Site::new());
    let ours = age::x25519::Identity::generate();
    let recipient = ours.to_public().to_string();
    inside.carry("site.pub", &outside);
    fs::write(inside.path("ours.txt"), ours.to_string().expose_secret()).unwrap();
    let bundle = [
        "bundle",
        "--key",
        "site.key",
        "--encrypt",
        &recipient,
        "--out",
        "all",
        "--split",
        "2MB",
    ];
    let import = [
        "import",
        "all",
        "--trust",
        "site.pub",
        "--identity",
        "ours.txt",
    ];
    let volumes = ["all.001", "all.002", "all.003"];
    outside.done(&bundle);
    volumes.iter().for_each(|name| inside.carry(name, &outside));
    let mut bad = fs::read(outside.path("all.002")).unwrap();
    bad[1_000_000] ^= 1;
    fs::write(inside.path("all.002"), bad).unwrap();

    let said = inside.refused(&import);

    assert!(said.contains("all.002` is damaged"), "{said}");
    assert!(
        said.contains("have all volumes written again") && !said.contains("--volume"),
        "{said}"
    );
    // Made again, one of them does not fit the others, and that is said; all of them do.
    outside.done(&bundle);
    inside.carry("all.002", &outside);
    let said = inside.refused(&import);
    assert!(said.contains("belong to different bundles"), "{said}");
    volumes.iter().for_each(|name| inside.carry(name, &outside));
    inside.done(&import);
    assert!(inside.store().newest().is_ok());
}

#[tokio::test]
async fn a_list_of_components_has_each_thing_with_its_digest() {
    let outside = outside().await;
    outside.done(&[
        "bundle",
        "--key",
        "site.key",
        "--out",
        "all",
        "--sbom",
        "all.cdx.json",
    ]);

    let listed: Value =
        serde_json::from_slice(&fs::read(outside.path("all.cdx.json")).unwrap()).unwrap();

    assert_eq!(listed["bomFormat"], "CycloneDX");
    let (_, generation) = outside.store().newest().unwrap();
    let components = listed["components"].as_array().unwrap();
    let has = |name: &str, digest: String| {
        components
            .iter()
            .any(|it| it["name"] == name && it["hashes"][0]["content"] == digest.as_str())
    };
    for file in &generation.files {
        assert!(has(&file.url, file.content.to_string()), "{listed}");
    }
    for provider in &generation.providers {
        for package in &provider.packages {
            assert!(
                has(&provider.addr.to_string(), package.archive.to_string()),
                "{listed}"
            );
        }
    }
}
