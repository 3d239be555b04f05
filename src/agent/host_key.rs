//! The SSH server's key: the same for the same owner, workspace and agent, however often those are built anew.
//!
//! Our control plane sends a seed that nobody else can compute. A coderd sends none: there the key is the one that
//! Coder's agent would have, which whoever knows the three names can compute. It stops OpenSSH from warning about a
//! changed key and proves nothing; the tunnel has proved already who is at its other end.
//!
//! # Source
//! coder `agent/agent.go` `SSHKeySeed`, `agent/agentrsa/key.go`.

mod go_random;
mod prime;

use num_bigint::BigUint;
use russh::keys::{
    PrivateKey,
    ssh_key::{
        Mpint,
        private::{Ed25519Keypair, RsaKeypair, RsaPrivateKey},
        public::RsaPublicKey,
    },
};

use self::go_random::GoRandom;
use crate::proto::coder::agent::v2::Manifest;

/// Bits of a prime below its highest one.
const PRIME_BITS: u64 = 1024;
/// The public exponent of RSA keys.
const EXPONENT: u32 = 65537;

/// All that a host key depends on.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Origin {
    seed: Option<[u8; 32]>,
    names: [String; 3],
}

impl Origin {
    /// Reads the control plane's seed and the names; a seed of another length counts as none.
    pub(super) fn of(manifest: &Manifest) -> Self {
        let names = [
            &manifest.owner_username,
            &manifest.workspace_name,
            &manifest.agent_name,
        ];
        Self {
            seed: manifest.ssh_host_key_seed.as_ref().try_into().ok(),
            names: names.map(String::clone),
        }
    }

    /// Computes the key. An RSA key takes some tenths of a second.
    pub(super) fn key(&self) -> PrivateKey {
        match &self.seed {
            Some(seed) => Ed25519Keypair::from_seed(seed).into(),
            None => rsa(hash(&self.names)),
        }
    }
}

/// FNV-1a of the names with a zero byte between two of them.
fn hash(names: &[String; 3]) -> u64 {
    let bytes = names.join("\0").into_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn rsa(seed: u64) -> PrivateKey {
    let mut random = GoRandom::new(seed.cast_signed());
    let one = BigUint::from(1_u8);
    let exponent = BigUint::from(EXPONENT);
    let mut prime = || {
        loop {
            let candidate = candidate(&mut random);
            // A prime exponent has a factor in common with its multiples only.
            if prime::is_prime(&candidate) && (&candidate - &one) % EXPONENT != BigUint::ZERO {
                return candidate;
            }
        }
    };
    let p = prime();
    let q = loop {
        let q = prime();
        if q != p {
            break q;
        }
    };
    let phi = (&p - &one) * (&q - &one);
    let inverses = exponent.modinv(&phi).zip(q.modinv(&p));
    let (d, inverse) = inverses.expect("primes that are no multiple of the exponent plus one");
    let parts = [&d, &inverse, &p, &q, &exponent, &(&p * &q)];
    let [d, inverse, p, q, exponent, modulus] = parts.map(mpint);
    let public = RsaPublicKey::new(exponent, modulus);
    let private = RsaPrivateKey::new(d, inverse, p, q);
    let pair = public.and_then(|public| RsaKeypair::new(public, private?));
    pair.expect("its numbers fit together").into()
}

fn candidate(random: &mut GoRandom) -> BigUint {
    let mut candidate = BigUint::ZERO;
    candidate.set_bit(PRIME_BITS, true);
    for bit in 0..PRIME_BITS {
        candidate.set_bit(bit, random.is_odd());
    }
    candidate
}

fn mpint(number: &BigUint) -> Mpint {
    Mpint::from_positive_bytes(&number.to_bytes_be())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(seed: Option<[u8; 32]>, names: [&str; 3]) -> Origin {
        Origin {
            seed,
            names: names.map(str::to_owned),
        }
    }

    fn fingerprint(origin: &Origin) -> String {
        let key = origin.key();
        let print = key.public_key().fingerprint(russh::keys::HashAlg::Sha256);
        print.to_string()
    }

    /// The expected values are those of Coder's `agentrsa.GenerateDeterministicKey`.
    #[test]
    fn names_alone_give_the_key_of_coder_s_agent() {
        for (names, expected) in [
            (
                ["admin", "dev", "main"],
                "SHA256:apxeFiCF4E8PezeIldmDnAhfn5qBZ0UiyBjNmCPa6wU",
            ),
            (
                ["", "", ""],
                "SHA256:fU6jtBnYYAsd80iOx+dbobXehqqTgT+85PaE2WSADcw",
            ),
        ] {
            assert_eq!(fingerprint(&origin(None, names)), expected, "{names:?}");
        }
    }

    #[test]
    fn a_seed_decides_alone_and_is_no_seed_if_it_is_too_short() {
        let (seed, other) = ([1; 32], [2; 32]);
        let names = ["admin", "dev", "main"];
        let key = fingerprint(&origin(Some(seed), names));
        assert_eq!(key, fingerprint(&origin(Some(seed), names)));
        assert_ne!(key, fingerprint(&origin(Some(other), names)));

        let manifest = |bytes: &[u8]| Manifest {
            ssh_host_key_seed: bytes.to_vec().into(),
            ..Manifest::default()
        };
        assert!(Origin::of(&manifest(&seed)) == origin(Some(seed), ["", "", ""]));
        assert!(Origin::of(&manifest(&seed[1..])) == origin(None, ["", "", ""]));
    }
}
