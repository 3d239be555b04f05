//! Who may have what: documents for a token, files for a link that a document has.
//!
//! Engines send no token when they fetch an archive, so a document's links carry a signature that is good for some hours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac::{self, HMAC_SHA256, Key},
};

use crate::{mirror::Digest, secret::Secret};

/// Links end at full hours, so that a document stays the same for as long.
const STEP: Duration = Duration::from_secs(60 * 60);

/// How many of them a link is good for at most.
const STEPS: u64 = 3;

/// Decides who is answered, and makes links.
#[derive(Clone, Debug, Default)]
pub struct Access {
    tokens: Vec<Secret>,
    /// Of the first token: what several servers give out is good at each of them.
    key: Option<Key>,
}

impl Access {
    /// For whoever has one of these tokens; for everybody if there are none.
    pub fn tokens(tokens: Vec<Secret>) -> Self {
        let key = tokens.first().map(|first| {
            let secret = Key::new(HMAC_SHA256, first.expose().as_bytes());
            let derived = hmac::sign(&secret, b"outpost mirror links/1");
            Key::new(HMAC_SHA256, derived.as_ref())
        });
        Self { tokens, key }
    }

    /// Whether a header `Authorization` has one of the tokens: as a bearer, or as the password of whoever.
    pub(super) fn admits(&self, authorization: Option<&str>) -> bool {
        if self.tokens.is_empty() {
            return true;
        }
        let Some((scheme, given)) = authorization.and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let given = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => given.trim().to_owned(),
            "basic" => match password(given) {
                Some(password) => password,
                None => return false,
            },
            _ => return false,
        };
        let is_same = |token: &Secret| {
            verify_slices_are_equal(token.expose().as_bytes(), given.as_bytes()).is_ok()
        };
        self.tokens.iter().any(is_same)
    }

    /// Where a file of the store is served. Its name decides how go-getter unpacks it.
    pub(super) fn blob(&self, digest: Digest, name: &str) -> String {
        let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-+".contains(b);
        let name = match name.as_bytes().iter().all(is_plain) {
            true => name,
            false => "archive.zip",
        };
        let query = self.query(digest, now());
        format!("/blobs/{digest}/{name}{query}")
    }

    fn query(&self, digest: Digest, now: Duration) -> String {
        let Some(key) = &self.key else {
            return String::new();
        };
        let end = (now.as_secs() / STEP.as_secs() + STEPS) * STEP.as_secs();
        format!("?e={end}&s={}", hex::encode(signature(key, digest, end)))
    }

    /// Whether the query of a link lets its bearer have the file.
    pub(super) fn admits_link(&self, digest: Digest, query: Option<&str>) -> bool {
        self.admits_link_at(digest, query, now())
    }

    fn admits_link_at(&self, digest: Digest, query: Option<&str>, now: Duration) -> bool {
        let Some(key) = &self.key else {
            return true;
        };
        let value = |name: &str| {
            let mut pairs = query.unwrap_or_default().split('&');
            pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let end = value("e").and_then(|end| end.parse::<u64>().ok());
        let given = value("s").and_then(|given| hex::decode(given).ok());
        let (Some(end), Some(given)) = (end, given) else {
            return false;
        };
        let is_ours = hmac::verify(key, &message(digest, end), &given).is_ok();
        is_ours && now.as_secs() <= end
    }
}

fn message(digest: Digest, end: u64) -> Vec<u8> {
    format!("{digest} {end}").into_bytes()
}

fn signature(key: &Key, digest: Digest, end: u64) -> Vec<u8> {
    hmac::sign(key, &message(digest, end)).as_ref().to_vec()
}

fn password(basic: &str) -> Option<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let decoded = String::from_utf8(STANDARD.decode(basic.trim()).ok()?).ok()?;
    decoded
        .split_once(':')
        .map(|(_, password)| password.to_owned())
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn guarded() -> Access {
        Access::tokens(vec![Secret::new("first-token"), Secret::new("second")])
    }

    #[test]
    fn one_of_the_tokens_opens_as_a_bearer_or_as_a_password() {
        let access = guarded();

        for good in ["Bearer first-token", "bearer second", "Basic eDpzZWNvbmQ="] {
            assert!(access.admits(Some(good)), "{good}");
        }
        for bad in [
            "Bearer first",
            "Basic c2Vjb25k",
            "Basic ?",
            "first-token",
            "Digest second",
        ] {
            assert!(!access.admits(Some(bad)), "{bad}");
        }
        assert!(!access.admits(None));
        assert!(Access::default().admits(None));
    }

    #[test]
    fn a_link_is_good_for_its_file_and_its_time_alone() {
        let access = guarded();
        let (digest, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let query = access.query(digest, NOW);
        let link = query.trim_start_matches('?');
        let is_good = |digest, link: &str, now| access.admits_link_at(digest, Some(link), now);

        assert!(is_good(digest, link, NOW));
        assert!(is_good(digest, &format!("checksum=x&{link}"), NOW + STEP));
        assert!(!is_good(digest, link, NOW + 4 * STEP));
        assert!(!is_good(other, link, NOW));
        assert!(!is_good(digest, &link.replace("e=1", "e=2"), NOW));
        assert!(!is_good(digest, "e=99999999999&s=00", NOW));
        assert!(!access.admits_link_at(digest, None, NOW));
        assert!(Access::default().admits_link(digest, None));
    }

    #[test]
    fn servers_with_the_same_token_take_each_others_links() {
        let digest = Digest::of(b"a");

        assert_eq!(guarded().query(digest, NOW), guarded().query(digest, NOW));
        let other = Access::tokens(vec![Secret::new("other")]);
        assert_ne!(guarded().query(digest, NOW), other.query(digest, NOW));
    }
}
