//! The built-in provider's checks of single arguments: the same code that refuses them in a build.

use std::collections::BTreeMap;

use outpost_coder_provider as coder;
use outpost_plugin::{Field, Severity, Shape};
use outpost_value::{Path, Value};

use super::Check;
use crate::check::{
    model::{Argument, Decl, Nested},
    values::Scope,
};

/// Arguments whose checks other rules do better.
const ELSEWHERE: [(&str, &str); 1] = [("coder_app", "slug")];

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    let provider = coder::provider(BTreeMap::new(), None);
    for decl in &model.decls {
        let schema = match decl.is_data {
            true => provider.data_sources.get(decl.kind).map(|it| it.schema()),
            false => provider.resources.get(decl.kind).map(|it| it.schema()),
        };
        let Some(schema) = schema else { continue };
        for scope in model.scopes(decl) {
            for field in &schema.fields {
                top(check, decl, &scope, field);
            }
        }
    }
}

fn top(check: &mut Check<'_, '_>, decl: &Decl<'_>, scope: &Scope, field: &Field) {
    if ELSEWHERE.contains(&(decl.kind, field.name.as_ref())) {
        return;
    }
    if let Some(argument) = decl.argument(&field.name) {
        return one(check, decl, scope, field, argument);
    }
    if let Some(block) = field.block() {
        for nested in decl.nested(&field.name) {
            inside(check, decl, scope, &block.fields, &nested);
        }
    }
}

fn inside(
    check: &mut Check<'_, '_>,
    decl: &Decl<'_>,
    scope: &Scope,
    fields: &[Field],
    nested: &Nested<'_>,
) {
    for field in fields {
        if let Some(argument) = nested.argument(&field.name) {
            one(check, decl, scope, field, argument);
        }
        if let Some(block) = field.block() {
            for deeper in crate::check::model::nested(nested.file, nested.body, &field.name) {
                inside(check, decl, scope, &block.fields, &deeper);
            }
        }
    }
}

fn one(
    check: &mut Check<'_, '_>,
    decl: &Decl<'_>,
    scope: &Scope,
    field: &Field,
    argument: Argument<'_>,
) {
    if field.checks.is_empty() {
        return;
    }
    let Some(text) = check.model.text(scope, Some(argument)) else {
        return;
    };
    let value = match field.shape {
        Shape::String => Value::from(text.as_str()),
        Shape::Int => match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => return,
        },
        _ => return,
    };
    let path = Path::from(field.name.as_ref());
    let mut found = field.checks.iter().flat_map(|check| check(&value, &path));
    let Some(problem) = found.find(|it| it.severity == Severity::Error) else {
        return;
    };
    let (rule, remedy) = match (decl.kind, field.name.as_ref()) {
        ("coder_agent", "os" | "arch") => (
            "agent-arch-mismatch",
            "use one of the values that the message names",
        ),
        ("coder_script", "cron") => (
            "script-schedule-invalid",
            "write second, minute, hour, day, month and weekday, such as `0 30 9 * * 1-5`",
        ),
        _ => ("invalid", "correct the argument as the message says"),
    };
    let spot = check.spot(decl, argument.place());
    check.report(rule, spot, super::parameters::said(&problem), remedy);
}
