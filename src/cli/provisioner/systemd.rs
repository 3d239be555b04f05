//! Notifications to systemd, if it listens: `Type=notify` and `WatchdogSec=`.
//!
//! The crate `sd-notify` is not used: it reads the environment and opens a socket for each message, so that no test could
//! give it another socket, and the watchdog's timer would still be ours.
//!
//! # Source
//! sd_notify(3), sd_watchdog_enabled(3).

use std::{
    ffi::OsString,
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
    time::Duration,
};

use tracing::warn;

use crate::stop::Stop;

/// Socket of systemd for notifications.
#[derive(Debug)]
pub(super) struct Systemd {
    socket: UnixDatagram,
    to: SocketAddr,
    /// Half of the time after which systemd considers us dead.
    beat: Option<Duration>,
}

impl Systemd {
    /// Reads the environment; `None` if systemd does not listen.
    pub(super) fn from_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let beat = variable("WATCHDOG_USEC").filter(|_| {
            let process = variable("WATCHDOG_PID");
            process.is_none_or(|process| process == std::process::id().to_string())
        });
        let beat = beat.and_then(|micros| micros.parse().ok());
        let beat = beat.map(|micros: u64| Duration::from_micros(micros / 2));
        let place = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty())?;
        match Self::open(&place, beat) {
            Ok(systemd) => Some(systemd),
            Err(error) => {
                warn!(%error, "cannot use NOTIFY_SOCKET");
                None
            }
        }
    }

    fn open(place: &OsString, beat: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let beat = beat.filter(|beat| !beat.is_zero());
        let to = address(place)?;
        Ok(Self { socket, to, beat })
    }

    /// Reports that the daemon is ready.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// Reports when the daemon begins to stop, and that it is alive until then and after. Ends with the runtime.
    pub(super) async fn watch(&self, stop: &Stop) {
        let mut is_stopping = false;
        loop {
            tokio::select! {
                () = stop.draining(), if !is_stopping => {
                    is_stopping = true;
                    self.tell("STOPPING=1");
                }
                () = tokio::time::sleep(self.beat.unwrap_or(Duration::MAX)) => self.tell("WATCHDOG=1"),
            }
        }
    }

    fn tell(&self, text: &str) {
        if let Err(error) = self.socket.send_to_addr(text.as_bytes(), &self.to) {
            warn!(%error, text, "cannot notify systemd");
        }
    }
}

#[cfg(target_os = "linux")]
fn address(place: &OsString) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    match place.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(place),
    }
}

#[cfg(not(target_os = "linux"))]
fn address(place: &OsString) -> io::Result<SocketAddr> {
    SocketAddr::from_pathname(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn systemd_hears_of_ready_of_life_and_of_the_stop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let systemd = Systemd::open(&path.into(), Some(Duration::from_secs(5))).unwrap();
        let stop = Stop::new();
        let heard = || {
            let mut buffer = [0; 64];
            let length = listener.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };

        systemd.ready();
        assert_eq!(heard(), "READY=1");
        let seven = Duration::from_secs(7);
        let _ = tokio::time::timeout(seven, systemd.watch(&stop)).await;
        assert_eq!(heard(), "WATCHDOG=1");
        stop.drain();
        let _ = tokio::time::timeout(Duration::from_secs(1), systemd.watch(&stop)).await;
        assert_eq!(heard(), "STOPPING=1");
    }
}
