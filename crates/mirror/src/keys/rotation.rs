//! Replacement of a key by another one: the old key signs the new one.

use super::{KeyError, PublicKey, SecretKey, Signature};

/// Maximum number of keys in a chain; after that many a new chain is necessary.
const MAX_ROTATIONS: usize = 8;

/// A key that was replaced by the next one.
#[derive(Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key that was replaced.
    pub key: PublicKey,
    /// Signature of the old key over the file of the next key.
    signature: Signature,
}

impl Rotation {
    /// Extends a chain: signs a new key with the old one.
    pub fn extend(mut line: Vec<Self>, old: &SecretKey, new: &PublicKey) -> Vec<Self> {
        let comment = comment(&old.public(), new);
        line.push(Self {
            key: old.public(),
            signature: Signature::new(old, new.to_file().as_bytes(), &comment),
        });
        line.drain(..line.len().saturating_sub(MAX_ROTATIONS));
        line
    }

    /// Verifies that each key of the chain signed the next one, and the last one signed `key`.
    ///
    /// # Errors
    /// [`KeyError::Forged`].
    pub fn verify(line: &[Self], key: &PublicKey) -> Result<(), KeyError> {
        let next = line.iter().skip(1).map(|rotation| &rotation.key);
        for (rotation, next) in line.iter().zip(next.chain([key])) {
            rotation
                .signature
                .verify(&rotation.key, next.to_file().as_bytes())?;
            if rotation.signature.comment != comment(&rotation.key, next) {
                return Err(KeyError::Forged(rotation.key.id));
            }
        }
        Ok(())
    }

    /// Returns the chain as a file.
    pub fn to_file(line: &[Self]) -> String {
        let mut text = String::new();
        for rotation in line {
            text.push_str(&rotation.key.to_file());
            text.push_str(&rotation.signature.to_file());
        }
        text
    }

    /// Parses a file that [`to_file`](Self::to_file) made.
    ///
    /// # Errors
    /// [`KeyError::Format`].
    pub fn from_file(text: &str) -> Result<Vec<Self>, KeyError> {
        let invalid = |why| KeyError::Format {
            what: "line of keys",
            why,
        };
        let lines: Vec<_> = text.lines().collect();
        let mut line = Vec::new();
        // A key has two lines, a signature four.
        for chunk in lines.chunks(6) {
            if line.len() == MAX_ROTATIONS || chunk.len() < 6 {
                return Err(invalid("it is too long, or ends within a key"));
            }
            line.push(Self {
                key: PublicKey::from_file(&chunk[..2].join("\n"))?,
                signature: Signature::from_file(&(chunk[2..].join("\n") + "\n"))?,
            });
        }
        match Self::to_file(&line) == text {
            true => Ok(line),
            false => Err(invalid("it was edited")),
        }
    }
}

/// Comment that the old key signs, so that a signature over a key's file that was made for another purpose is not a
/// rotation.
fn comment(old: &PublicKey, new: &PublicKey) -> String {
    format!("key {} is replaced by key {}", old.id, new.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_keys_holds_from_each_to_the_next() {
        let [first, second, third] = [(); 3].map(|()| SecretKey::generate().unwrap());
        let line = Rotation::extend(Vec::new(), &first, &second.public());
        let line = Rotation::extend(line, &second, &third.public());

        let read = Rotation::from_file(&Rotation::to_file(&line)).unwrap();

        assert_eq!(Rotation::verify(&read, &third.public()), Ok(()));
        assert!(Rotation::verify(&read, &second.public()).is_err());
        assert!(Rotation::verify(&read[..1], &third.public()).is_err());
        assert_eq!(Rotation::verify(&[], &third.public()), Ok(()));
    }

    #[test]
    fn a_signature_over_a_key_for_another_purpose_is_no_rotation() {
        let [old, new] = [(); 2].map(|()| SecretKey::generate().unwrap());
        let file = new.public().to_file();
        let line = [Rotation {
            key: old.public(),
            signature: Signature::new(&old, file.as_bytes(), "a backup of keys"),
        }];

        assert!(Rotation::verify(&line, &new.public()).is_err());
    }
}
