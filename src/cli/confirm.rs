//! Asking before something is destroyed.

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
};

use anyhow::Context as _;
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{
    exit::{Hint as _, Interrupted, UsageError},
    output,
};
use crate::{secret::Secret, stop::Stop};

/// `--yes` of commands that destroy something.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Confirm {
    /// Do not ask; without a terminal nobody can be asked, so that this is needed
    #[arg(long, short)]
    yes: bool,
}

/// Somebody was asked and said no.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed")]
pub(super) struct Declined;

impl Confirm {
    /// Goes on if the person agrees to `question`, such as `Delete the user amy?`.
    ///
    /// # Errors
    /// [`Declined`], [`Interrupted`], or [`UsageError`] if nobody can be asked.
    pub(super) async fn ask(self, question: &str, stop: &Stop) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let question = question.trim_end_matches('?');
            let refused = UsageError(format!("nobody is there to be asked: {question}?"));
            return Err(refused).hint("say `--yes` if that is meant");
        }
        match ask(question, stop).await? {
            true => Ok(()),
            false => Err(Declined.into()),
        }
    }
}

/// Asks a person at the terminal until the answer is yes or no. Nothing but a plain yes is one: an empty line and the
/// end of the input mean no, as does a Ctrl-C.
///
/// # Errors
/// [`Interrupted`] at a Ctrl-C, or if the terminal fails.
pub(super) async fn ask(question: &str, stop: &Stop) -> anyhow::Result<bool> {
    loop {
        output::note(&format!("{question} [y/N]"));
        let line = tokio::select! {
            line = line() => line?,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        match answer(line.as_deref()) {
            Some(answer) => return Ok(answer),
            None => output::note("Please answer yes or no."),
        }
    }
}

/// Reads a line of the terminal; `None` at its end.
///
/// # Errors
/// If it cannot be read.
pub(super) async fn line() -> anyhow::Result<Option<String>> {
    // A thread of its own: nothing can interrupt a read of a terminal, and the process must be able to end.
    let (sender, read) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        let _ = sender.send(read.map(|length| (length > 0).then_some(line)));
    });
    Ok(read.await??)
}

/// Reads a secret: a line of the standard input, which a terminal does not show.
///
/// # Errors
/// If it cannot be read.
pub(super) async fn secret_line() -> anyhow::Result<Option<Secret>> {
    let hidden = Hidden::enter()?;
    let line = line().await;
    drop(hidden);
    Ok(line?
        .map(Zeroizing::new)
        .map(|line| Secret::new(line.trim())))
}

/// Our terminal, which shows nothing of what is typed until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(stdin.as_fd()).context("failed to read the terminal")?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &hidden)
            .context("failed to set the terminal")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

fn answer(line: Option<&str>) -> Option<bool> {
    match line.map(|line| line.trim().to_ascii_lowercase()).as_deref() {
        Some("y" | "yes") => Some(true),
        None | Some("" | "n" | "no") => Some(false),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_yes_is_one_and_what_is_neither_is_asked_again() {
        for (line, expected) in [
            (Some("y\n"), Some(true)),
            (Some(" YES \n"), Some(true)),
            (Some("\n"), Some(false)),
            (Some("no\n"), Some(false)),
            (None, Some(false)),
            (Some("quit\n"), None),
            (Some("yeah\n"), None),
        ] {
            assert_eq!(answer(line), expected, "{line:?}");
        }
    }
}
