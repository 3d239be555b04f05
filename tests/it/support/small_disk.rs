//! A program that sees a small disk, as root of a namespace of its own.

use std::{path::Path, process::Command};

use super::skip::skipped;

/// A command that runs `script` in `home`, where the directory `mirror` is a disk of two mebibytes. `None`, with a note, if
/// the system allows no such namespaces.
pub fn with_small_disk(home: &Path, script: &str) -> Option<Command> {
    let allowed = inside(home, "true").output().unwrap();
    if !allowed.status.success() {
        skipped("namespaces", String::from_utf8_lossy(&allowed.stderr));
        return None;
    }
    Some(inside(home, script))
}

fn inside(home: &Path, script: &str) -> Command {
    let script = format!("mount -t tmpfs -o size=2m none mirror && {script}");
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "/bin/sh", "-c", &script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("OUTPOST_MIRROR_DIR", home.join("mirror"))
        .current_dir(home)
        .stdin(std::process::Stdio::null());
    command
}
