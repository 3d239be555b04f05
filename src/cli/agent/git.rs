//! Helpers that git runs in a workspace: `outpost gitssh` and `outpost gitaskpass`.

use std::{
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tempfile::NamedTempFile;
use tokio::{process::Command, time::timeout};

use super::identity::Identity;
use crate::{
    agent::git::{self, Key, Question},
    cli::{
        exit::{Interrupted, RemoteStatus, UsageError},
        output,
    },
    stop::Stop,
};

/// Longest time for `ssh` to print which keys it would use.
const ASK: Duration = Duration::from_secs(10);
/// Status with which `ssh` itself fails.
const SSH_FAILED: i32 = 255;
/// Keys that `ssh` tries by default.
const USUAL: [&str; 5] = [
    "id_rsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
];

/// Run `ssh` with the workspace owner's key from the server
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct GitSsh {
    #[command(flatten)]
    identity: Identity,
    /// Arguments passed on to `ssh`
    #[arg(value_name = "ARGUMENT", last = true)]
    arguments: Vec<OsString>,
}

impl GitSsh {
    pub(in crate::cli) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let own = own_keys(&self.arguments).await;
        let (http, credential) = (self.identity.http()?, self.identity.credential()?);
        let key = tokio::select! {
            key = git::key(&http, &credential) => key,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        let key = key.unwrap_or_else(|error| {
            output::note(&format!("No SSH key from the server: {error:#}"));
            None
        });
        let file = key.as_ref().map(keep).transpose()?;
        let mut command = Command::new("ssh");
        if let Some(file) = &file {
            // Configured keys come first, because hosts limit how many keys may be tried.
            for path in own.iter().map(PathBuf::as_path).chain([file.path()]) {
                command.arg("-i").arg(path);
            }
        }
        command.args(&self.arguments).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start `ssh`")?;
        let status = tokio::select! {
            status = child.wait() => status?,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        drop(file);
        if let (Some(SSH_FAILED), Some(key)) = (status.code(), &key) {
            output::note(&format!(
                "If the host does not know this key yet, add it there: {}",
                key.public
            ));
        }
        match status.code() {
            Some(0) => Ok(()),
            code => {
                let code = code.and_then(|code| u8::try_from(code).ok());
                Err(RemoteStatus(code.unwrap_or(u8::MAX)).into())
            }
        }
    }
}

/// Writes the key to a file that only `ssh` can read; it is removed with the returned value.
fn keep(key: &Key) -> anyhow::Result<NamedTempFile> {
    let written = || {
        let mut file = NamedTempFile::with_prefix("gitsshkey-")?;
        let text = key.private.expose().trim_end();
        writeln!(file, "{text}")?;
        std::io::Result::Ok(file)
    };
    written().context("failed to write the key into a file")
}

/// Returns the keys that `ssh` would use by itself: given one key, it would leave out the default ones.
async fn own_keys(arguments: &[OsString]) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let mut command = Command::new("ssh");
    let asked = command
        .arg("-G")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = match timeout(ASK, asked).await {
        Ok(Ok(said)) if said.status.success() => String::from_utf8_lossy(&said.stdout).into_owned(),
        // Old versions of `ssh` do not have that option.
        _ => USUAL
            .map(|name| format!("identityfile ~/.ssh/{name}\n"))
            .concat(),
    };
    let named = said
        .lines()
        .filter_map(|line| line.strip_prefix("identityfile "));
    let paths = named.map(|path| match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => Path::new(path).to_owned(),
    });
    paths.filter(|path| path.exists()).collect()
}

/// Answer git's prompt for a user name or password
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct GitAskpass {
    #[command(flatten)]
    identity: Identity,
    /// Question that git asks
    #[arg(value_name = "QUESTION")]
    question: String,
}

impl GitAskpass {
    pub(in crate::cli) async fn exec(self, stop: Stop) -> anyhow::Result<()> {
        let question = Question::read(&self.question).ok_or_else(|| {
            UsageError(format!(
                "`{}` is not a git credential prompt",
                self.question
            ))
        })?;
        let (http, credential) = (self.identity.http()?, self.identity.credential()?);
        let tell = |page: &str| output::note(&format!("Log in at {page}"));
        let answer = tokio::select! {
            answer = git::answer(&http, &credential, &question, tell) => answer?,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        match answer {
            Some(answer) => Ok(output::line(answer.expose())?),
            // Git asks on the terminal then.
            None => anyhow::bail!("the server has no external login for this host"),
        }
    }
}
