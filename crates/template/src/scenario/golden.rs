//! The table of a build's resources, compared with a file.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use outpost_base::job::Persistence;

use super::{Facts, Failure, Run, columns::aligned};

const COLUMNS: [&str; 6] = [
    "Resource",
    "Class",
    "Persistence",
    "Change",
    "Agents",
    "Cost per day",
];

/// Compares the table of resources with its file, or rewrites that.
pub(super) fn compare(scenario: &Path, run: &Run, facts: &Facts, update: bool) -> Option<Failure> {
    let (name, place) = run.golden.as_ref()?;
    let failed = |text: String| Some(Failure::new(place.clone(), text));
    let path = match beside(scenario, name) {
        Ok(path) => path,
        Err(text) => return failed(text),
    };
    let found = table(facts);
    if update {
        let written = outpost_files::write_public(&path, found.as_bytes());
        return written
            .err()
            .and_then(|error| failed(format!("`{name}` cannot be written: {error}")));
    }
    let expected = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            return failed(format!(
                "`{name}` cannot be read: {error}; `--update` writes it"
            ));
        }
    };
    let details = difference(&expected, &found);
    (!details.is_empty()).then(|| Failure {
        details,
        ..Failure::new(
            place.clone(),
            format!("the resources differ from `{name}`; `--update` accepts them"),
        )
    })
}

/// Path of a table, which lies beside its scenario or below.
fn beside(scenario: &Path, name: &str) -> Result<PathBuf, String> {
    let is_plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(name).components().all(is_plain) || name.is_empty() {
        return Err(format!("`{name}` must lie beside the scenario or below"));
    }
    Ok(scenario.with_file_name(name))
}

/// The table: one line a resource, columns two blanks apart, `-` for nothing.
pub(super) fn table(facts: &Facts) -> String {
    let mut lines = vec![COLUMNS.map(str::to_owned).to_vec()];
    lines.extend(facts.rows().iter().map(|row| {
        let agents: Vec<_> = row
            .resource
            .agents
            .iter()
            .map(|agent| agent.name.as_str())
            .collect();
        let cost = match row.resource.daily_cost {
            0 => String::new(),
            cost => cost.to_string(),
        };
        vec![
            row.resource.address.clone(),
            row.resource.class().as_str().to_owned(),
            row.persistence.map_or("", Persistence::as_str).to_owned(),
            row.change.to_owned(),
            agents.join(", "),
            cost,
        ]
    }));
    aligned(&lines)
}

/// Lines that only one of both tables has: `-` for the expected one, `+` for what there is.
///
/// Blanks between columns do not count, as one long address moves every line.
pub(super) fn difference(expected: &str, found: &str) -> Vec<String> {
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join("  "))
            .collect()
    };
    let (expected, found) = (lines(expected), lines(found));
    let missing = expected
        .iter()
        .filter(|line| !found.contains(line))
        .map(|line| format!("- {line}"));
    let new = found
        .iter()
        .filter(|line| !expected.contains(line))
        .map(|line| format!("+ {line}"));
    missing.chain(new).collect()
}
