//! Control group for each job: the resources of its processes are limited and counted together, and all of them can
//! be ended, whatever sessions and process groups they created for themselves.
//!
//! Version 2 needs a group that is delegated to us, as systemd does with `Delegate=`; version 1 needs write access to
//! our own groups of the controllers `memory` and `pids`, as root in a container often has.
//!
//! # Source
//! The kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/{memory,pids}.rst`.

#![allow(
    clippy::disallowed_methods,
    reason = "the kernel's files are written in place"
)]

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Prefix of the names of all groups of jobs.
const PREFIX: &str = "outpost-job-";

/// Name of the group into which this process moves, because a group with controllers may not have processes of its
/// own.
const OWN: &str = "outpost";

/// Number of processes and threads that a job may have; systemd's default for a unit is about the same.
pub(super) const MAX_TASKS: u64 = 4096;

/// Rounds of SIGKILL where the kernel cannot kill a whole group: a process may fork during one.
const KILL_ROUNDS: usize = 64;

/// Attempts to remove a group, and the pause between two: a killed process is a member until it is gone.
const REMOVAL: (u32, Duration) = (100, Duration::from_millis(20));

/// Groups below which those of jobs are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    version: Version,
    /// Parent group of version 2; of version 1 one for each controller, memory first.
    parents: Vec<PathBuf>,
    /// Mount points of the parents.
    mounts: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Limits of a job's processes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory at which the job is stopped; the kernel kills at a quarter more. `None` for no limit.
    pub memory: Option<u64>,
    /// Number of processes and threads.
    pub tasks: u64,
}

impl Limits {
    /// Returns the limits of a job that may use so many bytes of memory.
    pub fn of_job(memory: Option<u64>) -> Self {
        Self {
            memory,
            tasks: MAX_TASKS,
        }
    }
}

/// A mount in `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl Hierarchy {
    /// Finds where groups can be created, and creates one as a test.
    ///
    /// Under version 2 this process may move into a group beside those of its jobs.
    ///
    /// # Errors
    /// The reason in words, for the log.
    pub fn find() -> Result<Self, String> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let (mounts, own) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        // Version 1 first: on a hybrid system version 2 is mounted as well, but without these controllers.
        let found = first_version(&mounts, &own).map(Ok);
        let found = found.unwrap_or_else(|| second_version(&mounts, &own))?;
        let name = format!("{PREFIX}probe-{}", std::process::id());
        let tried = found.create(&name, &Limits::of_job(None));
        let tried = tried.map_err(|error| format!("make a control group: {error}"))?;
        tried
            .remove_now()
            .map_err(|error| format!("remove a control group: {error}"))?;
        Ok(found)
    }

    /// Mount points of control groups: no job may write there.
    pub fn mounts(&self) -> &[PathBuf] {
        &self.mounts
    }

    /// Creates a group with limits. `name` is unique among jobs of this machine.
    ///
    /// # Errors
    /// An I/O error.
    pub fn create(&self, name: &str, limits: &Limits) -> io::Result<ControlGroup> {
        self.remove_empty();
        let group = self.group(name);
        group.dirs.iter().try_for_each(fs::create_dir)?;
        group.limit(limits).inspect_err(|_| {
            // A group that cannot be removed now is empty, and is removed with the next job.
            let _ = group.remove_now();
        })?;
        Ok(group)
    }

    /// Ends the remaining processes of a job whose daemon died.
    pub fn end(&self, name: &str) {
        let group = self.group(name);
        group.kill();
        // One that still has dying processes is removed with the next job.
        let _ = group.remove_now();
    }

    fn group(&self, name: &str) -> ControlGroup {
        let name = match name.starts_with(PREFIX) {
            true => name.to_owned(),
            false => format!("{PREFIX}{name}"),
        };
        ControlGroup {
            version: self.version,
            dirs: self.parents.iter().map(|dir| dir.join(&name)).collect(),
        }
    }

    /// Removes groups that daemons left behind: the kernel refuses for those that have processes.
    fn remove_empty(&self) {
        for parent in &self.parents {
            let entries = fs::read_dir(parent).into_iter().flatten().flatten();
            let ours = entries.filter(|it| {
                it.file_name()
                    .as_encoded_bytes()
                    .starts_with(PREFIX.as_bytes())
            });
            // A new group has no processes, either, until its first one joins.
            ours.filter(|group| is_old(&group.path()))
                .for_each(|group| {
                    let _ = fs::remove_dir(group.path());
                });
        }
    }
}

