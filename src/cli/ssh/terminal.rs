//! Terminal of a person, and its input.

use std::{
    io::{self, IsTerminal as _, Read as _},
    os::fd::AsFd as _,
    thread,
};

use anyhow::Context as _;
use bytes::Bytes;
use nix::sys::termios::{self, SetArg, Termios};
use tokio::{
    io::AsyncRead,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use crate::connect::ssh;

/// Bytes that are read at a time.
const CHUNK: usize = 32 << 10;
/// Number of chunks that may wait.
const PIECES: usize = 4;

/// Returns our standard input as a stream of bytes.
///
/// A detached thread reads it: waiting for a key must not delay our exit.
pub(super) fn input() -> anyhow::Result<impl AsyncRead + Unpin> {
    let (pieces, read) = mpsc::channel(PIECES);
    let reading = move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            let piece = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if pieces.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(reading)
        .context("failed to start a thread that reads the input")?;
    Ok(StreamReader::new(ReceiverStream::new(read)))
}

/// Our terminal, which is in raw mode until this is dropped.
pub(super) struct Screen(Termios);

impl Screen {
    /// Puts the terminal into raw mode, if our input is one.
    pub(super) fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(stdin.as_fd()).context("failed to read the terminal")?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)
            .context("failed to set the terminal")?;
        Ok(Some(Self(before)))
    }

    /// Returns the terminal's type and size, for the other side.
    pub(super) fn terminal(&self) -> anyhow::Result<ssh::Terminal> {
        Ok(ssh::Terminal {
            term: std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".to_owned()),
            size: sizes()?,
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that no longer exists needs no settings.
        let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Number of columns and rows of our terminal.
fn size() -> (u32, u32) {
    match terminal_size::terminal_size_of(io::stdin()) {
        Some((columns, rows)) => (columns.0.into(), rows.0.into()),
        None => (80, 24),
    }
}

/// Returns the terminal's size, now and whenever it changes.
fn sizes() -> anyhow::Result<watch::Receiver<(u32, u32)>> {
    let (sender, receiver) = watch::channel(size());
    let mut changes = signal(SignalKind::window_change())?;
    // Detached: ends with the receiver of sizes, or with the process.
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            if sender.send(size()).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
