//! Usage and limits of a container, from its cgroup.
//!
//! With cgroup v2 the nearest group that has a value counts, from our own up to the visible root: a limit may be set at
//! any of them, and groups such as `init.scope` lack files.
//!
//! # Source
//! coder/clistat v1.2.1 `cgroup.go`, `cgroupv1.go`, `cgroupv2.go`; the kernel's `cgroup-v1/`, `cgroup-v2.rst`.

use std::{
    io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Prefix, SAMPLE, Usage, UsageError, figure, read};

/// Depth of the hierarchy that is searched.
const MAX_DEPTH: usize = 32;
/// Default period of `cpu.max`, in microseconds.
const PERIOD: f64 = 100_000.0;
/// Memory limit of v1 that means none: 2⁶³−1, rounded down to pages.
const UNLIMITED: u64 = 9_223_372_036_854_771_712;

/// The cgroup of a container.
#[derive(Debug)]
pub struct Cgroup {
    version: Version,
}

#[derive(Debug)]
enum Version {
    /// The directory with a mount for each controller.
    One(PathBuf),
    /// Directories of our group and its ancestors, nearest first.
    Two(Vec<PathBuf>),
}

impl Cgroup {
    /// Finds the cgroup of this process, with `root` in place of `/`.
    pub(super) fn own(root: &Path) -> Result<Self, UsageError> {
        let mount = root.join("sys/fs/cgroup");
        // Only a v2 hierarchy has that file.
        if !mount.join("cgroup.controllers").exists() {
            let version = Version::One(mount);
            return Ok(Self { version });
        }
        let path = root.join("proc/self/cgroup");
        let text = read(&path)?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.ok_or(UsageError::Missing {
            path,
            wanted: "cgroup of hierarchy 0",
        })?;
        // Paths of processes outside of the visible root begin with `/..`.
        let names = Path::new(own.trim()).components();
        let names = names.filter(|it| matches!(it, Component::Normal(_)));
        let own = mount.join(names.collect::<PathBuf>());
        let all = own.ancestors().take_while(|it| it.starts_with(&mount));
        let all = all.take(MAX_DEPTH).map(Path::to_owned).collect();
        let version = Version::Two(all);
        Ok(Self { version })
    }

    /// Measures the cores that this group keeps busy, over 100 ms, against its quota.
    ///
    /// # Errors
    /// [`UsageError`] if a kernel file cannot be read.
    pub async fn cpu(&self) -> Result<Usage, UsageError> {
        let total = self.cores()?;
        let (before, began) = (self.cpu_time()?, Instant::now());
        sleep(SAMPLE).await;
        // The counter may have been reset, and then counts from zero.
        let after = self.cpu_time()?;
        let spent = after.checked_sub(before).unwrap_or(after);
        let used = spent.as_secs_f64() / began.elapsed().as_secs_f64();
        Ok(Usage::cores(used, total))
    }

    /// Returns the memory of this group without inactive files, which the kernel can drop, against its limit.
    ///
    /// # Errors
    /// [`UsageError`] if a kernel file cannot be read.
    pub fn memory(&self, prefix: Prefix) -> Result<Usage, UsageError> {
        let (used, droppable, limit) = match &self.version {
            Version::One(mount) => {
                let memory = mount.join("memory");
                let stat = memory.join("memory.stat");
                let droppable = figure(&stat, &read(&stat)?, "total_inactive_file")?;
                let used = number(&memory.join("memory.usage_in_bytes"))?;
                let used = used.unwrap_or_default();
                let limit = number(&memory.join("memory.limit_in_bytes"))?;
                let limit = limit.filter(|limit| *limit > 0 && *limit < UNLIMITED);
                (used, droppable, limit)
            }
            Version::Two(groups) => {
                let (path, text) = nearest(groups, "memory.stat")?;
                let droppable = figure(&path, &text, "inactive_file")?;
                let (path, text) = nearest(groups, "memory.current")?;
                let used = text.trim().parse().map_err(|_| UsageError::Missing {
                    path,
                    wanted: "number of bytes",
                })?;
                (used, droppable, first_number(groups, "memory.max", 0)?)
            }
        };
        let used = used.saturating_sub(droppable) as f64;
        let limit = limit.map(|limit| limit as f64);
        Ok(Usage::bytes(used, limit, prefix))
    }

    /// Processor time that this group has used.
    fn cpu_time(&self) -> Result<Duration, UsageError> {
        match &self.version {
            Version::One(mount) => {
                let path = controller(mount, "cpuacct", "cpuacct.usage");
                let spent = number(&path)?.ok_or(UsageError::Missing {
                    path,
                    wanted: "number of nanoseconds",
                })?;
                Ok(Duration::from_nanos(spent))
            }
            Version::Two(groups) => {
                let (path, text) = nearest(groups, "cpu.stat")?;
                figure(&path, &text, "usage_usec").map(Duration::from_micros)
            }
        }
    }

