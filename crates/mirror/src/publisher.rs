//! Publishers' signatures: which key signed a list of checksums, and whether it was valid at that time.

use jiff::Timestamp;
use pgp::{
    composed::{Deserializable as _, DetachedSignature, SignedPublicKey},
    packet::Signature,
    types::{KeyDetails as _, SignedUser},
};

/// Maximum number of keys that are tried; a registry sends one or two.
const MAX_KEYS: usize = 32;

/// A valid signature, and the key that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBy {
    /// Index of the key among those that were tried.
    pub index: usize,
    /// Fingerprint of the primary key: 40 hexadecimal digits in upper case for keys of version 4.
    pub fingerprint: String,
    /// End of the key's validity; `None` if it does not expire.
    pub expires: Option<Timestamp>,
    /// Time of the signature, if it contains one.
    pub signed: Option<Timestamp>,
}

impl SignedBy {
    /// Returns a warning for the operator if the key has expired at `now`; `None` before that.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let end = self.expires.filter(|end| *end <= now)?;
        let (key, on) = (&self.fingerprint, day(end));
        Some(match self.signed {
            Some(signed) if signed <= end => format!(
                "the publisher's key {key} expired on {on}; this signature is older and stays valid, but new releases will need a \
                 renewed key"
            ),
            Some(signed) => format!(
                "the publisher's key {key} expired on {on}, and this signature is from {}: accepted only because of \
                 --allow-expired",
                day(signed)
            ),
            None => format!(
                "the publisher's key {key} expired on {on}, and this signature does not say when it was made"
            ),
        })
    }
}

fn day(time: Timestamp) -> jiff::civil::Date {
    time.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// Reason why a list of checksums is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature cannot be parsed.
    #[error("the signature cannot be read: {0}")]
    Unreadable(String),
    /// None of the keys made the signature.
    #[error("none of the publisher's {count} keys made the signature{}", why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Unknown {
        /// Number of keys that were tried.
        count: usize,
        /// Error of the last key.
        why: Option<String>,
    },
    /// The key had expired when the signature was made.
    #[error(
        "the publisher's key {fingerprint} expired on {on}, and the signature is from {signed}"
    )]
    Expired {
        /// Fingerprint of the key.
        fingerprint: String,
        /// Last day of the key's validity.
        on: jiff::civil::Date,
        /// Day of the signature.
        signed: jiff::civil::Date,
    },
    /// The publisher has withdrawn the key.
    #[error("the publisher's key {fingerprint} is revoked")]
    Revoked {
        /// Fingerprint of the key.
        fingerprint: String,
    },
}

/// Finds the key that signed `content`. `allow_expired` lists fingerprints of keys whose expiry is ignored.
///
/// A key that has expired since is valid for what it signed before.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(
    content: &[u8],
    signature: &[u8],
    keys: &[String],
    allow_expired: &[String],
) -> Result<SignedBy, SignatureError> {
    let unreadable = |error: pgp::errors::Error| SignatureError::Unreadable(error.to_string());
    // Most signatures are binary, as the protocol requires; some release sites have armored ones.
    let signature = match signature.starts_with(b"-----BEGIN") {
        true => DetachedSignature::from_armor_single(signature).map(|(signature, _)| signature),
        false => DetachedSignature::from_bytes(signature),
    };
    let signature = signature.map_err(unreadable)?;
    let mut why = None;
    for (index, armored) in keys.iter().take(MAX_KEYS).enumerate() {
        let key = match SignedPublicKey::from_string(armored) {
            Ok((key, _)) => key,
            Err(error) => {
                why = Some(error.to_string());
                continue;
            }
        };
        match made_by(&signature, &key, content) {
            Some(expires) => {
                return judge(index, &key, expires, &signature.signature, allow_expired);
            }
            None => why = Some(format!("{} did not", fingerprint(&key))),
        }
    }
    let count = keys.len();
    Err(SignatureError::Unknown { count, why })
}

/// Returns the fingerprint of an armored key; `None` if the text is not a key.
pub(crate) fn fingerprint_of(armored: &str) -> Option<String> {
    let (key, _) = SignedPublicKey::from_string(armored).ok()?;
    Some(fingerprint(&key))
}

fn fingerprint(key: &SignedPublicKey) -> String {
    hex::encode_upper(key.fingerprint().as_bytes())
}

/// Returns the end of the validity of the key or subkey that made the signature; `None` if neither did.
fn made_by(
    signature: &DetachedSignature,
    key: &SignedPublicKey,
    content: &[u8],
) -> Option<Option<Timestamp>> {
    let of_primary = expiry_of_primary(key);
    if signature.verify(key, content).is_ok() {
        return Some(of_primary);
    }
    let made_it = |subkey: &&pgp::composed::SignedPublicSubKey| {
        // A subkey without a binding signature of its primary key may be anybody's.
        signature.verify(*subkey, content).is_ok()
            && subkey.verify_bindings(&key.primary_key).is_ok()
    };
    let subkey = key.public_subkeys.iter().find(made_it)?;
    let of_subkey = latest(subkey.signatures.iter());
    let of_subkey = of_subkey.and_then(|binding| end(seconds(subkey.key.created_at()), binding));
    // A subkey is valid no longer than its primary key.
    Some([of_primary, of_subkey].into_iter().flatten().min())
}

fn judge(
    index: usize,
    key: &SignedPublicKey,
    expires: Option<Timestamp>,
    signature: &Signature,
    allow_expired: &[String],
) -> Result<SignedBy, SignatureError> {
    let fingerprint = fingerprint(key);
    let mut revocations = key.details.revocation_signatures.iter();
    if revocations.any(|revocation| revocation.verify_key(&key.primary_key).is_ok()) {
        return Err(SignatureError::Revoked { fingerprint });
    }
    let signed = signature
        .created()
        .and_then(|time| Timestamp::from_second(seconds(time)).ok());
    match (expires, signed) {
        (Some(end), Some(signed)) if signed > end && !allow_expired.contains(&fingerprint) => {
            Err(SignatureError::Expired {
                fingerprint,
                on: day(end),
                signed: day(signed),
            })
        }
        _ => Ok(SignedBy {
            index,
            fingerprint,
            expires,
            signed,
        }),
    }
}

/// Returns the expiry in the newest self-signature, because publishers prolong keys by adding one.
fn expiry_of_primary(key: &SignedPublicKey) -> Option<Timestamp> {
    let primary = &key.primary_key;
    let of_user = |user: &'_ SignedUser| {
        let good = user.signatures.iter().filter(|signature| {
            let tag = pgp::types::Tag::UserId;
            signature
                .verify_certification(primary, tag, &user.id)
                .is_ok()
        });
        latest(good).cloned()
    };
    let by_users = key.details.users.iter().filter_map(of_user);
    let direct = key.details.direct_signatures.iter();
    let direct = direct.filter(|signature| signature.verify_key(primary).is_ok());
    let all: Vec<Signature> = by_users.chain(direct.cloned()).collect();
    end(seconds(primary.created_at()), latest(all.iter())?)
}

fn latest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|signature| signature.created())
}

fn end(created: i64, signature: &Signature) -> Option<Timestamp> {
    let after = std::time::Duration::from(signature.key_expiration_time()?).as_secs();
    // Zero means that the key does not expire.
    let after = i64::try_from(after).ok().filter(|after| *after > 0)?;
    Timestamp::from_second(created.saturating_add(after)).ok()
}

fn seconds(time: pgp::types::Timestamp) -> i64 {
    i64::from(time.as_secs())
}

#[cfg(test)]
mod tests;
