//! Bundles that somebody tampered with, or made to do harm.

use std::{fs, io::Write as _};

use outpost::{
    mirror::{
        Digest, Generation, Store,
        bundle::{BundleError, Guard, Head, Manifest, Reader, check_file, import},
        generation::StaticFile,
        keys::SecretKey,
    },
    registry::{Hash, Platform},
    stop::Stop,
};
use serde_json::{Value, json};

use super::{bundled, one_file, planned, provider, quiet, trusting, zip};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn guard(key: &SecretKey) -> Guard {
    Guard {
        trust: trusting(key.public()),
        allow_rollback: false,
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
        platform: Platform::current(),
    }
}

/// Imports into a store; what was taken, or why not.
async fn imported(store: &Store, bundle: &[u8], key: &SecretKey) -> Result<u64, BundleError> {
    let stop = Stop::new();
    let lock = store.lock(&stop).await.unwrap();
    let imported = import(store, &lock, bundle, &guard(key), quiet(&stop));
    imported.map(|imported| imported.generation)
}

/// A manifest as text, signed whatever it says, with the files that are given.
fn forged(manifest: &Value, files: &[(&str, &[u8])], key: &SecretKey) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(manifest).unwrap();
    text.push(b'\n');
    signed(text, files, key)
}

fn signed(manifest: Vec<u8>, files: &[(&str, &[u8])], key: &SecretKey) -> Vec<u8> {
    let signers = Vec::new();
    let mut head = Head { manifest, signers };
    head.sign(key, Vec::new());
    let signer = &head.signers[0];
    let id = signer.key.id;
    let parts = [
        ("manifest.json".to_owned(), head.manifest.clone()),
        (format!("keys/{id}.pub"), signer.key.to_file().into_bytes()),
        (format!("keys/{id}.rotations"), Vec::new()),
        (
            format!("signatures/{id}.minisig"),
            signer.signature.to_file().into_bytes(),
        ),
    ];
    let files = files
        .iter()
        .map(|(name, content)| ((*name).to_owned(), content.to_vec()));
    let mut bundle = Vec::new();
    for (name, content) in parts.into_iter().chain(files) {
        bundle.extend(header(&name, content.len() as u64));
        bundle.extend(&content);
        bundle.resize(bundle.len().next_multiple_of(512), 0);
    }
    bundle.resize(bundle.len() + 1024, 0);
    bundle
}

/// A header as the format has it, made by another library.
fn header(name: &str, size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_mode(0o444);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    *header.as_bytes()
}

/// A good manifest over one file, to be made bad.
fn manifest(content: &[u8]) -> Value {
    let (_dir, store) = store();
    let generation = one_file(&store, content);
    serde_json::to_value(planned(&store, generation, 1)).unwrap()
}

#[tokio::test]
async fn one_changed_byte_anywhere_is_found_and_its_place_named() {
    let (_from, origin) = store();
    let (_to, target) = store();
    let (key, stop) = (SecretKey::generate().unwrap(), Stop::new());
    let mut generation = one_file(&origin, &[7; 700]);
    generation.providers.push(provider(&origin, "1.0.0"));
    let bundle = bundled(&origin, &planned(&origin, generation, 1), &key);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bundle).unwrap();
    let lock = target.lock(&stop).await.unwrap();
    for at in 0..bundle.len() {
        let mut bad = bundle.clone();
        bad[at] ^= 1 << (at % 8);

        let error = import(&target, &lock, &bad[..], &guard(&key), quiet(&stop)).unwrap_err();

        let text = error.to_string();
        let names = [
            "manifest.json",
            "keys/",
            "signatures/",
            "blobs/sha256/",
            "the end",
            "the part behind",
        ];
        assert!(
            names.iter().any(|name| text.contains(name)),
            "byte {at}: {text}"
        );
    }
    assert_eq!(target.current().unwrap(), None);
    drop(lock);
    assert_eq!(imported(&target, &bundle, &key).await.unwrap(), 1);
    let verify = |head: &Head| Ok(head.verify(&trusting(key.public()))?.manifest);
    assert!(check_file(&file, verify, quiet(&stop)).is_ok());
}

