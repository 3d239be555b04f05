//! Signals become the three stages of [`Stop`].

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::stop::Stop;

/// Listens for SIGTERM, SIGHUP (drain) and SIGINT (cancel). A second signal kills, except that SIGINT after
/// SIGTERM cancels first.
///
/// Must be called in a runtime, before anything that must not be cut short. The task ends with the runtime.
///
/// # Errors
/// If the system refuses a handler.
pub(super) fn listen() -> io::Result<Stop> {
    let stop = Stop::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        loop {
            let interrupted = tokio::select! {
                Some(()) = interrupt.recv() => true,
                Some(()) = terminate.recv() => false,
                Some(()) = hangup.recv() => false,
            };
            match (
                signalled.is_cancelled(),
                signalled.is_draining(),
                interrupted,
            ) {
                (false, _, true) => signalled.cancel(),
                (false, false, false) => signalled.drain(),
                (true, _, _) | (_, true, _) => signalled.kill(),
            }
        }
    });
    Ok(stop)
}