/// Returns whether a group is so old that its first process must have joined.
fn is_old(group: &Path) -> bool {
    let age = fs::metadata(group).and_then(|it| it.modified()).ok();
    let age = age.and_then(|made| made.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(3600))
}

fn first_version(mounts: &str, own: &str) -> Option<Hierarchy> {
    let (mut parents, mut points) = (Vec::new(), Vec::new());
    for controller in ["memory", "pids"] {
        let group = own.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            names
                .split(',')
                .any(|name| name == controller)
                .then_some(path)
        })?;
        let mount = mounts.lines().filter_map(mount).find(|mount| {
            mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller)
        })?;
        parents.push(within(&mount, group)?);
        points.push(PathBuf::from(mount.point));
    }
    Some(Hierarchy {
        version: Version::One,
        parents,
        mounts: points,
    })
}

fn second_version(mounts: &str, own: &str) -> Result<Hierarchy, String> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::"));
    let mount = mounts
        .lines()
        .filter_map(mount)
        .find(|it| it.kind == "cgroup2");
    let (Some(group), Some(mount)) = (group, mount) else {
        return Err("no control groups are mounted".to_owned());
    };
    let own = within(&mount, group).ok_or("our own control group is not mounted")?;
    let found = |parent: &Path| Hierarchy {
        version: Version::Two,
        parents: vec![parent.to_owned()],
        mounts: vec![mount.point.into()],
    };
    // After a restart, or with systemd's `DelegateSubgroup=`, we are in a group of our own already.
    if let Some(parent) = own.parent().filter(|_| group != "/")
        && enable(parent).is_ok()
    {
        return Ok(found(parent));
    }
    enable(&own)
        .or_else(|_| {
            move_into(&own.join(OWN))?;
            enable(&own)
        })
        .map_err(|error| format!("{} is not delegated to this daemon: {error}", own.display()))?;
    Ok(found(&own))
}

/// Enables limits for groups below `parent`.
fn enable(parent: &Path) -> io::Result<()> {
    fs::write(parent.join("cgroup.subtree_control"), "+memory +pids")
}

fn move_into(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    join(group)
}

/// Moves this process into a group.
pub(super) fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let mut back = back.split(' ');
    Some(Mount {
        root: front.next()?,
        point: front.next()?,
        kind: back.next()?,
        options: back.nth(1)?,
    })
}

/// Returns the directory of a group, given as in `/proc/self/cgroup`.
fn within(mount: &Mount<'_>, group: &str) -> Option<PathBuf> {
    let below = Path::new(group).strip_prefix(mount.root).ok()?;
    Some(Path::new(mount.point).join(below))
}

/// Control group of one job. Dropping it ends all processes in it.
#[derive(Debug)]
pub struct ControlGroup {
    version: Version,
    /// Directory of version 2; of version 1 one for each controller, memory first.
    dirs: Vec<PathBuf>,
}

impl ControlGroup {
    /// Directories of the groups that a process of the job joins.
    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        let write = |index: usize, file: &str, value: String| {
            let path = self.dirs.get(index).unwrap_or(&self.dirs[0]).join(file);
            fs::write(&path, value).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        write(1, "pids.max", limits.tasks.to_string())?;
        // A job over its limit is interrupted before the kernel kills it, so that its state is written.
        let memory = limits
            .memory
            .map(|bytes| (bytes / 4).saturating_mul(5).to_string());
        match (memory, self.version) {
            (None, _) => {}
            (Some(bytes), Version::One) => {
                write(0, "memory.limit_in_bytes", bytes.clone())?;
                // Not every kernel counts swap.
                let _ = write(0, "memory.memsw.limit_in_bytes", bytes);
            }
            (Some(bytes), Version::Two) => {
                write(0, "memory.max", bytes)?;
                let _ = write(0, "memory.swap.max", "0".to_owned());
            }
        }
        Ok(())
    }

