//! The number of templates or scenarios that are worked on at a time.

use crate::{cli::output, process::memory};

/// Memory that one of them takes at its peak in bytes: an engine, its mocks and the built-in provider.
const PER_JOB: u64 = 300 << 20;

/// More than this many at a time gain nothing by default: each engine has threads of its own.
const MOST_BY_DEFAULT: usize = 4;

/// Returns how many run at a time: what was asked for, or else one for each core, and in no case more than fit into the memory
/// that is free.
pub(super) fn at_a_time(asked: Option<u16>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = asked.map_or(cores.min(MOST_BY_DEFAULT), usize::from);
    let fitting = within(wanted, memory::unused());
    if asked.is_some() && fitting < wanted {
        output::note(&format!(
            "Running {fitting} at a time instead of {wanted}: no more fit into the memory that is free."
        ));
    }
    fitting
}

fn within(wanted: usize, bytes: Option<u64>) -> usize {
    let fitting = bytes.map(|bytes| usize::try_from(bytes / PER_JOB).unwrap_or(usize::MAX));
    wanted.min(fitting.unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_run_as_fit_into_memory_and_one_in_any_case() {
        assert_eq!(within(4, Some(650 << 20)), 2);
        assert_eq!(within(4, Some(16 << 30)), 4);
        assert_eq!(within(4, Some(10 << 20)), 1);
        assert_eq!(within(4, None), 4);
    }
}
