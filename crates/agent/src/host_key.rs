//! Host key of the SSH server: the same for the same owner, workspace and agent, however often those are rebuilt.
//!
//! Our control plane sends a seed that nobody else can compute. A coderd sends none: there the seed is derived from
//! the names alone, so that anybody who knows them can compute it, as with Coder's agent. The key stops OpenSSH from
//! warning about a changed key and proves nothing; the tunnel has already authenticated its other end. It is not the
//! key of Coder's agent, an RSA key of 2,050 bits: signatures of such a length, not a multiple of 64 bits, are padded
//! by the `rsa` crate (0.10.0-rc.18), and OpenSSH and Go refuse them.
//!
//! # Source
//! coder `agent/agent.go` `SSHKeySeed`.

use outpost_wire::proto::coder::agent::v2::Manifest;
use russh::keys::{PrivateKey, ssh_key::private::Ed25519Keypair};
use sha2::{Digest as _, Sha256};

/// Prefix that separates the seeds of names from other digests of the same names.
const DOMAIN: &str = "outpost agent host key";

/// Origin of a host key: everything that it depends on.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Origin {
    seed: Option<[u8; 32]>,
    names: [String; 3],
}

impl Origin {
    /// Reads the control plane's seed and the names; a seed of the wrong length counts as none.
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

    /// Derives the key from its origin.
    pub(super) fn key(&self) -> PrivateKey {
        let seed = self.seed.unwrap_or_else(|| seed_of(&self.names));
        Ed25519Keypair::from_seed(&seed).into()
    }
}

/// Returns the digest of the names, each preceded by a zero byte.
fn seed_of(names: &[String; 3]) -> [u8; 32] {
    let mut digest = Sha256::new_with_prefix(DOMAIN);
    for name in names {
        digest.update([0]);
        digest.update(name);
    }
    digest.finalize().into()
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

    #[test]
    fn without_a_seed_the_names_decide_each_by_itself() {
        let of = |names| fingerprint(&origin(None, names));
        let key = of(["admin", "dev", "main"]);

        assert_eq!(key, of(["admin", "dev", "main"]));
        for others in [
            ["ann", "dev", "main"],
            ["admin", "de", "vmain"],
            ["admin", "dev", "other"],
        ] {
            assert_ne!(key, of(others), "{others:?}");
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