    /// Quota of this group, in cores; `None` without a limit.
    fn cores(&self) -> Result<Option<f64>, UsageError> {
        let (quota, period) = match &self.version {
            Version::One(mount) => {
                let read = |name| number(&controller(mount, "cpu", name));
                // A quota of -1 means no limit.
                (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
            }
            Version::Two(groups) => {
                let read = |place| first_number(groups, "cpu.max", place);
                (read(0)?, read(1)?)
            }
        };
        let period = period.map_or(PERIOD, |period| period as f64);
        Ok(quota.map(|quota| quota as f64 / period))
    }
}

/// Path of a v1 controller's file; `cpu` and `cpuacct` may be mounted together.
fn controller(mount: &Path, name: &str, file: &str) -> PathBuf {
    let together = mount.join("cpu,cpuacct").join(file);
    match together.exists() {
        true => together,
        false => mount.join(name).join(file),
    }
}

/// Reads a file that holds one number; `None` for another word, such as `max` or `-1`.
fn number(path: &Path) -> Result<Option<u64>, UsageError> {
    Ok(read(path)?.trim().parse().ok())
}

/// Returns path and content of a file in the nearest group that has it.
fn nearest(groups: &[PathBuf], file: &str) -> Result<(PathBuf, String), UsageError> {
    let mut last = None;
    for path in groups.iter().map(|group| group.join(file)) {
        match read(&path) {
            Ok(text) => return Ok((path, text)),
            Err(error) if is_absent(&error) => _ = last.get_or_insert(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or(UsageError::NotFound(PathBuf::from(file))))
}

/// Returns the word at `place` of a file, in the nearest group where it is a number.
fn first_number(groups: &[PathBuf], file: &str, place: usize) -> Result<Option<u64>, UsageError> {
    for path in groups.iter().map(|group| group.join(file)) {
        match read(&path) {
            Ok(text) => {
                let word = text.split_whitespace().nth(place);
                if let Some(number) = word.and_then(|word| word.parse().ok()) {
                    return Ok(Some(number));
                }
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn is_absent(error: &UsageError) -> bool {
    matches!(error, UsageError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::{super::machine::tests::machine, *};

    const V2: (&str, &str) = ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    const IN_DOCKER: (&str, &str) = ("proc/1/cgroup", "0::/docker/abc\n");
    const AT_ROOT: (&str, &str) = ("proc/self/cgroup", "0::/\n");
    const BELOW: (&str, &str) = ("proc/self/cgroup", "0::/../init.scope\n");

    async fn figures(files: &[(&str, &str)]) -> (String, String) {
        let (_root, machine) = machine(files);
        let group = machine.container().unwrap().unwrap();
        let memory = group.memory(Prefix::Mebi).unwrap();
        (group.cpu().await.unwrap().to_string(), memory.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn limits_of_version_2_are_those_of_the_container() {
        let files = [
            V2,
            IN_DOCKER,
            AT_ROOT,
            ("sys/fs/cgroup/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/cpu.stat", "usage_usec 5\nuser_usec 1\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/memory.current", "536870912\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 1\ninactive_file 268435456\n",
            ),
        ];

        let (cpu, memory) = figures(&files).await;

        assert_eq!(cpu, "0/2.5 cores (0%)");
        assert_eq!(memory, "256/1024 MiB (25%)");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_of_version_2_there_is_no_total() {
        let files = [
            V2,
            IN_DOCKER,
            AT_ROOT,
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/cpu.stat", "usage_usec 5\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/memory.current", "536870912\n"),
            ("sys/fs/cgroup/memory.stat", "inactive_file 0\n"),
        ];

        assert_eq!(figures(&files).await, ("0 cores".into(), "512 MiB".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_group_does_not_say_the_one_above_does() {
        let files = [
            V2,
            IN_DOCKER,
            BELOW,
            ("sys/fs/cgroup/init.scope/cpu.stat", "usage_usec 5\n"),
            ("sys/fs/cgroup/init.scope/memory.max", "max\n"),
            ("sys/fs/cgroup/cpu.max", "50000 50000\n"),
            ("sys/fs/cgroup/memory.max", "1048576\n"),
            ("sys/fs/cgroup/memory.current", "1048576\n"),
            ("sys/fs/cgroup/memory.stat", "inactive_file 0\n"),
        ];

        let (cpu, memory) = figures(&files).await;

        assert_eq!(cpu, "0/1 cores (0%)");
        assert_eq!(memory, "1/1 MiB (100%)");
    }

    #[tokio::test(start_paused = true)]
    async fn version_1_has_its_controllers_together_or_alone() {
        let memory = [
            IN_DOCKER,
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "536870912\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file 268435456\n",
            ),
        ];
        let together = [
            ("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "7\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        let alone = [
            ("sys/fs/cgroup/cpuacct/cpuacct.usage", "7\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];

        let (cpu, used) = figures(&[&memory[..], &together].concat()).await;
        assert_eq!(cpu, "0/2.5 cores (0%)");
        assert_eq!(used, "256/1024 MiB (25%)");
        let (cpu, _) = figures(&[&memory[..], &alone].concat()).await;
        assert_eq!(cpu, "0 cores");
    }

    #[test]
    fn version_1_without_a_limit_has_no_total() {
        let (_root, machine) = machine(&[
            IN_DOCKER,
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "536870912\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file 0\n",
            ),
        ]);
        let group = machine.container().unwrap().unwrap();

        assert_eq!(group.memory(Prefix::Gibi).unwrap().to_string(), "0.5 GiB");
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_root, machine) = machine(&[V2, IN_DOCKER, AT_ROOT]);
        let group = machine.container().unwrap().unwrap();

        let error = group.memory(Prefix::Gibi).unwrap_err().to_string();

        assert!(error.ends_with("sys/fs/cgroup/memory.stat"), "{error}");
    }
}
