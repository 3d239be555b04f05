//! Test of a mechanism before a job depends on it: whether it starts at all, and whether it protects.

use std::{ffi::OsString, fs, io::Write as _, path::Path, time::Duration};

use nix::{sys::signal::kill, unistd::Pid};
use outpost_base::stop::Stop;
use outpost_provision::Memory;
use tokio::time::timeout;

use super::{
    super::{Command, Limits, Request, capture},
    Access, Background, Confinement, Denied, Mechanism, Policy, Shown, launcher,
};

/// Longest run time of a launcher; it needs a few milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

const HIDDEN: &str = "hidden";
const SECRET: &str = "hidden/secret";
const OWN: &str = "hidden/own";
const PSK: &str = "psk";
const STORE: &str = "store";

/// Result of the test of a mechanism: `Err` says what the kernel denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Mechanism that was tested.
    pub mechanism: Mechanism,
    /// Protection that it gives, if it protects files at all.
    pub result: Result<Held, String>,
}

/// Protection on this machine, apart from that of files. Each field is set if a job is kept from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Signals to processes of others.
    pub signals: bool,
    /// Abstract sockets of processes of others.
    pub abstract_sockets: bool,
    /// Processes that outlive the job.
    pub background: bool,
    /// So many processes that others cannot start any.
    pub task_count: bool,
    /// The list of other processes.
    pub process_list: bool,
}

impl Held {
    /// Names of all fields, for the launcher that is tested.
    const NAMES: [&str; 5] = ["signals", "sockets", "background", "tasks", "processes"];

    fn flags(&mut self) -> [&mut bool; 5] {
        [
            &mut self.signals,
            &mut self.abstract_sockets,
            &mut self.background,
            &mut self.task_count,
            &mut self.process_list,
        ]
    }

    fn write(mut self) -> String {
        let flags = self.flags();
        let named = flags.iter().zip(Self::NAMES).filter(|(flag, _)| ***flag);
        named.map(|(_, name)| format!("{name}\n")).collect()
    }

    fn read(text: &str) -> Self {
        let mut held = Self::default();
        for (flag, name) in held.flags().into_iter().zip(Self::NAMES) {
            *flag = text.lines().any(|line| line == name);
        }
        held
    }
}

/// Tests a mechanism with a directory below `dir`, which must exist.
pub async fn probe(
    launcher: &Path,
    mechanism: Mechanism,
    background: Background,
    dir: &Path,
) -> Probed {
    let result = attempt(launcher, mechanism, background, dir).await;
    Probed { mechanism, result }
}

async fn attempt(
    launcher: &Path,
    mechanism: Mechanism,
    background: Background,
    dir: &Path,
) -> Result<Held, String> {
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
        shown: Shown::default(),
        background,
        control_group: None,
    };
    let mut args = launcher::arguments(Some(&confinement), None);
    args.extend([
        launcher::PROBE.into(),
        std::process::id().to_string().into(),
    ]);
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
        request: Request::Interrupt,
        exit_timeout: LIMIT,
        pipe_grace: LIMIT,
        line_bytes: 0,
        precious_bytes: 0,
        must_keep_whole: |_| false,
    };
    let stop = Stop::new();
    let tried = capture(&command, &limits, &stop, 1024);
    let tried = timeout(LIMIT, tried)
        .await
        .map_err(|_| format!("no answer within {LIMIT:?}"))?
        .map_err(|error| error.to_string())?;
    match tried.exit.is_success() {
        true => Ok(Held::read(&String::from_utf8_lossy(&tried.stdout))),
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

/// Tests in the launcher what is possible when it is confined, and prints the result. `arguments` has the daemon's
/// process id.
pub(super) fn check(held: &launcher::Held, arguments: &[OsString]) -> Result<(), Denied> {
    let own = held.dir.as_path();
    let daemon = arguments.first().and_then(|id| id.to_str()?.parse().ok());
    let daemon = Pid::from_raw(daemon.ok_or(Denied::Arguments)?);
    let stage = own.ancestors().nth(2).unwrap_or(own);
    let is_first = nix::unistd::getpid().as_raw() == 1;
    // In a namespace of processes the daemon's number may be our own.
    let listed = fs::read_link("/proc/self").unwrap_or_default();
    let is_listed_anew = is_first && listed == Path::new("1");
    let environment = format!("/proc/{daemon}/environ");
    let can_read = |path: &Path| fs::read(path).is_ok();
    let attempts = [
        (can_read(&stage.join(SECRET)), "read a hidden directory"),
        (can_read(Path::new("../secret")), "leave its directory"),
        (can_read(&stage.join(PSK)), "read a hidden file"),
        (
            !is_listed_anew && can_read(Path::new(&environment)),
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
    fs::write(own.join("x"), "x")
        .map_err(|error| Denied::kernel("write its own directory", error))?;
    let found = Held {
        signals: is_first || kill(daemon, None).is_err(),
        abstract_sockets: held.is_scoped,
        background: held.ends_all,
        task_count: held.is_counted,
        process_list: is_listed_anew,
    };
    std::io::stdout()
        .write_all(found.write().as_bytes())
        .map_err(|error| Denied::kernel("tell what holds", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_launcher_tells_is_what_is_read() {
        let held = Held {
            signals: true,
            task_count: true,
            ..Held::default()
        };

        assert_eq!(Held::read(&held.write()), held);
    }
}
