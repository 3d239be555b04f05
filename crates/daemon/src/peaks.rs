//! Memory that jobs have needed so far, by the version of their template.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Number of classes that are remembered; beyond them the one that was seen least recently is forgotten.
const MAX_CLASSES: usize = 256;

/// Seconds after which a class that was not seen no longer counts.
const MAX_AGE: u64 = 7 * 24 * 60 * 60;

/// Seconds after which half of a class's need counts for the need of an unknown job, and so on: one job that took all
/// memory must not keep others waiting for long.
const HALF_LIFE: u64 = 60 * 60;

/// Separator between a template's providers and its version in the name of a class.
const VERSION: char = '#';

/// Learned needs, by class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Peaks(BTreeMap<String, Peak>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Peak {
    bytes: u64,
    /// Time when it was last seen, in seconds since 1970.
    seen: u64,
}

/// Returns the name of the class of one version of a template, which uses `providers`.
pub(super) fn class(providers: &str, version: &str) -> String {
    format!("{providers}{VERSION}{version}")
}

impl Peaks {
    /// Returns the need of a job of `class`: that of the version, else the median of those with the same providers.
    /// `None` if nothing is known.
    pub(super) fn of(&self, class: &str) -> Option<u64> {
        if let Some(peak) = self.0.get(class) {
            return Some(peak.bytes);
        }
        let (providers, _) = class.split_once(VERSION)?;
        let alike = self.0.iter().filter(|(class, _)| {
            let theirs = class.split_once(VERSION);
            theirs.is_some_and(|(theirs, _)| theirs == providers)
        });
        let mut alike: Vec<u64> = alike.map(|(_, peak)| peak.bytes).collect();
        alike.sort_unstable();
        alike.get(alike.len().checked_sub(1)? / 2).copied()
    }

    /// Returns the most that any job may need, as far as that is known `now`.
    pub(super) fn largest(&self, now: u64) -> Option<u64> {
        let counted = |peak: &Peak| {
            let halves = now.saturating_sub(peak.seen) / HALF_LIFE;
            peak.bytes
                .checked_shr(u32::try_from(halves).unwrap_or(u32::MAX))
        };
        self.0.values().filter_map(counted).max()
    }

    /// Records the peak memory of a job. A higher peak counts at once, a lower one only gradually, and only if the
    /// job ran to its end.
    pub(super) fn learn(&mut self, class: &str, bytes: u64, has_completed: bool, now: u64) {
        let before = self.0.get(class).map(|peak| peak.bytes);
        let bytes = match before {
            Some(before) if bytes < before && !has_completed => before,
            Some(before) if bytes < before => before - (before - bytes) / 4,
            _ => bytes,
        };
        self.0.insert(class.to_owned(), Peak { bytes, seen: now });
        self.0
            .retain(|_, peak| now.saturating_sub(peak.seen) <= MAX_AGE);
        while self.0.len() > MAX_CLASSES {
            let oldest = self.0.iter().min_by_key(|(_, peak)| peak.seen);
            let Some(class) = oldest.map(|(class, _)| class.clone()) else {
                break;
            };
            self.0.remove(&class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_counts_at_once_and_less_little_by_little() {
        let mut peaks = Peaks::default();

        peaks.learn("a", 800, true, 0);
        peaks.learn("a", 1600, false, 0);
        assert_eq!(peaks.of("a"), Some(1600));

        peaks.learn("a", 800, false, 0);
        assert_eq!(
            peaks.of("a"),
            Some(1600),
            "a job that failed early says nothing"
        );
        peaks.learn("a", 800, true, 0);
        assert_eq!(peaks.of("a"), Some(1400));
    }

    #[test]
    fn what_is_not_seen_for_a_week_is_forgotten_and_so_is_what_is_too_much() {
        let mut peaks = Peaks::default();
        peaks.learn("gone", 5000, true, 0);

        for number in 0..300 {
            peaks.learn(&number.to_string(), 1, true, MAX_AGE + 1 + number);
        }

        assert_eq!((peaks.of("gone"), peaks.0.len()), (None, MAX_CLASSES));
        assert_eq!((peaks.of("0"), peaks.of("299")), (None, Some(1)));
    }

    #[test]
    fn one_that_took_everything_counts_for_others_for_hours_and_for_itself_longer() {
        let mut peaks = Peaks::default();
        peaks.learn("x#bomb", 8000, false, 0);
        peaks.learn("x#small", 50, true, 0);

        let largest = |hours: u64| peaks.largest(hours * HALF_LIFE);
        assert_eq!((largest(0), largest(1)), (Some(8000), Some(4000)));
        assert_eq!((largest(10), largest(100)), (Some(7), None));
        assert_eq!(peaks.of("x#bomb"), Some(8000));
    }

    #[test]
    fn a_new_version_needs_what_others_with_its_providers_do_and_a_rare_one_does_not_count() {
        let mut peaks = Peaks::default();
        for (class, bytes) in [("x#1", 40), ("x#2", 50), ("x#bomb", 8000), ("y#1", 900)] {
            peaks.learn(class, bytes, true, 0);
        }

        assert_eq!(peaks.of("x#3"), Some(50));
        assert_eq!(peaks.of("z#1"), None);
    }
}
