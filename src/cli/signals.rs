//! Translation of signals into the three stages of [`Stop`].

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use super::output;
use crate::stop::Stop;

/// Listens for SIGTERM, SIGHUP (drain) and SIGINT (cancel). A second signal kills, except that SIGINT after
/// SIGTERM cancels first.
///
/// Must be called in a runtime, before anything that must not be cut short. The task ends with the runtime.
///
/// # Errors
/// If the system refuses a handler.
pub(super) fn listen() -> io::Result<Stop> {
    handle(|_| ())
}

/// Listens as [`listen`] does, prints what Coder's daemon prints, and kills on SIGQUIT as it does.
///
/// # Errors
/// If the system refuses a handler.
pub(super) fn listen_as_coder() -> io::Result<Stop> {
    let stop = handle(|interrupted| {
        // If stdout is closed, nobody is there to be told.
        let _ = output::line(if interrupted { INTERRUPTED } else { STOPPED });
    })?;
    let mut quit = signal(SignalKind::quit())?;
    let signalled = stop.clone();
    // Detached: listens until the process ends.
    tokio::spawn(async move {
        quit.recv().await;
        signalled.kill();
    });
    Ok(stop)
}

/// Listens for a command that builds and cleans up while a person looks on: the first signal of any kind cancels. Only a
/// second Ctrl-C, or SIGQUIT, kills: a terminal that closes sends SIGHUP twice, and supervisors send SIGTERM again.
///
/// # Errors
/// If the system refuses a handler.
pub(super) fn listen_with_cleanup() -> io::Result<Stop> {
    let stop = Stop::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let signalled = stop.clone();
    // Detached: listens until the process ends.
    tokio::spawn(async move {
        loop {
            let is_impatient = tokio::select! {
                Some(()) = interrupt.recv() => signalled.is_cancelled(),
                Some(()) = quit.recv() => true,
                Some(()) = terminate.recv() => false,
                Some(()) = hangup.recv() => false,
            };
            match is_impatient {
                true => signalled.kill(),
                false => signalled.cancel(),
            }
        }
    });
    Ok(stop)
}

const STOPPED: &str = "Stop caught, waiting for provisioner jobs to complete and gracefully exiting. Use ctrl+\\ to force quit";
const INTERRUPTED: &str = "Interrupt caught, gracefully exiting. Use ctrl+\\ to force quit";

/// Calls `announce` on the first signal, with whether it was SIGINT.
fn handle(announce: impl Fn(bool) + Send + 'static) -> io::Result<Stop> {
    let stop = Stop::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let signalled = stop.clone();
    // Detached: listens until the process ends.
    tokio::spawn(async move {
        loop {
            let interrupted = tokio::select! {
                Some(()) = interrupt.recv() => true,
                Some(()) = terminate.recv() => false,
                Some(()) = hangup.recv() => false,
            };
            if !signalled.is_draining() {
                announce(interrupted);
            }
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
