//! Usage of the whole machine, and detection of containers.
//!
//! # Source
//! coder/clistat v1.2.1 `container.go`, `stat_linux.go`; elastic/go-sysinfo for what counts as idle.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::time::sleep;

use super::{Cgroup, Prefix, SAMPLE, Usage, UsageError, figure, read};

/// Parts of the cgroup path of a container's first process.
const CONTAINER_GROUPS: [&str; 4] = ["docker", ".slice", "lxc", "kubepods"];
/// Service account token that every pod of Kubernetes has.
const KUBERNETES: &str = "var/run/secrets/kubernetes.io/serviceaccount/token";

/// A machine, as shown by the kernel's files below a root directory.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// Returns the machine whose `proc` and `sys` are in `root`; `/` is the machine that we run on.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the cgroup of the container; `None` outside of containers.
    ///
    /// # Errors
    /// [`UsageError`] if the container's cgroup cannot be found.
    pub fn container(&self) -> Result<Option<Cgroup>, UsageError> {
        match self.is_container()? {
            true => Cgroup::own(&self.root).map(Some),
            false => Ok(None),
        }
    }

    fn is_container(&self) -> Result<bool, UsageError> {
        let Some(groups) = self.read_if_there("proc/1/cgroup")? else {
            return Ok(false);
        };
        if CONTAINER_GROUPS.iter().any(|word| groups.contains(word)) {
            return Ok(true);
        }
        if self.root.join(KUBERNETES).exists() {
            return Ok(true);
        }
        let Some(mounts) = self.read_if_there("proc/mounts")? else {
            return Ok(false);
        };
        // The root of all groups has no type; a container sees a group below it as its root.
        let is_inner = || self.root.join("sys/fs/cgroup/cgroup.type").exists();
        Ok(mounts.contains("sysboxfs") || is_inner())
    }

    /// Measures the busy cores of the machine over 100 ms.
    ///
    /// # Errors
    /// [`UsageError`] if a kernel file cannot be read.
    pub async fn cpu(&self) -> Result<Usage, UsageError> {
        let before = self.cpu_times()?;
        sleep(SAMPLE).await;
        Ok(busy(before, self.cpu_times()?, self.cores()))
    }

    /// Returns the memory that is not available for new processes.
    ///
    /// # Errors
    /// [`UsageError`] if a kernel file cannot be read.
    pub fn memory(&self, prefix: Prefix) -> Result<Usage, UsageError> {
        let path = self.root.join("proc/meminfo");
        let text = read(&path)?;
        let kibibytes = |name| figure(&path, &text, name);
        let total = kibibytes("MemTotal:")?;
        let available = kibibytes("MemAvailable:").or_else(|_| {
            // Kernels before 3.14.
            let parts = ["MemFree:", "Buffers:", "Cached:"].map(kibibytes);
            parts.into_iter().sum()
        })?;
        let bytes = |kibibytes: u64| kibibytes as f64 * 1024.0;
        let used = bytes(total.saturating_sub(available));
        Ok(Usage::bytes(used, Some(bytes(total)), prefix))
    }

    /// Number of processors of the machine, whatever our own limits are.
    fn cores(&self) -> usize {
        let is_processor = |line: &&str| {
            let name = line.split_once(':').map(|(name, _)| name.trim());
            name == Some("processor")
        };
        match read(&self.root.join("proc/cpuinfo")) {
            Ok(text) => text.lines().filter(is_processor).count(),
            Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn cpu_times(&self) -> Result<CpuTimes, UsageError> {
        let path = self.root.join("proc/stat");
        let text = read(&path)?;
        CpuTimes::parse(&text).ok_or(UsageError::Missing {
            path,
            wanted: "cpu",
        })
    }

    fn read_if_there(&self, path: impl AsRef<Path>) -> Result<Option<String>, UsageError> {
        match read(&self.root.join(path)) {
            Ok(text) => Ok(Some(text)),
            Err(UsageError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Processor time since boot, over all processors, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTimes {
    idle: u64,
    total: u64,
}

impl CpuTimes {
    /// Reads user, nice, system, idle, iowait, irq, softirq and steal; user includes guests.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks = line
            .split_whitespace()
            .take(8)
            .map(|word| word.parse().ok());
        let ticks: Vec<u64> = ticks.collect::<Option<_>>()?;
        Some(Self {
            idle: *ticks.get(3)?,
            total: ticks.iter().sum(),
        })
    }
}

fn busy(before: CpuTimes, after: CpuTimes, cores: usize) -> Usage {
    let total = after.total.saturating_sub(before.total);
    let idle = after.idle.saturating_sub(before.idle);
    let used = match total {
        0 => 0.0,
        total => total.saturating_sub(idle) as f64 / total as f64 * cores as f64,
    };
    Usage::cores(used, Some(cores as f64))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A machine of files.
    pub(in crate::usage) fn machine(files: &[(&str, &str)]) -> (TempDir, Machine) {
        let root = TempDir::new().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let machine = Machine::at(root.path());
        (root, machine)
    }

    #[test]
    fn containers_are_told_by_what_their_makers_leave() {
        const BARE: (&str, &str) = ("proc/1/cgroup", "0::/init.scope\n");
        const MOUNTS: (&str, &str) = ("proc/mounts", "proc /proc proc rw 0 0\n");
        for (files, expected) in [
            (&[][..], false),
            (&[BARE], false),
            (&[BARE, MOUNTS], false),
            (&[("proc/1/cgroup", "0::/docker/abc\n")], true),
            (&[("proc/1/cgroup", "0::/kubepods/pod1\n")], true),
            (&[("proc/1/cgroup", "0::/user.slice\n")], true),
            (&[BARE, (KUBERNETES, "t")], true),
            (
                &[BARE, ("proc/mounts", "sysboxfs /proc/x fuse rw 0 0\n")],
                true,
            ),
            (
                &[BARE, MOUNTS, ("sys/fs/cgroup/cgroup.type", "domain\n")],
                true,
            ),
        ] {
            let (_root, machine) = machine(files);
            assert_eq!(machine.is_container().unwrap(), expected, "{files:?}");
        }
    }

    #[test]
    fn memory_is_what_is_not_available() {
        let text = "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 6291456 kB\n";
        let (_root, new) = machine(&[("proc/meminfo", text)]);
        assert_eq!(
            new.memory(Prefix::Gibi).unwrap().to_string(),
            "2/8 GiB (25%)"
        );

        let text =
            "MemTotal: 8388608 kB\nMemFree: 4194304 kB\nBuffers: 1048576 kB\nCached: 1048576 kB\n";
        let (_root, old) = machine(&[("proc/meminfo", text)]);
        assert_eq!(
            old.memory(Prefix::Mebi).unwrap().to_string(),
            "2048/8192 MiB (25%)"
        );

        let (_root, odd) = machine(&[("proc/meminfo", "MemFree: 1 kB\n")]);
        let error = odd.memory(Prefix::Gibi).unwrap_err().to_string();
        assert!(error.starts_with("no MemTotal: in "), "{error}");
    }

    #[test]
    fn processors_are_busy_when_they_are_not_idle() {
        let parse = |text| CpuTimes::parse(text).unwrap();
        let before = parse("cpu  100 0 100 800 0 0 0 0 50 0\ncpu0 1 1 1 1\n");
        let after = parse("cpu  150 0 150 1100 0 0 0 0 99 0\n");

        assert_eq!(busy(before, after, 8).to_string(), "2/8 cores (25%)");
        assert_eq!(busy(before, before, 8).to_string(), "0/8 cores (0%)");
        assert_eq!(CpuTimes::parse("cpu  1 x\n"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn all_processors_of_the_machine_count() {
        let (_root, machine) = machine(&[
            ("proc/stat", "cpu  1 0 0 1 0 0 0 0\n"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nmodel\t: x\n\nprocessor\t: 1\n",
            ),
        ]);

        assert_eq!(machine.cpu().await.unwrap().to_string(), "0/2 cores (0%)");
    }
}
