//! How much memory there is, and how much a group of processes has.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};

/// Time for which one look at all processes is good enough for everybody who asks.
const FRESH: Duration = Duration::from_millis(200);

/// Bytes that our processes may have: what the machine has, or less if our control group is limited.
///
/// `None` where the kernel does not say.
pub fn available() -> Option<u64> {
    available_in(Path::new("/"))
}

fn available_in(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok();
    let total = info.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: u64 = line?.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024)
    });
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits(root, line));
    limits.chain(total).min()
}

/// The limits of one line of `/proc/self/cgroup`, such as `0::/a/b` or `4:memory:/a`, and of all groups around it.
fn limits(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|it| it == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    let limit = |group: &Path| {
        let text = fs::read_to_string(root.join(mount).join(group).join(file)).ok()?;
        text.trim().parse().ok() // `max` is no limit.
    };
    groups.filter_map(limit).collect()
}

/// Bytes that each process group has resident, by its leader's id. Pages that processes share count for each.
struct Groups {
    looked_at: Instant,
    bytes: HashMap<i32, u64>,
}

static GROUPS: Mutex<Option<Groups>> = Mutex::new(None);

/// Bytes that the processes of a group have resident.
pub(super) fn of_group(leader: i32) -> u64 {
    let mut groups = GROUPS.lock().expect("no code panics while it counts");
    let now = Instant::now();
    let fresh = groups.take().filter(|it| now - it.looked_at < FRESH);
    let fresh = fresh.unwrap_or_else(|| Groups {
        looked_at: now,
        bytes: count(),
    });
    let bytes = fresh.bytes.get(&leader).copied().unwrap_or(0);
    *groups = Some(fresh);
    bytes
}

/// A process may end at any time, so one that cannot be read is none.
fn count() -> HashMap<i32, u64> {
    let mut bytes = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let is_process = entry.file_name().as_encoded_bytes()[0].is_ascii_digit();
        let stat = is_process.then(|| fs::read_to_string(entry.path().join("stat")));
        if let Some(Ok(stat)) = stat
            && let Some((group, pages)) = group_and_pages(&stat)
        {
            *bytes.entry(group).or_default() += pages * page_bytes();
        }
    }
    bytes
}

/// The process group and the resident pages in `/proc/<id>/stat`. The name in it may have spaces and parentheses.
fn group_and_pages(stat: &str) -> Option<(i32, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    let pages = fields.nth(18)?.parse().ok()?;
    Some((group, pages))
}

fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().map_or(4096, |size| size.unsigned_abs())
}

/// Bytes that the largest of all children had that were waited for so far.
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
    fn a_process_with_a_strange_name_is_counted() {
        let stat = "7 (a) b) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 25 18446744073709551615 1";

        assert_eq!(group_and_pages(stat), Some((42, 25)));
    }

    #[test]
    fn our_own_group_has_something() {
        let group = nix::unistd::getpgrp().as_raw();

        assert!(of_group(group) > 1 << 20);
    }
}
