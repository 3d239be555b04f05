//! Processes as `/proc` lists them, with their ancestry.

use std::{collections::HashSet, fs};

use nix::{
    sys::signal::{Signal, kill as send, killpg},
    unistd::Pid,
};

/// Rounds of SIGKILL: a process may fork during one.
const KILL_ROUNDS: usize = 16;

/// A process in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: i32,
    pub(super) parent: i32,
    /// Id of its process group.
    pub(super) group: i32,
    /// Number of its resident pages.
    pub(super) pages: u64,
}

/// Returns all visible processes. One may end at any time, so one that cannot be read is skipped.
pub(super) fn table() -> Vec<Entry> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = entries.filter_map(|entry| {
        let is_process = entry.file_name().as_encoded_bytes()[0].is_ascii_digit();
        is_process
            .then(|| fs::read_to_string(entry.path().join("stat")).ok())
            .flatten()
    });
    stats.filter_map(|stat| entry(&stat)).collect()
}

/// Parses one line of `/proc/<id>/stat`. The name in it may have spaces and parentheses. A zombie counts as gone.
fn entry(stat: &str) -> Option<Entry> {
    let id = stat.split(' ').next()?.parse().ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let pages = fields.nth(18)?.parse().ok()?;
    (state != "Z").then_some(Entry {
        id,
        parent,
        group,
        pages,
    })
}

/// Returns the ids of the descendants of `ancestor`.
pub(super) fn descendants(ancestor: i32, table: &[Entry]) -> HashSet<i32> {
    let mut found = HashSet::new();
    loop {
        let before = found.len();
        let is_one = |it: &&Entry| it.parent == ancestor || found.contains(&it.parent);
        let next: Vec<i32> = table.iter().filter(is_one).map(|it| it.id).collect();
        found.extend(next);
        if found.len() == before {
            return found;
        }
    }
}

/// Kills the group that `leader` leads and all its descendants. A process that adopts orphans is killed last, so that
/// none can escape from it.
pub(super) fn kill(leader: Pid) {
    kill_descendants(leader);
    // It may be gone already.
    let _ = killpg(leader, Signal::SIGKILL);
}

/// Kills all descendants of `ancestor`. Returns whether none was left at the end.
pub(super) fn kill_descendants(ancestor: Pid) -> bool {
    for _ in 0..KILL_ROUNDS {
        let found = descendants(ancestor.as_raw(), &table());
        if found.is_empty() {
            return true;
        }
        for id in found {
            let _ = send(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read_and_a_zombie_is_none() {
        let stat = |state| {
            format!(
                "7 (a) b) {state} 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 25 18446744073709551615 1"
            )
        };

        let expected = Entry {
            id: 7,
            parent: 1,
            group: 42,
            pages: 25,
        };
        assert_eq!(entry(&stat("S")), Some(expected));
        assert_eq!(entry(&stat("Z")), None);
    }
}
