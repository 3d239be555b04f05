//! Confirmation before something is destroyed.

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
    /// Do not ask for confirmation; required without a terminal
    #[arg(long, short)]
    yes: bool,
}

/// Error for a question that was answered with no.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed")]
pub(super) struct Declined;

impl Confirm {
    /// Returns if the person agrees to `question`, such as `Delete the user amy?`.
    ///
    /// # Errors
    /// [`Declined`], [`Interrupted`], or [`UsageError`] if nobody can be asked.
    pub(super) async fn ask(self, question: &str, stop: &Stop) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let refused = UsageError(format!("no terminal to ask for confirmation: {question}"));
            return Err(refused).hint("add `--yes` to confirm");
        }
        let agrees = tokio::select! {
            answer = answer_to(question) => answer?.unwrap_or(false),
            () = stop.draining() => return Err(Interrupted.into()),
        };
        match agrees {
            true => Ok(()),
            false => Err(Declined.into()),
        }
    }
}

/// Asks at the terminal until the answer is yes or no. Only a plain yes counts as one; an empty line means no. `None`
/// at the end of the input.
///
/// # Errors
/// If the terminal fails.
pub(super) async fn answer_to(question: &str) -> anyhow::Result<Option<bool>> {
    loop {
        output::note(&format!("{question} [y/N]"));
        let Some(line) = line().await? else {
            return Ok(None);
        };
        match understood(&line) {
            Some(answer) => return Ok(Some(answer)),
            None => output::note("Please answer yes or no."),
        }
    }
}

/// Reads a line from the terminal; `None` at its end.
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

/// Terminal that does not show what is typed until this is dropped.
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
        // A terminal that no longer exists needs no settings.
        let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

fn understood(line: &str) -> Option<bool> {
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Some(true),
        "" | "n" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_yes_is_one_and_what_is_neither_is_asked_again() {
        for (line, expected) in [
            ("y\n", Some(true)),
            (" YES \n", Some(true)),
            ("\n", Some(false)),
            ("n\n", Some(false)),
            ("No\n", Some(false)),
            ("quit\n", None),
            ("yeah\n", None),
        ] {
            assert_eq!(understood(line), expected, "{line:?}");
        }
    }
}
