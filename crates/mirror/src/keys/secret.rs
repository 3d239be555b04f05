//! The secret half of a key, and its file in minisign's format, with or without a passphrase.

use aws_lc_rs::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use blake2::{Blake2b, Digest as _, digest::consts::U32};
use outpost_base::secret::Secret;
use scrypt::Params;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{ED25519_KEY, KeyError, KeyId, PublicKey, decoded};

/// Minisign's identifiers of scrypt, of a key without a passphrase, and of BLAKE2b.
const SCRYPT: [u8; 2] = *b"Sc";
const NO_PASSPHRASE: [u8; 2] = [0, 0];
const BLAKE2B: [u8; 2] = *b"B2";

/// Bytes before the encrypted part: identifiers, salt and limits.
const HEAD: usize = 2 + 2 + 2 + 32 + 8 + 8;
/// Bytes of the encrypted part: the key's id, its seed, its public half and a checksum.
const SEALED: usize = 8 + 64 + 32;

/// Cost of a guess at a passphrase: 128 MiB and a third of a second, as OWASP recommends for scrypt. Minisign's own
/// limit is a gigabyte, which we can read as well.
const COST: Cost = Cost {
    operations: 1 << 22,
    memory: 1 << 27,
};
const MAX_MEMORY: u64 = 1 << 30;
const MAX_OPERATIONS: u64 = 1 << 26;

/// A key that signs. It cannot be printed.
pub struct SecretKey {
    id: KeyId,
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl SecretKey {
    /// Generates a new key.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let (mut id, mut seed) = ([0; 8], Zeroizing::new([0; 32]));
        fill(&mut id)?;
        fill(&mut *seed)?;
        Self::new(KeyId(id), seed)
    }

    fn new(id: KeyId, seed: Zeroizing<[u8; 32]>) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed);
        let pair = pair.map_err(|_| invalid("it is no seed for Ed25519"))?;
        Ok(Self { id, seed, pair })
    }

    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref()); // Ed25519 has 32 bytes.
        PublicKey { id: self.id, bytes }
    }

    pub(super) fn sign(&self, content: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(content).as_ref()); // Ed25519 has 64 bytes.
        signature
    }

    /// Returns the key as a file, encrypted if there is a passphrase.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn to_file(&self, passphrase: Option<&Secret>) -> Result<Secret, KeyError> {
        let mut file = Zeroizing::new([0; HEAD + SEALED]);
        let (head, sealed) = file.split_at_mut(HEAD);
        head[..2].copy_from_slice(&ED25519_KEY);
        head[4..6].copy_from_slice(&BLAKE2B);
        sealed[..8].copy_from_slice(&self.id.0);
        sealed[8..40].copy_from_slice(&*self.seed);
        sealed[40..72].copy_from_slice(self.pair.public_key().as_ref());
        let checksum = checksum(&sealed[..72]);
        sealed[72..].copy_from_slice(&checksum);
        if let Some(passphrase) = passphrase {
            head[2..4].copy_from_slice(&SCRYPT);
            fill(&mut head[6..38])?;
            head[38..46].copy_from_slice(&COST.operations.to_le_bytes());
            head[46..54].copy_from_slice(&COST.memory.to_le_bytes());
            COST.apply(passphrase, &head[6..38], sealed)?;
        }
        let comment = match passphrase {
            Some(_) => "untrusted comment: minisign encrypted secret key",
            None => "untrusted comment: minisign secret key",
        };
        let line = Zeroizing::new(STANDARD.encode(file.as_slice()));
        Ok(Secret::new(format!("{comment}\n{}\n", *line)))
    }

    /// Parses a file in minisign's format. The passphrase is ignored if the key is not encrypted.
    ///
    /// # Errors
    /// [`KeyError::Format`], [`KeyError::Locked`], [`KeyError::Passphrase`].
    pub fn from_file(text: &Secret, passphrase: Option<&Secret>) -> Result<Self, KeyError> {
        let line = text.expose().lines().nth(1).unwrap_or_default();
        let file: Option<[u8; HEAD + SEALED]> = decoded(line.trim());
        let mut file = Zeroizing::new(file.ok_or(invalid("expected 158 bytes in base64"))?);
        let (head, sealed) = file.split_at_mut(HEAD);
        if head[..2] != ED25519_KEY || head[4..6] != BLAKE2B {
            return Err(invalid("it is not for Ed25519 and BLAKE2b"));
        }
        if head[2..4] == SCRYPT {
            let passphrase = passphrase.ok_or(KeyError::Locked)?;
            let cost = Cost {
                operations: number(&head[38..46]),
                memory: number(&head[46..54]),
            };
            cost.apply(passphrase, &head[6..38], sealed)?;
        } else if head[2..4] != NO_PASSPHRASE {
            return Err(invalid("it is encrypted in an unknown way"));
        }
        if !bool::from(checksum(&sealed[..72]).ct_eq(&sealed[72..])) {
            return Err(KeyError::Passphrase);
        }
        let (mut id, mut seed) = ([0; 8], Zeroizing::new([0; 32]));
        id.copy_from_slice(&sealed[..8]);
        seed.copy_from_slice(&sealed[8..40]);
        Self::new(KeyId(id), seed)
    }
}

