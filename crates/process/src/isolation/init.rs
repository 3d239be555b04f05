//! First process of a job's namespace: it confines itself, starts the engine, and reaps orphans. Its end ends all
//! processes in the namespace.

use std::{fs, io, process::Command};

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getpid,
};

use super::{
    Denied,
    launcher::{self, Asked, PROBE},
    probe, shim,
};

/// Runs until the engine has ended; it never returns except from a probe.
pub(super) fn run(asked: &Asked<'_>) -> Result<(), Denied> {
    let failed = |error: io::Error| Denied::kernel("stay with the engine", error);
    if getpid().as_raw() != 1 {
        return Err(Denied::Arguments);
    }
    bind(asked).map_err(failed)?;
    let mechanism = asked.mechanism.ok_or(Denied::Arguments)?;
    let held = launcher::hold(mechanism, asked)?;
    if asked.end == PROBE {
        return probe::check(&held, asked.child);
    }
    let [program, ..] = asked.child else {
        return Err(Denied::Arguments);
    };
    let signals = shim::block().map_err(failed)?;
    let mut engine = Command::new(super::own_launcher());
    engine.args(launcher::bound(asked.child));
    let end = shim::start(&mut engine).and_then(|engine| shim::follow(engine, &signals));
    let end = end.map_err(|error| launcher::start_failed(program, error))?;
    shim::log_orphans(end);
    std::process::exit(end.code())
}

/// Makes this process die with the shim, which is outside of the namespace and has no process id in it.
fn bind(asked: &Asked<'_>) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // `/proc` still shows the process ids of the outer namespace.
    let stat = fs::read_to_string("/proc/self/stat")?;
    let parent = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split(' ').nth(2));
    match parent.is_some() && parent == asked.parent.and_then(|it| it.to_str()) {
        true => Ok(()),
        false => Err(io::Error::other("the parent is gone")),
    }
}
