//! Memory of the machine, and of a job's processes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};

use super::tree::{self, Entry};

/// Time for which one look at all processes is recent enough for every caller.
const FRESH: Duration = Duration::from_millis(200);

/// Returns the bytes that our processes may use: the machine's memory, or less if our control group is limited.
///
/// `None` where the kernel does not say.
pub fn available() -> Option<u64> {
    available_in(Path::new("/"))
}

fn available_in(root: &Path) -> Option<u64> {
    let total = of_machine(root, "MemTotal:");
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits(root, line));
    limits.chain(total).min()
}

/// Returns the bytes that our processes may still take: what the machine has left, or less if our control group has less left.
///
/// `None` where the kernel does not say.
pub fn unused() -> Option<u64> {
    unused_in(Path::new("/"))
}

fn unused_in(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let left = groups.lines().flat_map(|line| left(root, line));
    left.chain(of_machine(root, "MemAvailable:")).min()
}

/// Returns what is left below each limit of one line of `/proc/self/cgroup`. Pages of files that nobody uses are as good as free.
fn left(root: &Path, line: &str) -> Vec<u64> {
    let left = |limited: Limited| {
        let text = fs::read_to_string(limited.group.join("memory.stat")).unwrap_or_default();
        let pages = text.lines().find_map(|line| {
            let line = line.strip_prefix("total_").unwrap_or(line);
            line.strip_prefix("inactive_file ")?.trim().parse().ok()
        });
        let used = number_in(&limited.group.join(limited.kind.used))?;
        let used = used.saturating_sub(pages.unwrap_or(0));
        Some(limited.bytes.saturating_sub(used))
    };
    limited(root, line).into_iter().filter_map(left).collect()
}

/// Returns the limits of one line of `/proc/self/cgroup`, such as `0::/a/b` or `4:memory:/a`, and of all groups
/// around it.
fn limits(root: &Path, line: &str) -> Vec<u64> {
    let limited = limited(root, line).into_iter();
    limited.map(|limited| limited.bytes).collect()
}

/// A control group with a limit.
struct Limited {
    group: PathBuf,
    kind: &'static Kind,
    bytes: u64,
}

/// Files of a kind of control groups.
struct Kind {
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
}

const SECOND: Kind = Kind {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
};

const FIRST: Kind = Kind {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
};

fn limited(root: &Path, line: &str) -> Vec<Limited> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let kind = match controllers {
        "" => &SECOND,
        _ if controllers.split(',').any(|it| it == "memory") => &FIRST,
        _ => return Vec::new(),
    };
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    let limited = |group: &Path| {
        let group = root.join(kind.mount).join(group);
        let bytes = number_in(&group.join(kind.limit))?; // `max` is no limit.
        Some(Limited { group, kind, bytes })
    };
    groups.filter_map(limited).collect()
}

fn number_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Returns a number of `/proc/meminfo` in bytes.
fn of_machine(root: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib: u64 = line?.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// All processes, and when they were listed.
struct Processes {
    looked_at: Instant,
    table: Vec<Entry>,
}

static PROCESSES: Mutex<Option<Processes>> = Mutex::new(None);

/// Returns the resident bytes of a job: of the group that `leader` leads, and of all its descendants, whatever groups
/// they created for themselves. Shared pages count for each process.
#[expect(
    clippy::disallowed_methods,
    reason = "shared by threads with and without a runtime"
)]
pub(super) fn of_job(leader: i32) -> u64 {
    let mut processes = PROCESSES.lock().expect("no code panics while it counts");
    let now = Instant::now();
    let fresh = processes.take().filter(|it| now - it.looked_at < FRESH);
    let fresh = fresh.unwrap_or_else(|| Processes {
        looked_at: now,
        table: tree::table(),
    });
    let bytes = pages_of_job(leader, &fresh.table) * page_bytes();
    *processes = Some(fresh);
    bytes
}

fn pages_of_job(leader: i32, table: &[Entry]) -> u64 {
    let descendants = tree::descendants(leader, table);
    let counts =
        |it: &&Entry| it.group == leader || it.id == leader || descendants.contains(&it.id);
    table.iter().filter(counts).map(|it| it.pages).sum()
}

fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().map_or(4096, |size| size.unsigned_abs())
}

/// Returns the peak bytes of the largest child that was waited for so far.
pub(super) fn largest_child() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
    usage.map_or(0, |usage| usage.max_rss().unsigned_abs() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_smallest_limit_around_us_counts() {
        let root = root(&[
            (
                "proc/meminfo",
                "MemTotal:        8000000 kB\nMemFree: 1 kB\n",
            ),
            ("proc/self/cgroup", "0::/pod/container\n"),
            ("sys/fs/cgroup/pod/memory.max", "2000000\n"),
            ("sys/fs/cgroup/pod/container/memory.max", "max\n"),
        ]);

        assert_eq!(available_in(root.path()), Some(2_000_000));
    }

    #[test]
    fn what_is_left_is_what_the_fullest_group_has_left() {
        let root = root(&[
            (
                "proc/meminfo",
                "MemTotal:        8000000 kB\nMemAvailable:    3000000 kB\n",
            ),
            ("proc/self/cgroup", "0::/pod/container\n"),
        ]);
        assert_eq!(unused_in(root.path()), Some(3_000_000 * 1024));

        let write = |name: &str, text: &str| {
            let path = root.path().join("sys/fs/cgroup/pod").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("memory.max", "2000000\n");
        write("memory.current", "1500000\n");
        write("memory.stat", "anon 1000\ninactive_file 400000\n");
        write("container/memory.max", "max\n");
        write("container/memory.current", "1\n");
        assert_eq!(unused_in(root.path()), Some(900_000));

        write("memory.current", "9000000\n");
        assert_eq!(unused_in(root.path()), Some(0));
    }

    #[test]
    fn a_limit_of_the_first_kind_of_control_groups_counts_too() {
        let root = root(&[
            ("proc/meminfo", "MemTotal: 1000 kB\n"),
            ("proc/self/cgroup", "5:cpu:/x\n4:memory,other:/x\n"),
            (
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        assert_eq!(available_in(root.path()), Some(1_024_000));

        fs::write(
            root.path()
                .join("sys/fs/cgroup/memory/memory.limit_in_bytes"),
            "5000",
        )
        .unwrap();
        assert_eq!(available_in(root.path()), Some(5000));
    }

    #[test]
    fn who_leaves_the_group_counts_and_a_stranger_does_not() {
        let entry = |id, parent, group, pages| Entry {
            id,
            parent,
            group,
            pages,
        };
        let table = [
            entry(10, 1, 10, 1),
            entry(11, 10, 10, 2),
            entry(12, 11, 12, 4),
            entry(13, 1, 10, 8),
            entry(20, 1, 20, 16),
        ];

        assert_eq!(pages_of_job(10, &table), 15);
    }

    #[test]
    fn our_own_group_has_something() {
        let group = nix::unistd::getpgrp().as_raw();

        assert!(of_job(group) > 1 << 20);
    }
}
