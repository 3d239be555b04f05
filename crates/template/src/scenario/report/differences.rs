//! Differences between engines that played the same scenarios.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    super::{Outcome, Played, PlayedRun, columns::aligned},
    title_of_file,
};

/// A run that ended in different ways, or a resource with which different things happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The scenario's file with its directory.
    pub scenario: String,
    /// Name of the run.
    pub run: String,
    /// Address of a resource; empty for the end of the run.
    pub resource: String,
    /// Results by variant; empty where there is none.
    pub results: BTreeMap<String, String>,
}

/// Results of one run by each variant, with the variants' names.
type Variants<'a> = Vec<(&'a str, &'a PlayedRun)>;

/// Finds what differs between variants of the same scenario.
pub fn differences(played: &[Played]) -> Vec<Difference> {
    let mut runs: BTreeMap<(String, usize, &str), Variants<'_>> = BTreeMap::new();
    for scenario in played {
        for (index, run) in scenario.runs.iter().enumerate() {
            let key = (title_of_file(scenario), index, run.name.as_str());
            let variants = runs.entry(key).or_default();
            variants.push((scenario.variant.as_str(), run));
        }
    }
    let mut found = Vec::new();
    for ((scenario, _, run), variants) in runs {
        let ends = variants
            .iter()
            .map(|(variant, run)| ((*variant).to_owned(), end(run).to_owned()));
        let mut rows = vec![(String::new(), ends.collect())];
        // A run that failed tells nothing of resources.
        let built: Vec<_> = variants
            .iter()
            .filter(|(_, run)| !run.resources.is_empty())
            .collect();
        let all = built.iter().flat_map(|(_, run)| run.resources.keys());
        for address in all.collect::<BTreeSet<_>>() {
            let of = |run: &PlayedRun| run.resources.get(address).cloned().unwrap_or_default();
            let results = built
                .iter()
                .map(|(variant, run)| ((*variant).to_owned(), of(run)));
            rows.push((address.clone(), results.collect()));
        }
        let differing = rows
            .into_iter()
            .filter(|(_, results)| is_different(results));
        found.extend(differing.map(|(resource, results)| Difference {
            scenario: scenario.clone(),
            run: run.to_owned(),
            resource,
            results,
        }));
    }
    found
}

fn is_different(results: &BTreeMap<String, String>) -> bool {
    results.values().collect::<BTreeSet<_>>().len() > 1
}

fn end(run: &PlayedRun) -> &'static str {
    match run.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::Invalid => "wrong",
        Outcome::Unable => "could not run",
        Outcome::Skipped => "skipped",
    }
}

/// A table with a column for each variant; empty if there is only one.
pub(super) fn table(played: &[Played]) -> Option<String> {
    let variants: Vec<&str> = played.iter().map(|it| it.variant.as_str()).collect();
    let variants: BTreeSet<&str> = variants.into_iter().filter(|it| !it.is_empty()).collect();
    if variants.len() < 2 {
        return None;
    }
    let found = differences(played);
    if found.is_empty() {
        let names: Vec<_> = variants.into_iter().collect();
        return Some(format!("no differences between {}", names.join(", ")));
    }
    let head = ["Run", "Resource"]
        .into_iter()
        .chain(variants.iter().copied());
    let mut rows = vec![head.map(str::to_owned).collect()];
    for difference in found {
        let run = format!("{}/{}", difference.scenario, difference.run);
        let results = variants.iter().map(|variant| {
            let result = difference.results.get(*variant);
            result.cloned().unwrap_or_default()
        });
        rows.push(
            [run, difference.resource]
                .into_iter()
                .chain(results)
                .collect(),
        );
    }
    Some(format!("differences:\n{}", aligned(&rows).trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(variant: &str, outcome: Outcome, home: &str) -> Played {
        let resources = [("home", home), ("vm", "create")];
        Played {
            file: "a.coder.hcl".to_owned(),
            directory: ".".to_owned(),
            variant: variant.to_owned(),
            runs: vec![PlayedRun {
                name: "start".to_owned(),
                outcome,
                seconds: 0.0,
                failures: Vec::new(),
                resources: resources
                    .map(|(address, change)| (address.to_owned(), change.to_owned()))
                    .into(),
            }],
            ..Played::default()
        }
    }

    #[test]
    fn only_what_differs_is_in_the_table() {
        let same = [
            played("terraform 1.5.7", Outcome::Passed, "no-op"),
            played("tofu 1.10.0", Outcome::Passed, "no-op"),
        ];
        assert_eq!(
            table(&same).unwrap(),
            "no differences between terraform 1.5.7, tofu 1.10.0"
        );
        assert_eq!(table(&same[..1]), None);

        let other = [
            same[0].clone(),
            played("tofu 1.10.0", Outcome::Failed, "replace"),
        ];

        let expected = "differences:\n\
            Run                Resource  terraform 1.5.7  tofu 1.10.0\n\
            a.coder.hcl/start  -         passed           failed\n\
            a.coder.hcl/start  home      no-op            replace";
        assert_eq!(table(&other).unwrap(), expected);
    }
}
