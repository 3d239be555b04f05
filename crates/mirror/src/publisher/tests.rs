use outpost_base::registry::HASHICORP_KEY;
use pgp::{
    composed::{ArmorOptions, KeyType, SecretKeyParamsBuilder, SignedSecretKey, SubpacketConfig},
    crypto::hash::HashAlgorithm,
    packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData},
    ser::Serialize as _,
    types::{Duration, Password, Timestamp as PgpTime},
};

use super::*;

const SUMS: &[u8] = b"00  terraform-provider-demo_1.0.0_linux_amd64.zip\n";
const DAY: u32 = 24 * 3600;
/// Time at which the test keys are made, a Monday.
const CREATED: u32 = 1_600_041_600;

/// Returns a key that was made on [`CREATED`] and is valid for some days.
fn key(days: Option<u32>) -> SignedSecretKey {
    let mut params = SecretKeyParamsBuilder::default();
    params
        .key_type(KeyType::Ed25519)
        .can_sign(true)
        .created_at(PgpTime::from_secs(CREATED))
        .primary_user_id("Acme <acme@example.com>".into());
    let mut key = params
        .build()
        .unwrap()
        .generate(rand_08::thread_rng())
        .unwrap();
    if let Some(days) = days {
        let primary = &key.primary_key;
        let mut config =
            SignatureConfig::from_key(rand_08::thread_rng(), primary, SignatureType::Key).unwrap();
        config.hashed_subpackets = [
            SubpacketData::SignatureCreationTime(PgpTime::now()),
            SubpacketData::KeyExpirationTime(Duration::from_secs(days * DAY)),
            SubpacketData::IssuerFingerprint(primary.fingerprint()),
        ]
        .map(|data| Subpacket::regular(data).unwrap())
        .to_vec();
        let prolonged = config
            .sign_key(primary, &Password::empty(), primary.public_key())
            .unwrap();
        key.details.direct_signatures.push(prolonged);
    }
    key
}

fn armored(key: &SignedSecretKey) -> String {
    SignedPublicKey::from(key.clone())
        .to_armored_string(ArmorOptions::default())
        .unwrap()
}

/// Returns a signature made this many days after the key.
fn signature(key: &SignedSecretKey, day: u32) -> Vec<u8> {
    let primary = &key.primary_key;
    let hashed = [
        SubpacketData::SignatureCreationTime(PgpTime::from_secs(CREATED + day * DAY)),
        SubpacketData::IssuerFingerprint(primary.fingerprint()),
    ]
    .map(|data| Subpacket::regular(data).unwrap())
    .to_vec();
    DetachedSignature::sign_binary_data_with_subpackets(
        rand_08::thread_rng(),
        primary,
        &Password::empty(),
        HashAlgorithm::Sha256,
        SUMS,
        SubpacketConfig::UserDefined {
            hashed,
            unhashed: Vec::new(),
        },
    )
    .unwrap()
    .to_bytes()
    .unwrap()
}

#[test]
fn the_key_that_signed_is_found_among_several() {
    let (other, signer) = (key(None), key(None));
    let keys = [armored(&other), "rubbish".to_owned(), armored(&signer)];

    let by = verify(SUMS, &signature(&signer, 1), &keys, &[]).unwrap();

    assert_eq!((by.index, by.expires), (2, None));
    assert_eq!(Some(by.fingerprint), fingerprint_of(&keys[2]));
}

#[test]
fn a_signature_over_something_else_or_by_somebody_else_is_refused() {
    let (other, signer) = (key(None), key(None));
    let good = signature(&signer, 1);

    let foreign = verify(SUMS, &good, &[armored(&other)], &[]).unwrap_err();
    let changed = verify(b"11  x\n", &good, &[armored(&signer)], &[]).unwrap_err();
    let none = verify(SUMS, &good, &[], &[]).unwrap_err();

    for error in [foreign, changed, none] {
        assert!(matches!(error, SignatureError::Unknown { .. }), "{error}");
    }
    let rubbish = verify(SUMS, b"rubbish", &[armored(&signer)], &[]).unwrap_err();
    assert!(
        matches!(rubbish, SignatureError::Unreadable(_)),
        "{rubbish}"
    );
}

#[test]
fn what_an_expired_key_signed_in_time_stays_good_and_later_things_need_a_word() {
    let signer = key(Some(10));
    let keys = [armored(&signer)];

    let in_time = verify(SUMS, &signature(&signer, 9), &keys, &[]).unwrap();
    let late = signature(&signer, 11);
    let refused = verify(SUMS, &late, &keys, &[]).unwrap_err();
    let allowed = verify(
        SUMS,
        &late,
        &keys,
        std::slice::from_ref(&in_time.fingerprint),
    );

    assert!(in_time.expires.is_some());
    let text = refused.to_string();
    assert!(text.contains(&in_time.fingerprint), "{text}");
    assert!(text.contains("expired on 2020-09-24"), "{text}");
    assert!(allowed.is_ok());
}

#[test]
fn the_key_of_terraforms_releases_is_valid_until_2030() {
    let armored = HASHICORP_KEY;

    assert_eq!(
        fingerprint_of(armored).as_deref(),
        Some("C874011F0AB405110D02105534365D9472D7468F")
    );
    let (key, _) = SignedPublicKey::from_string(armored).unwrap();
    let end = expiry_of_primary(&key).unwrap().to_string();
    assert!(end.starts_with("2030-"), "{end}");
}

#[test]
fn what_is_said_of_a_keys_end_is_true_at_its_time() {
    let at = |day: u32| jiff::Timestamp::from_second(i64::from(CREATED + day * DAY)).unwrap();
    let key = key(Some(10));
    let keys = [armored(&key)];
    let allowed = [hex::encode_upper(key.primary_key.fingerprint().as_bytes())];
    let by = |day| verify(SUMS, &signature(&key, day), &keys, &allowed).unwrap();

    let early = by(5);
    assert_eq!(early.warning(at(9)), None);
    let said = early.warning(at(10)).unwrap();
    assert!(
        said.contains("expired on 2020-09-24") && said.contains("is older"),
        "{said}"
    );
    let said = by(12).warning(at(20)).unwrap();
    assert!(
        said.contains("from 2020-09-26") && said.contains("--allow-expired"),
        "{said}"
    );
    assert!(!said.contains("older"), "{said}");
    let unknown = SignedBy {
        signed: None,
        ..early
    };
    let said = unknown.warning(at(20)).unwrap();
    assert!(said.contains("does not say when"), "{said}");
}
