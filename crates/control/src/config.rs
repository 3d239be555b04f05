//! Configuration of the control plane.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use outpost_base::secret::Secret;
use outpost_net::{
    listener::{self, Tls},
    network::Network,
};
use url::Url;

use crate::psk;

/// Complete configuration of the control plane. Nothing below asks "is it set?".
#[derive(Clone, Debug)]
pub struct Config {
    /// Storage of everything that outlives the process.
    pub storage: Storage,
    /// Source of the key that encrypts secrets at rest.
    pub state_key: StateKey,
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// `None` for plain HTTP.
    pub tls: Option<Tls>,
    /// URL that templates and agents are given; `None` for that of the listener.
    pub access_url: Option<Url>,
    /// Directory with agent binaries; this program serves its own platform by itself.
    pub agent_binaries: Option<PathBuf>,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Pre-shared keys of daemons, beside those in `psk_file`. None turns them off; two are for a change of keys.
    pub psks: Vec<Secret>,
    /// File with further keys, one per line; read again when it changes.
    pub psk_file: Option<PathBuf>,
    /// Paths between agents and their clients besides our relay.
    pub direct_paths: DirectPaths,
    /// Limits of the queue and of the listener.
    pub limits: Limits,
    /// Our own version, for `/api/v2/buildinfo`.
    pub version: String,
}

/// Paths between agents and their clients besides our relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectPaths {
    /// Set if everything goes by the relay.
    pub are_blocked: bool,
    /// Hosts and ports of STUN servers, by which agents and clients learn their public addresses.
    pub stun_servers: Vec<(String, u16)>,
}

/// Storage of everything that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Memory only: everything is gone when the process ends.
    Memory,
    /// A data directory, which is created if it is missing.
    Directory(PathBuf),
}

/// Source of the key that encrypts secrets at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateKey {
    /// The file `key` in the data directory, which is created if it is missing; a temporary one for
    /// [`Storage::Memory`].
    Own,
    /// A file that somebody else manages, such as a credential of systemd: 32 bytes, or 64 hexadecimal digits.
    Given(PathBuf),
}

impl StateKey {
    /// Name of the credential that holds the key.
    pub const CREDENTIAL: &str = "outpost-state-key";

    /// Returns the credential in `directory`, the value of `CREDENTIALS_DIRECTORY`, if it exists, else a file of our
    /// own.
    pub fn find(directory: Option<&Path>) -> Self {
        match directory.map(|directory| directory.join(Self::CREDENTIAL)) {
            Some(path) if path.exists() => Self::Given(path),
            Some(_) | None => Self::Own,
        }
    }
}

/// Limits of the queue and of the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Silence after which a running job counts as lost.
    pub lease: Duration,
    /// Longest time that a job may wait for a daemon.
    pub pending: Duration,
    /// Interval at which lost jobs are looked for; shorter if one of the limits above is short.
    pub reap_every: Duration,
    /// Number of lost jobs that are ended at once.
    pub reap_at_most: usize,
    /// Interval at which a waiting daemon looks for jobs without being notified.
    pub poll: Duration,
    /// Interval at which daemons should update a running job.
    pub update_interval: Duration,
    /// Interval at which a waiting daemon is recorded as alive.
    pub heartbeat: Duration,
    /// Silence after which a daemon is shown as offline.
    pub offline: Duration,
    /// Silence after which a daemon is forgotten.
    pub forget_daemons: Duration,
    /// Size of the largest message that is accepted, in bytes.
    pub message_bytes: usize,
    /// Number of connections at the same time.
    pub connections: usize,
    /// Number of connections at the same time from one address.
    pub connections_per_peer: usize,
    /// Longest time that a client may take to send the headers of a request.
    pub header_timeout: Duration,
    /// Longest time that a client may go without accepting any of the data sent to it.
    pub write_timeout: Duration,
    /// Longest time that a response may take; calls that wait or follow are exempt.
    pub request_timeout: Duration,
    /// Grace period for open calls after a stop.
    pub shutdown: Duration,
}

impl Limits {
    /// Returns Coder's limits where it has some, else ours.
    pub fn standard() -> Self {
        Self {
            // The reaper of coderd: five minutes of silence, half an hour in the queue, ten jobs a minute.
            lease: Duration::from_secs(5 * 60),
            pending: Duration::from_secs(30 * 60),
            reap_every: Duration::from_secs(60),
            reap_at_most: 10,
            // The acquirer of coderd polls as often; wake-ups make it rarely matter.
            poll: Duration::from_secs(30),
            // Coder's daemons update twice a second; more updates only make a cancellation arrive sooner.
            update_interval: Duration::from_secs(2),
            heartbeat: Duration::from_secs(60),
            offline: Duration::from_secs(90),
            forget_daemons: Duration::from_secs(7 * 24 * 60 * 60),
            message_bytes: 64 << 20,
            // An `outpost ssh` has three: one to the coordinator, one to the relay, and for a moment one for
            // requests. So five hundred of them, begun by a script on one machine or by an office behind one address,
            // are accepted.
            connections: 4096,
            connections_per_peer: 2048,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(60),
            shutdown: Duration::from_secs(10),
        }
    }
}

