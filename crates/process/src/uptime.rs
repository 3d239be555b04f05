//! Time since the machine was booted: a clock that nobody sets, and that goes on while the machine sleeps.

use std::{fs, time::Duration};

/// A moment on the clock of one boot of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uptime {
    /// Id of the boot; empty if the system does not tell.
    pub boot: String,
    /// Time since the boot, in milliseconds.
    pub at: Duration,
}

impl Uptime {
    /// Returns the moment of the call.
    ///
    /// # Source
    /// Linux `proc_uptime(5)`, `random/boot_id` in `proc(5)`.
    pub fn now() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split(' ').next().and_then(|it| it.parse().ok());
        let at = Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default();
        Self {
            boot: boot.unwrap_or_default().trim().to_owned(),
            at: Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or_default()),
        }
    }

    /// Returns the time since `earlier`; `None` if that is not a moment of the same boot.
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        let is_same = !self.boot.is_empty() && self.boot == earlier.boot;
        is_same.then(|| self.at.checked_sub(earlier.at)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_moments_of_other_starts_cannot_be_compared() {
        let first = Uptime::now();
        let second = Uptime::now();
        assert!(second.since(&first).is_some(), "{first:?} {second:?}");

        let of = |boot: &str, seconds| Uptime {
            boot: boot.to_owned(),
            at: Duration::from_secs(seconds),
        };
        assert_eq!(of("a", 9).since(&of("a", 2)), Some(Duration::from_secs(7)));
        assert_eq!(of("a", 9).since(&of("b", 2)), None);
        assert_eq!(of("a", 1).since(&of("a", 2)), None);
        assert_eq!(of("", 9).since(&of("", 2)), None);
    }
}
