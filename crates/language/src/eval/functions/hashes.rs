//! Functions that compute hashes, and identifiers.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};
use serde_json::Value;
use uuid::Uuid;

use super::{Args, Called};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    let hash = |algorithm: &'static Algorithm, write: fn(&[u8]) -> String| {
        args.text(0)
            .map(|text| Value::String(write(digest(algorithm, text.as_bytes()).as_ref())))
    };
    let (hex, base64) = (
        |bytes: &[u8]| hex::encode(bytes),
        |bytes: &[u8]| STANDARD.encode(bytes),
    );
    Some(match name {
        "md5" => args
            .text(0)
            .map(|text| hex::encode(Md5::digest(text)).into()),
        "sha1" => hash(&SHA1_FOR_LEGACY_USE_ONLY, hex),
        "sha256" => hash(&SHA256, hex),
        "sha512" => hash(&SHA512, hex),
        "base64sha256" => hash(&SHA256, base64),
        "base64sha512" => hash(&SHA512, base64),
        "uuid" => Ok(Uuid::new_v4().to_string().into()),
        "uuidv5" => named_uuid(args),
        _ => return None,
    })
}

/// Returns a UUID of RFC 9562, version 5: the beginning of a SHA-1 over the namespace and the name.
fn named_uuid(args: &Args<'_>) -> Called {
    let namespace = match args.text(0)?.as_str() {
        "dns" => Uuid::NAMESPACE_DNS,
        "url" => Uuid::NAMESPACE_URL,
        "oid" => Uuid::NAMESPACE_OID,
        "x500" => Uuid::NAMESPACE_X500,
        other => other
            .parse()
            .map_err(|_| "the namespace must be dns, url, oid, x500 or a UUID")?,
    };
    let input = [namespace.as_bytes(), args.text(1)?.as_bytes()].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &input);
    let first: [u8; 16] = hash.as_ref()[..16].try_into().expect("SHA-1 has 20 bytes");
    let builder = uuid::Builder::from_sha1_bytes(first);
    Ok(builder.into_uuid().to_string().into())
}
