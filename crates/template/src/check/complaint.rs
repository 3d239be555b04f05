//! Places for an engine's complaints, without those that a rule says better.

use hcl_edit::Span;

use super::{
    finding::{Finding, Severity},
    place::Place,
    planned::Problem,
    source::{File, Sources},
};

/// The line that a complaint names, or the block that it is about; the first block of the template if it names nothing.
pub(super) fn place(sources: &Sources, problem: &Problem) -> (Place, String) {
    if let Some((name, line)) = &problem.place {
        // Fetched modules lie below the session's own directory.
        let short = name
            .rsplit_once(".terraform/modules/")
            .map_or(name.as_str(), |(_, rest)| rest);
        for module in &sources.modules {
            for file in &module.files {
                let is_it = match module.fetched.as_str() {
                    "" => file.name == *name,
                    _ => {
                        short != name
                            && short
                                .split_once('/')
                                .is_some_and(|(_, rest)| rest == file.name)
                    }
                };
                if is_it {
                    return (file.line_place(*line), module.fetched.clone());
                }
            }
        }
    }
    let named = sources.modules.iter().find_map(|module| {
        let place = module
            .files
            .iter()
            .find_map(|file| mentioned(file, problem))?;
        Some((place, module.fetched.clone()))
    });
    named.or_else(|| first(sources)).unwrap_or_else(|| {
        let place = Place {
            file: "main.tf".to_owned(),
            line: 1,
            column: 1,
            end_line: 1,
            end_column: 1,
        };
        (place, String::new())
    })
}

/// The block whose address the complaint mentions.
fn mentioned(file: &File, problem: &Problem) -> Option<Place> {
    let text = format!("{} {}", problem.summary, problem.detail);
    let block = file.body().blocks().find(|block| {
        let labels: Vec<_> = block.labels.iter().map(|label| label.as_str()).collect();
        labels.len() == 2 && text.contains(&labels.join("."))
    })?;
    Some(file.header(block))
}

fn first(sources: &Sources) -> Option<(Place, String)> {
    let file = sources.modules.first()?.files.first()?;
    let place = file.body().blocks().next().map(|block| file.header(block));
    Some((place.unwrap_or_else(|| file.line_place(1)), String::new()))
}

/// Tells whether a rule has found an error in the same block.
pub(super) fn is_known(
    sources: &Sources,
    found: &[Finding],
    problem: &Problem,
    place: &Place,
) -> bool {
    let mut errors = found.iter().filter(|it| it.severity == Severity::Error);
    if problem.place.is_none() {
        // What the server refuses has rules of its own, which know the place.
        return problem.is_of_server && errors.next().is_some();
    }
    let lines = block_around(sources, place).unwrap_or(place.line..=place.end_line);
    errors.any(|it| it.place.file == place.file && lines.contains(&it.place.line))
}

/// Lines of the block at the top of a file around a place.
fn block_around(sources: &Sources, place: &Place) -> Option<std::ops::RangeInclusive<usize>> {
    let mut files = sources.modules.iter().flat_map(|module| &module.files);
    let file = files.find(|file| file.name == place.file)?;
    file.body().blocks().find_map(|block| {
        let around = file.place(&block.span()?);
        let lines = around.line..=around.end_line;
        lines.contains(&place.line).then_some(lines)
    })
}
