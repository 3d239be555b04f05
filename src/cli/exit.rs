//! End of a command: the error chain and a hint on stderr, and an exit code.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use tonic::Status;
use url::Url;

use super::follow::ResultUnknown;
use crate::{
    client::{CallError, coder::PushError},
    config::{ConfigError, contexts::ContextError},
    control::{StartError, backup::BackupError},
    daemon::{DaemonError, journal::JournalError},
    error_chain::join_causes,
    files::archive::ArchiveError,
    mirror::{StoreError, bundle::BundleError},
    process::isolation::{Denied, launcher::COMPLAINT},
    rules::text::visible,
    terraform::{binary::BinaryError, install::InstallError},
};

/// Code for success of the command.
pub(super) const OK: u8 = 0;
/// Code for failure of the command.
pub(super) const FAILURE: u8 = 1;
/// Code for wrong use or configuration; also clap's own.
pub(super) const USAGE: u8 = 2;
/// Code for partial success, which the same command continues.
pub(super) const INCOMPLETE: u8 = 3;
/// Code for content that differs from what its publisher signed.
pub(super) const DISTRUSTED: u8 = 4;
/// Code for a daemon that the server refuses, until somebody changes something: EX_NOPERM of sysexits.h.
pub(super) const REFUSED: u8 = 77;
/// Code for an interrupted command: 128 plus the number of SIGINT, as shells count.
pub(super) const INTERRUPTED: u8 = 130;

/// Code for a child that could not be isolated, and so was not started: the one that `env` and `nohup` use for the
/// like.
const NOT_LAUNCHED: u8 = 125;

/// Exit codes as `--help` shows them.
pub(super) const HELP: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.";

/// Error for wrong use or configuration of a command.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

impl UsageError {
    /// Returns whether this is what an error says.
    pub(super) fn is_in(error: &anyhow::Error) -> bool {
        let hinted = error.downcast_ref::<Hinted>();
        error.chain().any(|link| link.is::<Self>())
            || hinted.is_some_and(|hinted| Self::is_in(&hinted.source))
    }
}

/// Error for a command that somebody interrupted.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Error for this many failed checks.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the checks failed")]
pub(super) struct ChecksFailed(pub(super) usize);

fn runs(count: usize) -> String {
    match count {
        1 => "1 run".to_owned(),
        count => format!("{count} runs"),
    }
}

/// Error for this many failed runs of scenarios.
#[derive(Debug, thiserror::Error)]
#[error("{} failed", runs(*.0))]
pub(super) struct TestsFailed(pub(super) usize);

/// Error for this many runs of scenarios that lack something.
#[derive(Debug, thiserror::Error)]
#[error("{} skipped: a prerequisite is missing", runs(*.0))]
pub(super) struct Untested(pub(super) usize);

/// Error for findings of this severity or worse.
#[derive(Debug, thiserror::Error)]
#[error("the check found something at or above `--fail-on {0}`")]
pub(super) struct FindingsReported(pub(super) &'static str);

/// Error for a template that could not be checked to the end; the reason follows, or has been printed.
#[derive(Debug, thiserror::Error)]
#[error("not everything could be checked{0}")]
pub(super) struct Unchecked(pub(super) String);

/// Error for this many tests of policies that failed.
#[derive(Debug, thiserror::Error)]
#[error("{0} tests of policies failed")]
pub(super) struct PoliciesFailed(pub(super) usize);

/// Error for an update that replaces or destroys something persistent.
#[derive(Debug, thiserror::Error)]
#[error("an update of running workspaces loses something persistent")]
pub(super) struct Loses;

/// Error for this many vulnerabilities.
#[derive(Debug, thiserror::Error)]
#[error("{0} vulnerabilities found")]
pub(super) struct Vulnerable(pub(super) usize);

fn items(count: usize) -> String {
    match count {
        1 => "1 item is".to_owned(),
        count => format!("{count} items are"),
    }
}

/// Error for this many items of a mirror that could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{} missing: see the list above, and run the command again when everything is available", items(*.0))]
pub(super) struct Incomplete(pub(super) usize);

/// Error for this many items of a mirror that differ from what their publishers signed.
#[derive(Debug, thiserror::Error)]
#[error("{} not trusted, and therefore not added to the mirror", items(*.0))]
pub(super) struct UntrustedItems(pub(super) usize);

/// Status of a command in a workspace, which has reported its error itself.
#[derive(Debug, thiserror::Error)]
#[error("the command ended with status {0}")]
pub(super) struct RemoteStatus(pub(super) u8);

/// Error for a daemon that somebody forced to end before this many jobs had.
#[derive(Debug, thiserror::Error)]
#[error("{0} jobs are left for the next daemon of this name")]
pub(super) struct JobsLeftRunning(pub(super) usize);

/// An error, with advice on what to try next.
#[derive(Debug)]
struct Hinted {
    hint: String,
    source: anyhow::Error,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// Adds advice on what to try next to an error.
pub(super) trait Hint<T> {
    /// Keeps the error's text, and prints `hint` below it.
    ///
    /// # Errors
    /// The same error.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            anyhow::Error::new(Hinted {
                hint: hint.into(),
                source: error.into(),
            })
        })
    }
}

