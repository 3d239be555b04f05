//! Sessions that an agent has open, counted by the app at their other end. Pure.
//!
//! # Source
//! coder PRs 28125 and 28338: normalization of names, the cap of a report, and the handling of what exceeds it.

use std::collections::BTreeMap;

/// Number of apps that are kept of one report, [`UNKNOWN`] included.
const MAX_APPS: usize = 64;
/// Longest name of an app, in characters.
const MAX_NAME: usize = 64;
/// Apps that are kept in preference to busier ones.
const KNOWN: [&str; 10] = [
    "vscode",
    "vscode_insiders",
    "vscodium",
    "cursor",
    "windsurf",
    "devin",
    "positron",
    "jetbrains",
    "reconnecting_pty",
    "ssh",
];
/// Name under which everything over the limit is counted.
const UNKNOWN: &str = "unknown";

/// Open sessions by app, each count positive. The fixed counters of older agents matter only if `counts` yields nothing.
pub(crate) fn by_app<'a>(
    counts: impl IntoIterator<Item = (&'a str, i64)>,
    fixed: [(&'a str, i64); 4],
) -> BTreeMap<String, i64> {
    let mut merged = merge(counts);
    if merged.is_empty() {
        merged = merge(fixed);
    }
    if merged.len() <= MAX_APPS {
        return merged;
    }
    let mut ranked: Vec<_> = merged.into_iter().collect();
    // Names are sorted already, and a stable sort keeps that order among equals.
    ranked.sort_by_key(|(name, count)| (!KNOWN.contains(&name.as_str()), -count));
    let rest: i64 = ranked
        .drain(MAX_APPS - 1..)
        .fold(0, |sum, (_, count)| sum.saturating_add(count));
    let mut kept: BTreeMap<_, _> = ranked.into_iter().collect();
    add(&mut kept, UNKNOWN.to_owned(), rest);
    kept
}

fn merge<'a>(counts: impl IntoIterator<Item = (&'a str, i64)>) -> BTreeMap<String, i64> {
    let mut merged = BTreeMap::new();
    for (name, count) in counts {
        // A count below zero must not hide sessions of another spelling of the name.
        if let (Some(name), 1..) = (normalized(name), count) {
            add(&mut merged, name, count);
        }
    }
    merged
}

fn add(counts: &mut BTreeMap<String, i64>, name: String, count: i64) {
    let sum = counts.entry(name).or_default();
    *sum = sum.saturating_add(count);
}

/// Name under which an app is counted; `None` if nothing of it is left.
pub fn normalized(name: &str) -> Option<String> {
    let visible: String = name.chars().filter(|c| !c.is_control()).collect();
    let alike = visible.trim().to_lowercase().replace('-', "_");
    let short: String = alike.chars().take(MAX_NAME).collect();
    let name = short.trim_end();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [(&str, i64); 4] = [("vscode", 0), ("jetbrains", 0), ("ssh", 0), ("pty", 0)];

    #[test]
    fn spellings_of_a_name_are_counted_together_and_nonsense_is_not() {
        let counts = [
            ("VSCode-Insiders", 1),
            ("vscode_insiders\u{7}", 2),
            (" zed ", 1),
            ("\t", 9),
            ("zed", -5),
            ("ssh", 0),
        ];

        let sessions = by_app(counts, NONE);

        assert_eq!(
            sessions,
            BTreeMap::from([("vscode_insiders".to_owned(), 3), ("zed".to_owned(), 1)])
        );
    }

    #[test]
    fn the_fixed_counters_count_only_where_the_map_yields_nothing() {
        let fixed = [("vscode", 2), ("jetbrains", 0), ("ssh", 1), ("pty", 0)];

        assert_eq!(by_app([("ssh", -1), ("", 3)], fixed)["vscode"], 2);
        assert_eq!(
            by_app([("cursor", 1)], fixed)
                .into_keys()
                .collect::<Vec<_>>(),
            ["cursor"]
        );
    }

    #[test]
    fn of_too_many_apps_known_and_busy_ones_stay_and_no_session_is_lost() {
        let names: Vec<String> = (0..200).map(|n| format!("app{n:03}")).collect();
        let many = names
            .iter()
            .zip(1..)
            .map(|(name, count)| (name.as_str(), count));

        let sessions = by_app(many.chain([("ssh", 1)]), NONE);

        assert_eq!(sessions.len(), MAX_APPS);
        assert_eq!(sessions.values().sum::<i64>(), 200 * 201 / 2 + 1);
        assert!(sessions.contains_key("ssh") && sessions.contains_key("app199"));
        assert!(!sessions.contains_key("app000"));
    }

    #[test]
    fn counts_that_overflow_are_as_large_as_can_be() {
        let sessions = by_app([("a", i64::MAX), ("A", i64::MAX)], NONE);

        assert_eq!(sessions["a"], i64::MAX);
    }

    #[test]
    fn a_long_name_is_cut_and_loses_the_blanks_at_its_end() {
        let name = format!("{}     tail", "a".repeat(60));

        assert_eq!(normalized(&name).unwrap(), "a".repeat(60));
    }
}
