//! Checks of the machine: engine, disk, memory, isolation.

use std::{fs, io, path::Path};

use super::Finding;
use crate::{
    cli::{engine::EngineArgs, provisioner::health::free_bytes},
    process::isolation::{Background, Mechanism, own_launcher, probe},
    stop::Stop,
};

/// Disk space for a few templates with their providers.
const ENOUGH_DISK_BYTES: u64 = 2 << 30;
/// Disk space without which even a single job fails.
const LEAST_DISK_BYTES: u64 = 100 << 20;
/// Memory for an engine and two common providers at the same time.
const ENOUGH_MEMORY_BYTES: u64 = 512 << 20;

pub(super) async fn examine(engine: &EngineArgs, state_dir: &Path, stop: &Stop) -> Vec<Finding> {
    let mut findings = vec![engine_found(engine, stop).await];
    findings.push(disk("state directory", state_dir));
    match engine.cache_dir() {
        Ok(cache_dir) => findings.push(disk("cache directory", &cache_dir)),
        Err(error) => findings.push(Finding::failed("cache directory", format!("{error:#}"))),
    }
    findings.push(memory());
    findings.push(isolation(state_dir).await);
    findings
}

async fn engine_found(engine: &EngineArgs, stop: &Stop) -> Finding {
    const CHECK: &str = "engine";
    match engine.installed(stop).await {
        Ok(Some(binary)) => {
            let found = format!("{} {}", binary.path.display(), binary.version);
            Finding::ok(CHECK, found)
        }
        Ok(None) => Finding::warning(CHECK, "none is on PATH; one is downloaded at the start")
            .remedy("install Terraform or OpenTofu, or name one with --engine"),
        Err(error) => Finding::failed(CHECK, format!("{error:#}"))
            .remedy("name a working Terraform or OpenTofu with --engine"),
    }
}

fn disk(check: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    if let Err(error) = writable(path) {
        return Finding::failed(check, format!("{shown} cannot be written: {error}"))
            .remedy("give the daemon's user a directory of its own");
    }
    match free_bytes(path) {
        None => Finding::warning(check, format!("{shown}: free space is unknown")),
        Some(free) => {
            let found = format!("{shown}: {} MiB free", free >> 20);
            let remedy = format!("free at least {} MiB", ENOUGH_DISK_BYTES >> 20);
            match free {
                ENOUGH_DISK_BYTES.. => Finding::ok(check, found),
                LEAST_DISK_BYTES.. => Finding::warning(check, found).remedy(remedy),
                _ => Finding::failed(check, found).remedy(remedy),
            }
        }
    }
}

/// Tries to write in `path`, or in the nearest directory above that exists.
fn writable(path: &Path) -> io::Result<()> {
    let existing = path.ancestors().find(|path| path.is_dir());
    tempfile::tempfile_in(existing.unwrap_or(Path::new("/"))).map(drop)
}

fn memory() -> Finding {
    const CHECK: &str = "memory";
    let available = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_in(&text));
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    let Some(bytes) = available.into_iter().chain(limit).min() else {
        return Finding::skipped(CHECK, "unknown on this system");
    };
    let found = format!("{} MiB for the daemon and its jobs", bytes >> 20);
    match bytes {
        ENOUGH_MEMORY_BYTES.. => Finding::ok(CHECK, found),
        _ => Finding::warning(CHECK, found).remedy(format!(
            "give it {} MiB: large providers need that",
            ENOUGH_MEMORY_BYTES >> 20
        )),
    }
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

async fn isolation(state_dir: &Path) -> Finding {
    const CHECK: &str = "isolation";
    let existing = state_dir.ancestors().find(|path| path.is_dir());
    let stage = match tempfile::tempdir_in(existing.unwrap_or(Path::new("/"))) {
        Ok(stage) => stage,
        Err(error) => {
            return Finding::skipped(
                CHECK,
                format!("cannot create a directory to test it in: {error}"),
            );
        }
    };
    let mut denied = Vec::new();
    for mechanism in Mechanism::OPEN {
        let probed = probe(&own_launcher(), mechanism, Background::Ends, stage.path()).await;
        match probed.result {
            Ok(_) => return Finding::ok(CHECK, format!("by {mechanism}")),
            Err(reason) => denied.push(format!("{mechanism}: {reason}")),
        }
    }
    Finding::warning(
        CHECK,
        format!("jobs are not isolated: {}", denied.join("; ")),
    )
    .remedy("allow Landlock (Linux 6.2) or user namespaces, and run one job at a time until then")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_available_is_read_in_bytes() {
        let text = "MemTotal:  100 kB\nMemAvailable:    2048 kB\n";

        assert_eq!(available_in(text), Some(2 << 20));
        assert_eq!(available_in("MemTotal: 100 kB"), None);
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_as_good_as_the_one_above_it() {
        let directory = tempfile::tempdir().unwrap();

        let finding = disk("state directory", &directory.path().join("a/b"));

        assert_ne!(finding.result, super::super::Verdict::Failed, "{finding:?}");
    }
}