#[tokio::test]
async fn a_bundle_that_ends_early_or_goes_on_is_refused() {
    let (_from, origin) = store();
    let (_to, target) = store();
    let key = SecretKey::generate().unwrap();
    let bundle = bundled(
        &origin,
        &planned(&origin, one_file(&origin, &[7; 700]), 1),
        &key,
    );
    for length in (0..bundle.len()).step_by(97) {
        let error = imported(&target, &bundle[..length], &key)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("ends before"),
            "{length}: {error}"
        );
    }
    let mut long = bundle.clone();
    long.push(0);
    let error = imported(&target, &long, &key).await.unwrap_err();
    assert!(error.to_string().contains("`the end`"), "{error}");
    assert_eq!(target.current().unwrap(), None);
}

#[test]
fn all_processors_find_in_a_file_what_a_reader_finds() {
    let (_from, origin) = store();
    let (key, stop) = (SecretKey::generate().unwrap(), Stop::new());
    let mut generation = one_file(&origin, &[7; 300_000]);
    generation.providers.push(provider(&origin, "1.0.0"));
    let bundle = bundled(&origin, &planned(&origin, generation, 1), &key);
    let path = tempfile::NamedTempFile::new().unwrap();
    let verify = |head: &Head| Ok(head.verify(&trusting(key.public()))?.manifest);
    for at in (0..bundle.len()).step_by(419) {
        let mut bad = bundle.clone();
        bad[at] ^= 1;
        fs::write(path.path(), &bad).unwrap();
        let file = fs::File::open(path.path()).unwrap();

        assert!(
            check_file(&file, verify, quiet(&stop)).is_err(),
            "byte {at}"
        );
    }
    fs::write(path.path(), &bundle[..bundle.len() - 1]).unwrap();
    let file = fs::File::open(path.path()).unwrap();
    assert!(check_file(&file, verify, quiet(&stop)).is_err());
}

#[tokio::test]
async fn a_signed_lie_is_refused_before_anything_is_made_of_it() {
    let key = SecretKey::generate().unwrap();
    let content = b"a file";
    let (digest, other) = (
        Digest::of(content).to_string(),
        Digest::of(b"other").to_string(),
    );
    type Lie = fn(&mut Value, &str, &str);
    let lies: [(&str, Lie); 12] = [
        ("bytes", |m, digest, _| {
            m["blobs"][digest]["size"] = json!(5)
        }),
        ("bytes", |m, digest, _| {
            m["blobs"][digest]["size"] = json!(u64::MAX)
        }),
        ("nothing in it needs", |m, _, other| {
            m["blobs"][other] = json!({"size": 5})
        }),
        ("both as included and as omitted", |m, digest, _| {
            m["omitted"] = json!([digest])
        }),
        ("gives no position for", |m, _, _| m["blobs"] = json!({})),
        ("none", |m, digest, _| {
            m["blobs"][digest]["enc"] = json!("zstd")
        }),
        ("none", |m, _, _| m["extra"] = json!(1)),
        ("none", |m, _, _| m["format"] = json!("outpost-bundle/2")),
        ("channel", |m, _, _| m["channel"] = json!("../prod")),
        ("address", |m, _, _| {
            m["generation"]["files"][0]["url"] = json!("file:///etc/passwd")
        }),
        ("none", |m, _, _| {
            m["generation"]["files"][0]["content"] = json!("../../etc/passwd")
        }),
        ("not in canonical form", |m, _, _| {
            m["created"] = json!("2026-01-01T00:00:00.000Z")
        }),
    ];
    for (expected, lie) in lies {
        let (_dir, target) = store();
        let mut manifest = manifest(content);
        lie(&mut manifest, &digest, &other);
        let name = format!("blobs/sha256/{digest}");
        let bundle = forged(&manifest, &[(&name, content)], &key);

        let error = imported(&target, &bundle, &key)
            .await
            .unwrap_err()
            .to_string();

        assert!(
            error.contains("`manifest.json`") && error.contains(expected),
            "{expected}: {error}"
        );
        assert!(target.blobs().unwrap().is_empty());
    }
    let (_dir, target) = store();
    let name = format!("blobs/sha256/{digest}");
    let good = forged(&manifest(content), &[(&name, content)], &key);
    assert!(imported(&target, &good, &key).await.is_ok());
}

