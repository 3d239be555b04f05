//! Access control: documents require a token, files a link from a document.
//!
//! Engines send no token when they fetch an archive, so a document's links contain a signature that is valid for some
//! hours.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac::{self, HMAC_SHA256, Key},
};
use outpost_base::secret::Secret;

use crate::Digest;

/// Interval of the links' expiry, at full hours, so that a document stays the same for as long.
const STEP: Duration = Duration::from_secs(60 * 60);

/// Maximum number of intervals for which a link is valid.
const STEPS: u64 = 3;

/// Decides which clients are answered, and signs links.
#[derive(Clone, Debug, Default)]
pub struct Access {
    tokens: Vec<(Client, Secret)>,
    /// Key derived from the first token: links of several servers are valid at each of them.
    key: Option<Key>,
}

/// Name of a client's token; empty if no token is required.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Client(pub(super) Arc<str>);

/// Signs links for one client.
pub(super) struct Links<'a> {
    access: &'a Access,
    client: Client,
}

impl Access {
    /// Returns access for clients with one of these tokens; for all clients if there are none. The tokens' names are
    /// their numbers, from 1.
    pub fn tokens(tokens: Vec<Secret>) -> Self {
        let numbers = (1..).map(|number: usize| number.to_string());
        Self::named(numbers.zip(tokens).collect())
    }

    /// Returns the same with names for the tokens, which the audit log shows.
    pub fn named(tokens: Vec<(String, Secret)>) -> Self {
        let tokens = tokens.into_iter();
        let tokens: Vec<_> = tokens
            .map(|(name, token)| (Client(name.into()), token))
            .collect();
        // A derived key, so that links are not signed with the token itself.
        let key = tokens.first().map(|(_, first)| {
            let secret = Key::new(HMAC_SHA256, first.expose().as_bytes());
            let derived = hmac::sign(&secret, b"outpost mirror links/1");
            Key::new(HMAC_SHA256, derived.as_ref())
        });
        Self { tokens, key }
    }

    /// Returns the client whose token is in the header `Authorization`: as a bearer token, or as a password with any
    /// user name. `None` if a token is required and this is not one.
    pub(super) fn admits(&self, authorization: Option<&str>) -> Option<Client> {
        if self.tokens.is_empty() {
            return Some(Client::default());
        }
        let (scheme, given) = authorization?.split_once(' ')?;
        let given = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => given.trim().to_owned(),
            "basic" => password(given)?,
            _ => return None,
        };
        let is_same = |(_, token): &&(Client, Secret)| {
            // In constant time, so that a token cannot be guessed byte by byte.
            verify_slices_are_equal(token.expose().as_bytes(), given.as_bytes()).is_ok()
        };
        let found = self.tokens.iter().find(is_same);
        found.map(|(client, _)| client.clone())
    }

    /// Returns whether a token is required.
    pub(super) fn wants_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Returns a signer of links for a client.
    pub(super) fn links(&self, client: &Client) -> Links<'_> {
        Links {
            access: self,
            client: client.clone(),
        }
    }

    /// Returns the client that the query of a link authorizes for the file; `None` if it authorizes none.
    pub(super) fn admits_link(&self, digest: Digest, query: Option<&str>) -> Option<Client> {
        self.admits_link_at(digest, query, now())
    }

    fn admits_link_at(&self, digest: Digest, query: Option<&str>, now: Duration) -> Option<Client> {
        let Some(key) = &self.key else {
            return Some(Client::default());
        };
        let value = |name: &str| {
            let mut pairs = query.unwrap_or_default().split('&');
            pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let end = value("e")?.parse::<u64>().ok()?;
        let given = hex::decode(value("s")?).ok()?;
        let client = String::from_utf8(hex::decode(value("c")?).ok()?).ok()?;
        hmac::verify(key, &message(digest, end, &client), &given).ok()?;
        (now.as_secs() <= end).then(|| Client(client.into()))
    }
}

impl Links<'_> {
    /// Returns the address of a file of the store. Its name decides how go-getter unpacks it.
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
        let Some(key) = &self.access.key else {
            return String::new();
        };
        let end = (now.as_secs() / STEP.as_secs() + STEPS) * STEP.as_secs();
        let client = &self.client.0;
        let signature = hmac::sign(key, &message(digest, end, client));
        // The link contains the client's name, because engines fetch files without a token.
        let (client, signature) = (hex::encode(&**client), hex::encode(signature));
        format!("?e={end}&c={client}&s={signature}")
    }
}

fn message(digest: Digest, end: u64, client: &str) -> Vec<u8> {
    format!("{digest} {end} {client}").into_bytes()
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
        let named = |name: &str, token: &str| (name.to_owned(), Secret::new(token));
        Access::named(vec![named("ann", "first-token"), named("bob", "second")])
    }

    fn query(access: &Access, client: &str, digest: Digest) -> String {
        let links = access.links(&Client(client.into()));
        links.query(digest, NOW).trim_start_matches('?').to_owned()
    }

    #[test]
    fn one_of_the_tokens_opens_as_a_bearer_or_as_a_password() {
        let access = guarded();

        for (good, name) in [
            ("Bearer first-token", "ann"),
            ("bearer second", "bob"),
            ("Basic eDpzZWNvbmQ=", "bob"),
        ] {
            let client = access.admits(Some(good));
            assert_eq!(client, Some(Client(name.into())), "{good}");
        }
        for bad in [
            "Bearer first",
            "Basic c2Vjb25k",
            "Basic ?",
            "first-token",
            "Digest second",
        ] {
            assert_eq!(access.admits(Some(bad)), None, "{bad}");
        }
        assert_eq!(access.admits(None), None);
        assert_eq!(Access::default().admits(None), Some(Client::default()));
        let unnamed = Access::tokens(vec![Secret::new("one"), Secret::new("two")]);
        assert_eq!(unnamed.admits(Some("Bearer two")), Some(Client("2".into())));
    }

    #[test]
    fn a_link_is_good_for_its_file_its_client_and_its_time_alone() {
        let access = guarded();
        let (digest, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let link = query(&access, "bob", digest);
        let is_good = |digest, link: &str, now| {
            let client = access.admits_link_at(digest, Some(link), now);
            client.map(|client| client.0.to_string())
        };

        let bob = Some("bob".to_owned());
        assert_eq!(is_good(digest, &link, NOW), bob);
        assert_eq!(
            is_good(digest, &format!("checksum=x&{link}"), NOW + STEP),
            bob
        );
        let anns = link.replace(&hex::encode("bob"), &hex::encode("ann"));
        assert_ne!(anns, link);
        for (digest, link, now) in [
            (digest, link.as_str(), NOW + 4 * STEP),
            (other, &link, NOW),
            (digest, &link.replace("e=1", "e=2"), NOW),
            (digest, &anns, NOW),
            (digest, "e=99999999999&c=&s=00", NOW),
        ] {
            assert_eq!(is_good(digest, link, now), None, "{link}");
        }
        assert_eq!(access.admits_link_at(digest, None, NOW), None);
        assert!(Access::default().admits_link(digest, None).is_some());
    }

    #[test]
    fn servers_with_the_same_token_take_each_others_links() {
        let digest = Digest::of(b"a");

        let link = query(&guarded(), "ann", digest);
        assert_eq!(link, query(&guarded(), "ann", digest));
        let other = Access::tokens(vec![Secret::new("other")]);
        assert_ne!(link, query(&other, "ann", digest));
    }
}
