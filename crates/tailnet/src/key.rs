//! Keys of the overlay: one for WireGuard and relays, one for disco, and the boxes that they seal.
//!
//! Both live as long as the process: a machine that restarts returns with new ones, under its id.
//!
//! # Source
//! coder/tailscale `types/key`: text and binary forms, clamping, boxes with the nonce in front.

use std::fmt;

use crypto_box::{
    PublicKey, SalsaBox, SecretKey,
    aead::{Aead as _, AeadCore as _, OsRng},
};
use zeroize::Zeroizing;

/// Length of a nonce in bytes; it precedes the sealed bytes.
pub const NONCE_BYTES: usize = 24;
/// Bytes that sealing adds, without the nonce.
pub const TAG_BYTES: usize = 16;

const NODE_PREFIX: &[u8] = b"np";
const DISCO_PREFIX: &str = "discokey:";

/// Public key as peers see it: 32 bytes of Curve25519.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// Creates a key from its 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Bytes of the key.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Formats the key as 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Encodes a node key as in messages: `np` and the bytes.
    pub fn to_node_bytes(self) -> Vec<u8> {
        [NODE_PREFIX, &self.0].concat()
    }

    /// Parses the result of [`Key::to_node_bytes`].
    pub fn from_node_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(NODE_PREFIX)?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// Encodes a disco key as in messages: `discokey:` and the digits.
    pub(crate) fn to_disco_text(self) -> String {
        format!("{DISCO_PREFIX}{}", self.hex())
    }

    /// Parses the result of `Key::to_disco_text`.
    pub fn from_disco_text(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix(DISCO_PREFIX)?, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..5]))
    }
}

/// Private key, generated for this process.
#[derive(Clone)]
pub struct Private(Zeroizing<[u8; 32]>);

impl Private {
    /// Generates a new random key.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new(SecretKey::generate(&mut OsRng).to_bytes());
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(bytes)
    }

    /// Creates a key from known bytes, for tests and recordings.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Public key that belongs to it.
    pub fn public(&self) -> Key {
        let key = SecretKey::from(*self.0).public_key();
        Key(*key.as_bytes())
    }

    /// Exposes the bytes to WireGuard, which computes with them by itself.
    pub(super) fn expose(&self) -> [u8; 32] {
        *self.0
    }

    /// Returns the box that both owners can seal and open.
    pub fn shared(&self, other: Key) -> Shared {
        let (theirs, ours) = (PublicKey::from(other.0), SecretKey::from(*self.0));
        Shared(SalsaBox::new(&theirs, &ours))
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Box between two keys: X25519, XSalsa20 and Poly1305, as in NaCl.
pub struct Shared(SalsaBox);

impl Shared {
    /// Seals bytes, and returns the nonce, the tag and the sealed bytes.
    pub fn seal(&self, open: &[u8]) -> Vec<u8> {
        let nonce = SalsaBox::generate_nonce(&mut OsRng);
        let sealed = self.0.encrypt(&nonce, open);
        // Sealing fails only for inputs that do not fit into memory.
        [nonce.as_slice(), &sealed.unwrap_or_default()].concat()
    }

    /// Opens sealed bytes; `None` if they were not sealed by the other key, or not for ours.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        self.0.decrypt(nonce.into(), sealed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_forms_of_the_reference() {
        let key = Key::new([0xab; 32]);

        assert_eq!(key.to_node_bytes()[..3], *b"np\xab");
        assert_eq!(Key::from_node_bytes(&key.to_node_bytes()), Some(key));
        assert_eq!(key.to_disco_text(), format!("discokey:{}", "ab".repeat(32)));
        assert_eq!(Key::from_disco_text(&key.to_disco_text()), Some(key));
        for wrong in ["discokey:ab", "nodekey:", ""] {
            assert_eq!(Key::from_disco_text(wrong), None, "{wrong}");
        }
        assert_eq!(Key::from_node_bytes(&[0; 34]), None);
    }

    #[test]
    fn a_box_opens_for_the_two_and_nobody_else() {
        let (a, b, c) = (
            Private::generate(),
            Private::generate(),
            Private::generate(),
        );

        let sealed = a.shared(b.public()).seal(b"hello");

        assert_eq!(sealed.len(), NONCE_BYTES + TAG_BYTES + 5);
        assert_eq!(b.shared(a.public()).open(&sealed).unwrap(), b"hello");
        assert_eq!(c.shared(a.public()).open(&sealed), None);
        assert_eq!(b.shared(a.public()).open(&sealed[..20]), None);
    }

    #[test]
    fn a_private_key_is_clamped_and_not_shown() {
        let private = Private::generate();

        assert_eq!(private.0[0] & 7, 0);
        assert_eq!(private.0[31] & 192, 64);
        assert_eq!(format!("{private:?}"), "[redacted]");
    }
}