/// Reasons why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More than two pre-shared keys; the value is their number.
    #[error("{0} pre-shared keys are given; at most two can be valid at a time")]
    TooManyPsks(usize),
    /// A pre-shared key so short that it could be guessed.
    #[error(
        "pre-shared key {number} has {length} characters, fewer than {}",
        psk::SHORTEST
    )]
    ShortPsk {
        /// Position of the key in the configuration, from 1.
        number: usize,
        /// Number of characters in the key.
        length: usize,
    },
    /// A file with pre-shared keys that cannot be read or has none; with the reason.
    #[error("pre-shared keys in `{}` cannot be used: {reason}", .path.display())]
    PskFile {
        /// Path of the file.
        path: PathBuf,
        /// Reason why it cannot be used.
        reason: String,
    },
    /// A limit of zero, with which nothing would work.
    #[error("limit `{0}` is zero")]
    ZeroLimit(&'static str),
    /// A lease that is not longer than the update interval.
    #[error("limit `lease` ({lease:?}) is not longer than `update_interval` ({interval:?})")]
    ShortLease {
        /// Lease as it was configured.
        lease: Duration,
        /// Update interval as it was configured.
        interval: Duration,
    },
}

impl ConfigError {
    /// Returns what the operator can try next, if anything is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooManyPsks(_) => Some("remove the ones that no daemon uses any more".to_owned()),
            Self::ShortPsk { .. } => Some("generate one with `outpost psk generate`".to_owned()),
            Self::PskFile { .. } => {
                Some("write one key per line; `outpost psk generate` prints one".to_owned())
            }
            Self::ZeroLimit(_) | Self::ShortLease { .. } => None,
        }
    }
}

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError`] names the value.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.limits.check()
    }
}

impl Limits {
    pub(super) fn of_listener(&self) -> listener::Limits {
        listener::Limits {
            connections: self.connections,
            connections_per_peer: self.connections_per_peer,
            unauthenticated: (self.connections / 2).max(1),
            message_bytes: [1 << 20, self.message_bytes],
            header_timeout: self.header_timeout,
            write_timeout: self.write_timeout,
            shutdown: self.shutdown,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let durations = [
            ("lease", self.lease),
            ("pending", self.pending),
            ("reap_every", self.reap_every),
            ("poll", self.poll),
            ("update_interval", self.update_interval),
            ("heartbeat", self.heartbeat),
            ("offline", self.offline),
            ("forget_daemons", self.forget_daemons),
            ("header_timeout", self.header_timeout),
            ("write_timeout", self.write_timeout),
            ("request_timeout", self.request_timeout),
        ];
        let counts = [
            ("reap_at_most", self.reap_at_most),
            ("message_bytes", self.message_bytes),
            ("connections", self.connections),
            ("connections_per_peer", self.connections_per_peer),
        ];
        let zero = durations
            .iter()
            .filter(|(_, value)| value.is_zero())
            .map(|(name, _)| *name)
            .chain(
                counts
                    .iter()
                    .filter(|(_, value)| *value == 0)
                    .map(|(name, _)| *name),
            )
            .next();
        if let Some(name) = zero {
            return Err(ConfigError::ZeroLimit(name));
        }
        if self.lease <= self.update_interval {
            return Err(ConfigError::ShortLease {
                lease: self.lease,
                interval: self.update_interval,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            storage: Storage::Memory,
            state_key: StateKey::Own,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            access_url: None,
            agent_binaries: None,
            trusted_proxies: Vec::new(),
            psks: Vec::new(),
            psk_file: None,
            direct_paths: DirectPaths::default(),
            limits: Limits::standard(),
            version: "v0.1.0".to_owned(),
        }
    }

    #[test]
    fn a_limit_that_would_stop_everything_is_named() {
        let mut config = config();
        config.limits.connections = 0;
        assert_eq!(config.check(), Err(ConfigError::ZeroLimit("connections")));

        config.limits = Limits::standard();
        config.limits.lease = config.limits.update_interval;
        assert!(matches!(
            config.check(),
            Err(ConfigError::ShortLease { .. })
        ));
    }
}