    /// Memory of its processes in bytes, without the kernel's file cache. `None` if the kernel does not tell.
    pub fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(self.dirs[0].join("memory.stat")).ok()?;
        let names = match self.version {
            Version::One => ["total_rss ", "total_shmem "],
            Version::Two => ["anon ", "shmem "],
        };
        let value = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok())
        };
        Some(value(names[0])? + value(names[1]).unwrap_or(0))
    }

    /// Returns whether the kernel killed one of its processes because they used too much memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.dirs[0].join(file)).unwrap_or_default();
        let mut kills = text
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "));
        kills.any(|count| count != "0")
    }

    /// Kills every process in the group.
    pub fn kill(&self) {
        if self.version == Version::Two && fs::write(self.dirs[0].join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for _ in 0..KILL_ROUNDS {
            let members = self.members();
            if members.is_empty() {
                return;
            }
            for member in members {
                // It may be gone already.
                let _ = kill(member, Signal::SIGKILL);
            }
        }
    }

    fn members(&self) -> BTreeSet<Pid> {
        let texts = self
            .dirs
            .iter()
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        let texts: Vec<String> = texts.collect();
        let lines = texts.iter().flat_map(|text| text.lines());
        let ids = lines.filter_map(|line| line.parse().ok());
        ids.filter(|id| *id > 0).map(Pid::from_raw).collect()
    }

    /// Kills every process in the group, and removes it when they are gone.
    ///
    /// # Errors
    /// The I/O error of the last attempt.
    pub async fn end(&self) -> io::Result<()> {
        for _ in 1..REMOVAL.0 {
            self.kill();
            match self.remove_now() {
                Ok(()) => return Ok(()),
                Err(_) => tokio::time::sleep(REMOVAL.1).await,
            }
        }
        self.remove_now()
    }

    fn remove_now(&self) -> io::Result<()> {
        self.dirs
            .iter()
            .try_for_each(|dir| match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.kill();
        // One that still has dying processes is removed with a later job.
        let _ = self.remove_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 /docker/a /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn our_own_groups_of_the_first_version_are_found_in_a_container() {
        let own = "8:pids:/\n4:memory:/docker/a/b\n0::/\n";

        let found = first_version(MOUNTS, own).unwrap();

        let expected = ["/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/pids"];
        assert_eq!(found.parents, expected.map(PathBuf::from));
        assert_eq!(
            found.mounts,
            ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"].map(PathBuf::from)
        );
        assert_eq!(
            first_version(MOUNTS, "8:pids:/\n0::/\n"),
            None,
            "memory is not there"
        );
        assert_eq!(
            first_version(MOUNTS, "8:pids:/\n4:memory:/elsewhere\n"),
            None,
            "nor mounted"
        );
    }

    #[test]
    fn what_is_not_delegated_is_named() {
        let error = second_version(MOUNTS, "0::/no/such/group\n").unwrap_err();

        assert!(
            error.starts_with("/sys/fs/cgroup/unified/no/such/group is not delegated"),
            "{error}"
        );
        let error = second_version("", "0::/x\n").unwrap_err();
        assert_eq!(error, "no control groups are mounted");
    }

    #[test]
    fn memory_of_either_version_is_what_programs_have() {
        let dir = tempfile::tempdir().unwrap();
        let group = |version| ControlGroup {
            version,
            dirs: vec![dir.path().join("group")],
        };
        fs::create_dir(dir.path().join("group")).unwrap();
        let stat = dir.path().join("group/memory.stat");

        fs::write(
            &stat,
            "cache 1000\nrss 5\nshmem 7\ntotal_cache 1000\ntotal_rss 50\ntotal_shmem 7\n",
        )
        .unwrap();
        assert_eq!(group(Version::One).memory(), Some(57));
        fs::write(&stat, "anon 40\nfile 1000\nkernel 3\nshmem 2\n").unwrap();
        assert_eq!(group(Version::Two).memory(), Some(42));
    }
}
