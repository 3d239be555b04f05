//! Values of a scenario for mocked providers, compared with the providers' schemas.

use serde_json::json;

use super::{Given, Mock, Problem, Scenario};
use crate::{
    mock::{Attribute, Block, Doubles, Unfit, Values, conform, type_in},
    similar::{nearest, suggestion},
};

/// Gives the values of a scenario to the mocks of its template.
///
/// # Errors
/// Types, names and attributes that the template or its providers do not have, and values of wrong types.
pub fn give_values(scenario: &Scenario, doubles: &mut Doubles) -> Result<(), Vec<Problem>> {
    let problems: Vec<_> = scenario
        .mocks
        .iter()
        .flat_map(|mock| give(mock, doubles))
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems),
    }
}

fn give(mock: &Mock, doubles: &mut Doubles) -> Vec<Problem> {
    let what = |message: String| vec![Problem::new(mock.place.clone(), message)];
    if let Some(problem) = wrong_name(mock, doubles) {
        return what(problem);
    }
    let kinds = doubles.mocks.iter().flat_map(|double| {
        let schema = &double.served.schema;
        match mock.is_data {
            true => schema.data_source_schemas.keys(),
            false => schema.resource_schemas.keys(),
        }
    });
    let near = suggestion(&mock.kind, kinds.map(String::as_str));
    let found = doubles.mocks.iter_mut().find_map(|double| {
        let schema = &mut double.served.schema;
        let schemas = match mock.is_data {
            true => &mut schema.data_source_schemas,
            false => &mut schema.resource_schemas,
        };
        let block = &mut schemas.get_mut(&mock.kind)?.block;
        Some((double.is_inferred, block, &mut double.served.values))
    });
    let Some((is_inferred, block, values)) = found else {
        return what(format!(
            "`{}` is of no mocked provider of this template{near}",
            mock.kind
        ));
    };
    let wrong = mock.values.iter().filter_map(|given| {
        let message = match is_inferred {
            true => give_inferred(given, mock, block),
            false => give_known(given, mock, block),
        };
        Some(Problem::new(given.place.clone(), message.err()?))
    });
    let wrong: Vec<_> = wrong.collect();
    let by_attribute = mock.values.iter();
    values.push(Values {
        is_data: mock.is_data,
        kind: mock.kind.clone(),
        name: mock.name.clone(),
        values: by_attribute
            .map(|given| (given.name.clone(), given.value.clone()))
            .collect(),
    });
    wrong
}

/// A second label that is neither a name of the template's nor an address with one.
fn wrong_name(mock: &Mock, doubles: &Doubles) -> Option<String> {
    let label = mock.name.as_deref()?;
    let known = doubles.names.get(&(mock.is_data, mock.kind.clone()))?;
    let of_kind = format!("{}.", mock.kind);
    let behind = label.rfind(&of_kind).map_or(0, |at| at + of_kind.len());
    let name = label[behind..].split('[').next().unwrap_or_default();
    let near = suggestion(name, known.iter().map(String::as_str));
    let is_known = known.contains(name);
    (!is_known).then(|| format!("the template has no `{}` \"{name}\"{near}", mock.kind))
}

/// A value for a schema that the provider itself gave.
fn give_known(given: &Given, mock: &Mock, block: &Block) -> Result<(), String> {
    let attribute = block.attributes.get(&given.name);
    let is_set_by_author = attribute.is_some_and(|it| !it.computed);
    if is_set_by_author && !mock.is_data {
        return Err(format!(
            "`{}` of `{}` is never computed: only the template can set it",
            given.name, mock.kind
        ));
    }
    fits(given, block).unwrap_or_else(|| Err(unknown(given, mock, block)))
}

/// A value for a schema that is inferred: it may be all that is known of the attribute.
fn give_inferred(given: &Given, mock: &Mock, block: &mut Block) -> Result<(), String> {
    let fits = fits(given, block);
    let Some(attribute) = block.attributes.get_mut(&given.name) else {
        if fits.is_some() {
            return Ok(());
        }
        let known = block.attributes.keys().chain(block.block_types.keys());
        if nearest(&given.name, known.map(String::as_str)).is_some() {
            return Err(unknown(given, mock, block));
        }
        let attribute = Attribute {
            kind: json!("dynamic"),
            optional: true,
            computed: true,
            ..Attribute::default()
        };
        block.attributes.insert(given.name.clone(), attribute);
        return Ok(());
    };
    let is_guessed = !attribute.like.is_null();
    match fits {
        Some(Err(_)) if is_guessed => attribute.kind = json!("dynamic"),
        Some(Err(wrong)) => return Err(wrong),
        _ => {}
    }
    attribute.computed = true;
    Ok(())
}

/// Tells whether a value has the type of its attribute; `None` if there is no such attribute.
fn fits(given: &Given, block: &Block) -> Option<Result<(), String>> {
    let of = type_in(block, &given.name)?;
    let wrong = |unfit: Unfit| format!("the value of `{}` does not fit: {unfit}", given.name);
    Some(conform(&of, &given.value, "").map(drop).map_err(wrong))
}

fn unknown(given: &Given, mock: &Mock, block: &Block) -> String {
    let known = block.attributes.keys().chain(block.block_types.keys());
    let near = suggestion(&given.name, known.map(String::as_str));
    format!("`{}` has no attribute `{}`{near}", mock.kind, given.name)
}