/// Prints why a command failed, and returns the code to exit with. `server` is the one it talked to, `wrong_usage`
/// the code for wrong use.
pub(super) fn report(
    result: anyhow::Result<()>,
    server: Option<&Url>,
    wrong_usage: u8,
) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::from(OK);
    };
    if let Some(RemoteStatus(status)) = error.downcast_ref() {
        return ExitCode::from(*status);
    }
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        // clap prints `error: ` itself.
        let _ = usage.print();
        return ExitCode::from(wrong_usage);
    }
    let mut stderr = io::stderr().lock();
    // If stderr is closed, nobody is there to be told.
    let _ = writeln!(stderr, "error: {}", visible(&chain(&error, server)));
    if let Some(hint) = hint_of(&error, server) {
        let _ = writeln!(stderr, "hint: {}", visible(&hint));
    }
    let code = match code_of(&error) {
        Code::Usage => wrong_usage,
        Code::Is(code) => code,
    };
    ExitCode::from(code)
}

/// A code, or a kind of error for which commands have different codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Usage,
    Is(u8),
}

/// Reports a failed launch to the job's log, where stderr leads. A successful launch does not return.
pub(super) fn launched(result: Result<(), Denied>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::from(OK);
    };
    let _ = writeln!(io::stderr(), "{COMPLAINT}{error}");
    ExitCode::from(NOT_LAUNCHED)
}

/// Formats the error and its sources as [`report`] does, for a text in which it is only a part.
pub(super) fn in_words(error: &anyhow::Error) -> String {
    chain(error, None)
}

/// Formats the error and its sources, each only if it adds something.
fn chain(error: &anyhow::Error, server: Option<&Url>) -> String {
    let mut texts = Vec::new();
    for link in error.chain() {
        let Some(status) = link.downcast_ref::<Status>() else {
            texts.push(link.to_string());
            continue;
        };
        texts.push(words_of(status, server));
        break; // Its sources are part of the message already.
    }
    join_causes(texts)
}

/// Returns the server's message for a refusal; its gRPC code helps nobody.
fn words_of(status: &Status, server: Option<&Url>) -> String {
    match server {
        Some(url) => CallError::new(url, status.clone()).to_string(),
        None => status.message().to_owned(),
    }
}

fn hint_of(error: &anyhow::Error, server: Option<&Url>) -> Option<String> {
    error.chain().find_map(|link| {
        if let Some(hinted) = link.downcast_ref::<Hinted>() {
            return Some(hinted.hint.clone());
        }
        if let Some(status) = link.downcast_ref::<Status>() {
            return CallError::new(server?, status.clone()).hint();
        }
        None.or_else(|| Some(link.downcast_ref::<ResultUnknown>()?.hint()))
            .or_else(|| link.downcast_ref::<ConfigError>()?.hint())
            .or_else(|| link.downcast_ref::<StartError>()?.hint())
            .or_else(|| link.downcast_ref::<BackupError>()?.hint())
            .or_else(|| link.downcast_ref::<ArchiveError>()?.hint())
            .or_else(|| link.downcast_ref::<BinaryError>()?.hint())
            .or_else(|| link.downcast_ref::<InstallError>()?.hint())
            .or_else(|| {
                link.downcast_ref::<BundleError>()?
                    .hint()
                    .map(str::to_owned)
            })
            .or_else(|| link.downcast_ref::<StoreError>()?.hint().map(str::to_owned))
            .or_else(|| Some(link.downcast_ref::<JournalError>()?.hint()))
            .or_else(|| link.downcast_ref::<PushError>()?.hint().map(str::to_owned))
    })
}

fn code_of(error: &anyhow::Error) -> Code {
    for link in error.chain() {
        let is_usage = link.is::<UsageError>() || link.is::<ContextError>();
        if is_usage || link.is::<ConfigError>() || link.is::<clap::Error>() {
            return Code::Usage;
        }
        let lost = link.downcast_ref::<ResultUnknown>();
        if link.is::<Interrupted>() || lost.is_some_and(ResultUnknown::is_interruption) {
            return Code::Is(INTERRUPTED);
        }
        if link.is::<Incomplete>()
            || link.is::<JobsLeftRunning>()
            || link.is::<Untested>()
            || link.is::<Unchecked>()
        {
            return Code::Is(INCOMPLETE);
        }
        if link.is::<UntrustedItems>() {
            return Code::Is(DISTRUSTED);
        }
        if let Some(StoreError::Stopped) = link.downcast_ref() {
            return Code::Is(INTERRUPTED);
        }
        if let Some(DaemonError::Unauthorized(_)) = link.downcast_ref() {
            return Code::Is(REFUSED);
        }
        if let Some(hinted) = link.downcast_ref::<Hinted>() {
            return code_of(&hinted.source);
        }
    }
    Code::Is(FAILURE)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_refusal_of_the_server_is_its_message_alone() {
        let error = anyhow::Error::new(Status::invalid_argument("parameter `size` is \"huge\""));
        let words = in_words(&error.context("failed to create"));
        assert_eq!(words, "failed to create: parameter `size` is \"huge\"");
    }

    #[test]
    fn a_hint_survives_context_and_does_not_hide_the_kind_of_error() {
        let error = Err::<(), _>(UsageError("no key".into()))
            .hint("make one")
            .context("failed to start")
            .unwrap_err();

        assert_eq!(chain(&error, None), "failed to start: no key");
        assert_eq!(hint_of(&error, None).as_deref(), Some("make one"));
        assert_eq!(code_of(&error), Code::Usage);
    }

    #[test]
    fn a_source_that_repeats_its_error_is_shown_once() {
        let error = anyhow::Error::msg("disk full").context("failed to write: disk full");

        assert_eq!(chain(&error, None), "failed to write: disk full");
    }
}
