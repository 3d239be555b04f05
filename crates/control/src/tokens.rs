//! Values of pre-shared keys, provisioner keys and API tokens: generation and storage.

use aws_lc_rs::rand;
use outpost_base::secret::Secret;
use sha2::{Digest as _, Sha256};

/// Length of a value in characters: 43 of 62 letters and digits are just above 256 bits. It is also Coder's.
pub const LENGTH: usize = 43;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Generates a value that nobody can guess: [`LENGTH`] letters and digits.
///
/// # Panics
/// If the operating system has no random numbers.
pub fn generate() -> Secret {
    let mut value = String::with_capacity(LENGTH);
    while value.len() < LENGTH {
        let mut random = [0_u8; 64];
        rand::fill(&mut random).expect("the operating system has random numbers");
        // 248 is a multiple of 62: bytes from there on would make the first eight letters more likely than the
        // others.
        let letters = random.iter().filter(|byte| **byte < 248);
        value.extend(letters.map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
    }
    value.truncate(LENGTH);
    Secret::new(value)
}

/// Hash that is stored in place of a value. It needs no salt: values are too random to be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hashed(pub [u8; 32]);

impl Hashed {
    /// Hashes a value with SHA-256.
    pub fn of(value: &Secret) -> Self {
        Self(Sha256::digest(value.expose().as_bytes()).into())
    }

    /// The first eight hexadecimal digits, to tell values apart in lists.
    pub fn fingerprint(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_43_letters_and_digits_and_is_new_each_time() {
        let (first, second) = (generate(), generate());

        assert_eq!(first.expose().len(), LENGTH);
        assert!(
            first
                .expose()
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric())
        );
        assert_ne!(first, second);
    }
}
