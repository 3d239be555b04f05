//! Pre-shared keys of daemons. Two are valid at a time, so that they can be rotated: daemons change from the old key to
//! the new one in any order, and then the old one is removed.
//!
//! A server reads its keys when it starts; a daemon reads its own for each connection.

use outpost_base::secret::Secret;
use subtle::ConstantTimeEq as _;

use crate::{config::ConfigError, tokens::Hashed};

/// Minimum length in characters: shorter keys could be guessed over the network; generated ones have 43.
pub(crate) const SHORTEST: usize = 16;

/// Maximum number of valid keys: during a rotation, the old one and the new one.
const MAX_KEYS: usize = 2;

/// Checks the number and the length of the keys.
///
/// # Errors
/// [`ConfigError`] names the key, not its value.
pub(crate) fn check(psks: &[Secret]) -> Result<(), ConfigError> {
    if psks.len() > MAX_KEYS {
        return Err(ConfigError::TooManyPsks(psks.len()));
    }
    let lengths = psks.iter().map(|psk| psk.expose().chars().count());
    match lengths.enumerate().find(|(_, length)| *length < SHORTEST) {
        Some((index, length)) => Err(ConfigError::ShortPsk {
            number: index + 1,
            length,
        }),
        None => Ok(()),
    }
}

/// Returns whether `given` is one of `accepted`, in constant time: it is compared with all of them.
pub(crate) fn is_one_of(given: &Secret, accepted: &[Secret]) -> bool {
    let given = Hashed::of(given);
    accepted
        .iter()
        .map(|accepted| Hashed::of(accepted).0.ct_eq(&given.0))
        .fold(subtle::Choice::from(0), |any, equal| any | equal)
        .into()
}

/// Returns a fingerprint of each key.
pub(crate) fn fingerprints(psks: &[Secret]) -> Vec<String> {
    psks.iter()
        .map(|psk| Hashed::of(psk).fingerprint())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::generate;

    #[test]
    fn up_to_two_keys_of_some_length_are_accepted() {
        let check = |psks: &[&str]| {
            let psks: Vec<Secret> = psks.iter().map(|psk| Secret::new(*psk)).collect();
            check(&psks)
        };
        let good = "0123456789abcdef";

        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[good, good]), Ok(()));
        assert_eq!(check(&[good; 3]), Err(ConfigError::TooManyPsks(3)));
        let short = ConfigError::ShortPsk {
            number: 2,
            length: 6,
        };
        assert_eq!(check(&[good, "secret"]), Err(short));
    }

    #[test]
    fn any_of_several_keys_is_accepted_and_nothing_else() {
        let (old, new) = (generate(), generate());
        let accepted = [old.clone(), new.clone()];

        assert!(is_one_of(&old, &accepted) && is_one_of(&new, &accepted));
        assert!(!is_one_of(&generate(), &accepted));
        assert!(!is_one_of(&Secret::default(), &accepted));
        assert!(!is_one_of(&old, &[]));
    }
}
