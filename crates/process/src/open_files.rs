//! Limit of this process's open files and sockets.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Soft limit that a server or an agent asks for: a server's 4096 connections, or an agent's 512 connections with
/// four descriptors for the command of each, and as many again for files, databases and forwarded connections. Not
/// the whole hard limit: children inherit the soft limit, and old programs close every number below it one by one.
const WANTED: u64 = 8192;
/// Limit below which a server refuses connections, or an agent sessions, that it would otherwise accept.
const ENOUGH: u64 = 4096;
/// Number of file descriptors for everything but connections: databases, logs, binaries that are served, pipes to
/// engines.
const RESERVE: u64 = 256;

/// Raises the soft limit to what a server or an agent needs, as far as the hard limit allows. A limit that stays too low
/// is logged as a warning with its remedy. Returns the limit that holds now; `None` if the system does not say.
pub fn raise() -> Option<u64> {
    raise_to(WANTED)
}

/// Raises the soft limit as [`raise`] does, to a higher number.
pub fn raise_to(wanted: u64) -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .inspect_err(|error| debug!(%error, "cannot read the limit of open files"))
        .ok()?;
    let wanted = wanted.max(WANTED).min(hard);
    let mut limit = soft;
    if soft < wanted {
        match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
            Ok(()) => limit = wanted,
            Err(error) => debug!(%error, "cannot raise the limit of open files"),
        }
    }
    if limit < ENOUGH {
        warn!(
            limit,
            enough = ENOUGH,
            "the limit of open files is low, which limits connections; raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd)"
        );
    }
    Some(limit)
}

/// Returns how many connections are possible under a limit of open files, so that other files can still be opened.
pub fn connections(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let possible = limit.saturating_sub(RESERVE).max(limit / 2).max(1);
    wanted.min(usize::try_from(possible).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        for (limit, connections_possible) in [
            (None, 4096),
            (Some(1 << 20), 4096),
            (Some(4096), 3840),
            (Some(1024), 768),
            (Some(256), 128),
            (Some(0), 1),
        ] {
            assert_eq!(connections(4096, limit), connections_possible, "{limit:?}");
        }
    }
}
