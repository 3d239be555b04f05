//! Metrics of a process that Prometheus's own libraries report on Linux, under their names.

use std::fs;

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};

use super::Text;

/// Adds the metrics that can be read; on other systems than Linux there are none.
pub(super) fn add(text: &mut Text) {
    let Some(stat) = Stat::read() else { return };
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096) as f64;
    text.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        (stat.user_ticks + stat.system_ticks) / per_second,
    );
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        text.gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            soft as f64,
        );
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The open directory itself is one of the descriptors.
        let count = open.count().saturating_sub(1);
        text.gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            count as f64,
        );
    }
    text.gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        stat.resident_pages * page_bytes,
    );
    if let Some(boot) = boot_time() {
        text.gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            boot + stat.start_ticks / per_second,
        );
    }
    text.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        stat.virtual_bytes,
    );
}

/// Fields of `/proc/self/stat` that are used.
#[derive(Debug)]
struct Stat {
    user_ticks: f64,
    system_ticks: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// Parses the fields behind the name, which is in brackets and may contain anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, behind) = text.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        // proc(5) counts from 1, and the first one here is its third.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Boot time in seconds since the epoch.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_with_brackets() {
        let text =
            "7 (a) b) S 1 7 7 0 -1 0 1 2 3 4 50 60 7 8 20 0 4 0 900 1000 110 18446744073709551615";

        let stat = Stat::parse(text).unwrap();

        assert_eq!((stat.user_ticks, stat.system_ticks), (50.0, 60.0));
        assert_eq!(stat.start_ticks, 900.0);
        assert_eq!((stat.virtual_bytes, stat.resident_pages), (1000.0, 110.0));
    }
}