#[tokio::test]
async fn names_links_and_headers_of_others_are_refused() {
    let key = SecretKey::generate().unwrap();
    let content = b"a file";
    let name = format!("blobs/sha256/{}", Digest::of(content));
    let good = forged(&manifest(content), &[(&name, content)], &key);
    let at = good.len() - 1024 - 1024; // The header of the only file.
    type Trick = fn(&mut tar::Header);
    let tricks: [(&str, Trick); 9] = [
        ("a path upwards", |h| {
            h.as_mut_bytes()[..100].copy_from_slice(&padded("../../etc/passwd"))
        }),
        ("another name", |h| {
            h.as_mut_bytes()[..100].copy_from_slice(&padded("blobs/sha256/x"))
        }),
        ("a symbolic link", |h| {
            h.set_entry_type(tar::EntryType::Symlink)
        }),
        ("a hard link", |h| h.set_entry_type(tar::EntryType::Link)),
        ("a device", |h| h.set_entry_type(tar::EntryType::Block)),
        ("a sparse file", |h| {
            h.set_entry_type(tar::EntryType::GNUSparse)
        }),
        ("pax headers", |h| h.set_entry_type(tar::EntryType::XHeader)),
        ("a long name", |h| {
            h.set_entry_type(tar::EntryType::GNULongName)
        }),
        ("a huge size", |h| h.set_size(1 << 60)),
    ];
    for (what, trick) in tricks {
        let (_dir, target) = store();
        let mut bad = good.clone();
        let mut header = tar::Header::from_byte_slice(&good[at..at + 512]).clone();
        trick(&mut header);
        header.set_cksum();
        bad[at..at + 512].copy_from_slice(header.as_bytes());

        let error = imported(&target, &bad, &key).await.unwrap_err().to_string();

        let is_named = error.contains(&name) || error.contains("the part behind signatures/");
        assert!(is_named, "{what}: {error}");
        assert!(target.blobs().unwrap().is_empty(), "{what}");
    }
}

fn padded(name: &str) -> [u8; 100] {
    let mut bytes = [0; 100];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

#[tokio::test]
async fn a_file_that_comes_twice_or_in_the_wrong_order_is_refused() {
    let (_from, origin) = store();
    let key = SecretKey::generate().unwrap();
    let file = |name: &str, content: &[u8]| StaticFile {
        url: format!("https://files.example/{name}"),
        content: origin.put(content).unwrap(),
        size: content.len() as u64,
    };
    let generation = Generation {
        files: vec![file("a", b"one"), file("b", b"two")],
        ..Generation::default()
    };
    let manifest = serde_json::to_value(planned(&origin, generation, 1)).unwrap();
    let name = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content));
    let (one, two) = (name(b"one"), name(b"two"));
    let mut right: Vec<(&str, &[u8])> = vec![(&one, b"one"), (&two, b"two")];
    right.sort_unstable();
    let wrong = [right[1], right[0]];
    let twice = [right[0], right[0], right[1]];

    for files in [&wrong[..], &twice] {
        let (_dir, target) = store();
        assert!(
            imported(&target, &forged(&manifest, files, &key), &key)
                .await
                .is_err()
        );
        assert_eq!(target.current().unwrap(), None);
    }
    let (_dir, target) = store();
    assert!(
        imported(&target, &forged(&manifest, &right, &key), &key)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_package_that_is_not_what_the_manifest_says_is_never_current() {
    let key = SecretKey::generate().unwrap();
    let (_from, origin) = store();
    let evil = zip("../../evil", b"#!/bin/sh\n");
    for index in 0..2 {
        for (what, change) in [
            ("reaches out", None),
            ("another checksum", Some(Hash::H1([7; 32]))),
        ] {
            let (_dir, target) = store();
            let mut provider = provider(&origin, "1.0.0");
            let package = &mut provider.packages[index];
            match change {
                None => {
                    package.archive = origin.put(&evil).unwrap();
                    package.size = evil.len() as u64;
                }
                Some(hash) => package.h1_tree = hash,
            }
            let name = package.filename.clone();
            let generation = Generation {
                providers: vec![provider],
                ..Generation::default()
            };
            let bundle = bundled(&origin, &planned(&origin, generation, 1), &key);

            let error = imported(&target, &bundle, &key)
                .await
                .unwrap_err()
                .to_string();

            assert!(error.contains(&name), "{what}: {error}");
            assert_eq!(target.current().unwrap(), None, "{what}");
        }
    }
}

#[test]
fn a_manifest_that_promises_more_than_comes_takes_no_memory_for_it() {
    let mut bundle = header("manifest.json", 200 << 20).to_vec();
    bundle.extend(b"{}");
    let error = Reader::new(&bundle[..]).head().err().unwrap();
    assert!(
        error.to_string().contains("`manifest.json` is incomplete"),
        "{error}"
    );

    let bundle = header("manifest.json", 1 << 40);
    let error = Reader::new(&bundle[..]).head().err().unwrap();
    assert!(error.to_string().contains("more than"), "{error}");
    assert!(Manifest::parse(b"{}").is_err());
}
