//! Slots of a daemon: how many jobs run at the same time, and under which names.

use std::{fmt, str::FromStr};

/// Longest name that a server accepts, in bytes.
const MAX_NAME_BYTES: usize = 63;
/// Memory that each slot should have, in bytes: an engine with a few providers.
const SLOT_BYTES: u64 = 512 << 20;
/// Number of slots for each core: builds mostly wait for a cloud provider.
const SLOTS_PER_CORE: usize = 2;
/// Largest number of slots unless it is configured explicitly.
const MAX_AUTO: usize = 64;

/// Returns the name of a slot: the first one has the daemon's own, the others a suffix, and no two have the same.
///
/// A job belongs to the name under which it was taken, so a slot's name must be the same after a restart.
pub fn slot_name(name: &str, slot: usize) -> String {
    if slot == 0 {
        return name.to_owned();
    }
    let suffixed = |mark: char| {
        let suffix = format!("{mark}{}", slot + 1);
        let end = name.floor_char_boundary(MAX_NAME_BYTES.saturating_sub(suffix.len()));
        format!("{}{suffix}", name[..end].trim_end_matches('-'))
    };
    match suffixed('-') {
        taken if taken == name => suffixed('s'),
        free => free,
    }
}

/// Number of jobs that run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// As many as memory and cores allow.
    Auto,
    /// As many as configured.
    Fixed(u16),
}

impl Concurrency {
    /// Returns the number of slots for a memory budget in bytes and this many cores.
    pub fn slots(self, budget: u64, cores: usize) -> usize {
        match self {
            Self::Fixed(count) => usize::from(count).max(1),
            Self::Auto => {
                let by_memory = usize::try_from(budget / SLOT_BYTES).unwrap_or(MAX_AUTO);
                let by_cores = cores.saturating_mul(SLOTS_PER_CORE);
                by_memory.min(by_cores).clamp(1, MAX_AUTO)
            }
        }
    }
}

impl FromStr for Concurrency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(count @ 1..)) => Ok(Self::Fixed(count)),
            _ => Err(format!(
                "`{text}` is neither `auto` nor a number from 1 to 65535"
            )),
        }
    }
}

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(count) => count.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_first_slot_has_the_given_name_and_no_two_have_the_same() {
        let long = "x".repeat(61);
        for name in [
            "host",
            &"x".repeat(63),
            &format!("{long}-2"),
            &format!("{}-30", &long[1..]),
        ] {
            let names: BTreeSet<_> = (0..40).map(|slot| slot_name(name, slot)).collect();

            assert_eq!(slot_name(name, 0), name);
            assert_eq!(names.len(), 40, "{name}");
            assert!(names.iter().all(|name| name.len() <= MAX_NAME_BYTES));
        }
        assert_eq!(slot_name("host", 1), "host-2");
        assert_eq!(
            slot_name(&"x".repeat(63), 9),
            format!("{}-10", "x".repeat(60))
        );
    }

    #[test]
    fn automatic_concurrency_follows_memory_and_cores() {
        const GIB: u64 = 1 << 30;
        let auto = |budget, cores| Concurrency::Auto.slots(budget, cores);

        assert_eq!(auto(4 * GIB, 2), 4);
        assert_eq!(auto(GIB, 16), 2);
        assert_eq!(auto(GIB / 4, 1), 1);
        assert_eq!(auto(1 << 60, 500), 64);
        assert_eq!(Concurrency::Fixed(100).slots(GIB, 1), 100);
    }

    #[test]
    fn a_number_or_auto_is_understood() {
        assert_eq!("auto".parse(), Ok(Concurrency::Auto));
        assert_eq!("3".parse(), Ok(Concurrency::Fixed(3)));
        for wrong in ["0", "-1", "many", "70000"] {
            assert!(wrong.parse::<Concurrency>().unwrap_err().contains(wrong));
        }
    }
}