/// Limits of scrypt's cost in libsodium's terms.
struct Cost {
    operations: u64,
    memory: u64,
}

impl Cost {
    /// Encrypts or decrypts in place.
    fn apply(&self, passphrase: &Secret, salt: &[u8], sealed: &mut [u8]) -> Result<(), KeyError> {
        let params = self
            .params()
            .ok_or(invalid("its passphrase derivation is too expensive"))?;
        let mut stream = Zeroizing::new([0; SEALED]);
        scrypt::scrypt(passphrase.expose().as_bytes(), salt, &params, &mut *stream)
            .map_err(|_| invalid("its limits are invalid"))?;
        for (byte, mask) in sealed.iter_mut().zip(stream.iter()) {
            *byte ^= mask;
        }
        Ok(())
    }

    /// Derives scrypt's own parameters from the limits as libsodium does, with its fixed block size of 8.
    fn params(&self) -> Option<Params> {
        const BLOCK: u64 = 8;
        if self.memory > MAX_MEMORY || self.operations > MAX_OPERATIONS {
            return None;
        }
        let operations = self.operations.max(1 << 15);
        let (limit, is_small) = match operations < self.memory / 32 {
            true => (operations / (BLOCK * 4), true),
            false => (self.memory / (BLOCK * 128), false),
        };
        let log_n = limit.checked_ilog2()?.max(1);
        let parallel = match is_small {
            true => 1,
            false => ((operations / 4) >> log_n).min(0x3fff_ffff) / BLOCK,
        };
        let log_n = u8::try_from(log_n).ok()?;
        Params::new(log_n, BLOCK as u32, u32::try_from(parallel).ok()?).ok()
    }
}

fn checksum(key: &[u8]) -> [u8; 32] {
    let mut hasher = Blake2b::<U32>::new();
    hasher.update(ED25519_KEY);
    hasher.update(key);
    hasher.finalize().into()
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn fill(bytes: &mut [u8]) -> Result<(), KeyError> {
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| KeyError::Random)
}

fn invalid(why: &'static str) -> KeyError {
    KeyError::Format {
        what: "secret key",
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_with_a_pass_phrase_and_without() {
        let key = SecretKey::generate().unwrap();
        let phrase = Secret::new("correct horse");
        for passphrase in [None, Some(&phrase)] {
            let file = key.to_file(passphrase).unwrap();

            let read = SecretKey::from_file(&file, passphrase).unwrap();

            assert_eq!(read.public(), key.public());
        }
    }

    #[test]
    fn a_locked_key_opens_for_its_pass_phrase_alone() {
        let key = SecretKey::generate().unwrap();
        let file = key.to_file(Some(&Secret::new("correct horse"))).unwrap();

        let wrong = SecretKey::from_file(&file, Some(&Secret::new("battery staple")));
        let none = SecretKey::from_file(&file, None);

        assert_eq!(wrong.err(), Some(KeyError::Passphrase));
        assert_eq!(none.err(), Some(KeyError::Locked));
    }

    #[test]
    fn limits_mean_what_they_mean_to_libsodium() {
        // Libsodium's "sensitive" limits, which minisign uses, and ours.
        let cost = |operations, memory| Cost { operations, memory };
        let log_n = |cost: Cost| cost.params().map(|params| (params.log_n(), params.p()));
        assert_eq!(log_n(cost(33_554_432, 1_073_741_824)), Some((20, 1)));
        assert_eq!(log_n(COST), Some((17, 1)));
        assert_eq!(log_n(cost(u64::MAX, u64::MAX)), None);
    }
}
