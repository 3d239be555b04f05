//! How much memory jobs needed so far, by the providers that their templates use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Classes that are remembered; beyond them the one that was seen least recently is forgotten.
const MAX_CLASSES: usize = 256;

/// Seconds after which a class that was not seen does not count any more: its template is gone.
const MAX_AGE: u64 = 30 * 24 * 60 * 60;

/// What was learned, by class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Peaks(BTreeMap<String, Peak>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Peak {
    bytes: u64,
    /// Seconds since 1970.
    seen: u64,
}

impl Peaks {
    /// What a job of `class` needs; `None` if nothing is known.
    pub(super) fn of(&self, class: &str) -> Option<u64> {
        self.0.get(class).map(|peak| peak.bytes)
    }

    /// What the largest class needs.
    pub(super) fn largest(&self) -> Option<u64> {
        self.0.values().map(|peak| peak.bytes).max()
    }

    /// Notes what a job had at most. More counts at once, less only little by little, and only if the job ran to
    /// its end.
    pub(super) fn learn(&mut self, class: &str, bytes: u64, has_completed: bool, now: u64) {
        let bytes = match self.of(class) {
            Some(before) if bytes < before && !has_completed => before,
            Some(before) if bytes < before => before - (before - bytes) / 8,
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
        assert_eq!(peaks.of("a"), Some(1500));
    }

    #[test]
    fn what_is_not_seen_for_a_month_is_forgotten_and_so_is_what_is_too_much() {
        let mut peaks = Peaks::default();
        peaks.learn("gone", 5000, true, 0);

        for number in 0..300 {
            peaks.learn(&number.to_string(), 1, true, MAX_AGE + 1 + number);
        }

        assert_eq!((peaks.largest(), peaks.0.len()), (Some(1), MAX_CLASSES));
        assert_eq!((peaks.of("299"), peaks.of("0")), (Some(1), None));
    }

    #[test]
    fn it_survives_a_restart() {
        let mut peaks = Peaks::default();
        peaks.learn("a", 1, true, 2);

        let text = serde_json::to_string(&peaks).unwrap();

        assert_eq!(text, r#"{"a":{"bytes":1,"seen":2}}"#);
        assert_eq!(serde_json::from_str::<Peaks>(&text).unwrap(), peaks);
    }
}
