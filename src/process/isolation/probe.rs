//! Tries a mechanism before a job depends on it: whether it starts at all, and whether it holds.

use std::{fs, path::Path, time::Duration};

use tokio::time::timeout;

use super::{
    super::{Command, Limits, capture},
    Access, Confinement, Denied, Mechanism, Policy, launcher,
};
use crate::{provision::Memory, stop::Stop};

/// Time that a launcher takes at most; it needs a few milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

const HIDDEN: &str = "hidden";
const SECRET: &str = "hidden/secret";
const OWN: &str = "hidden/own";
const PSK: &str = "psk";
const STORE: &str = "store";

/// What a mechanism did when it was tried: `Err` says what the kernel denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Which one.
    pub mechanism: Mechanism,
    /// Whether it holds.
    pub result: Result<(), String>,
}

/// Tries a mechanism with a directory below `dir`, which must exist.
pub async fn probe(launcher: &Path, mechanism: Mechanism, dir: &Path) -> Probed {
    let result = attempt(launcher, mechanism, dir).await;
    Probed { mechanism, result }
}

async fn attempt(launcher: &Path, mechanism: Mechanism, dir: &Path) -> Result<(), String> {
    let stage = prepare(dir).map_err(|error| format!("prepare {}: {error}", dir.display()))?;
    let path = |name: &str| stage.path().join(name);
    let mut policy = Policy::default();
    policy.set(path(HIDDEN), Access::Hidden);
    policy.set(path(OWN), Access::Open);
    policy.set(path(PSK), Access::Hidden);
    policy.set(path(STORE), Access::ReadOnly);
    let confinement = Confinement {
        mechanism,
        launcher: launcher.to_owned(),
        policy,
    };
    let mut args = launcher::arguments(Some(&confinement), None);
    args.push(launcher::PROBE.into());
    let command = Command {
        program: confinement.launcher,
        args,
        env: Vec::new(),
        dir: path(OWN),
        confinement: None,
        outlives_us: false,
        shim: None,
        memory: Memory::default(),
    };
    let limits = Limits {
        exit_timeout: LIMIT,
        pipe_grace: LIMIT,
        line_bytes: 0,
        precious_bytes: 0,
        is_precious: |_| false,
    };
    let stop = Stop::new();
    let tried = capture(&command, &limits, &stop, 0);
    let tried = timeout(LIMIT, tried)
        .await
        .map_err(|_| format!("no answer within {LIMIT:?}"))?
        .map_err(|error| error.to_string())?;
    match tried.exit.is_success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&tried.stderr);
            let said = said.trim();
            let said = said.strip_prefix(launcher::COMPLAINT).unwrap_or(said);
            Err(if said.is_empty() {
                tried.exit.to_string()
            } else {
                said.to_owned()
            })
        }
    }
}

fn prepare(dir: &Path) -> std::io::Result<tempfile::TempDir> {
    let stage = tempfile::Builder::new().prefix(".probe").tempdir_in(dir)?;
    for name in [HIDDEN, OWN, STORE] {
        fs::create_dir(stage.path().join(name))?;
    }
    for name in [SECRET, PSK] {
        fs::write(stage.path().join(name), "x")?;
    }
    Ok(stage)
}

/// What the launcher tries when it is held; `own` is its directory.
pub(super) fn check(own: &Path) -> Result<(), Denied> {
    let stage = own.ancestors().nth(2).unwrap_or(own);
    let parent = format!("/proc/{}/environ", nix::unistd::getppid());
    let can_read = |path: &Path| fs::read(path).is_ok();
    let attempts = [
        (can_read(&stage.join(SECRET)), "read a hidden directory"),
        (can_read(Path::new("../secret")), "leave its directory"),
        (can_read(&stage.join(PSK)), "read a hidden file"),
        (
            can_read(Path::new(&parent)),
            "read the daemon's environment",
        ),
        (
            fs::write(stage.join(STORE).join("x"), "x").is_ok(),
            "write what is read-only",
        ),
    ];
    if let Some((_, what)) = attempts.into_iter().find(|(succeeded, _)| *succeeded) {
        return Err(Denied::Leaks(what));
    }
    fs::write(own.join("x"), "x").map_err(|error| Denied::kernel("write its own directory", error))
}
