//! Rules about `coder_workspace_preset`.

use std::collections::BTreeMap;

use hcl_edit::expr::{Expression, ObjectKey};
use outpost_value::Object;

use super::{
    Check, nearest,
    parameters::{decide, parameter_config, said},
};
use crate::check::{
    model::{Argument, Decl},
    values::Scope,
};

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    let (names, is_complete) = parameters(check);
    let mut default: Option<String> = None;
    for decl in model.of_kind("data.coder_workspace_preset") {
        for scope in model.scopes(decl) {
            if let Some(argument) = decl.argument("parameters") {
                answers(check, decl, &scope, argument, (&names, is_complete));
            }
            let is_default = model.flag(&scope, decl.argument("default")) == Some(true);
            if !is_default || !scope.is_certain {
                continue;
            }
            match &default {
                None => default = Some(format!("{}{}", decl.address, scope.key)),
                Some(first) => {
                    let message =
                        format!("two presets are the default: the other one is `{first}`");
                    let spot = check.argument_or_block(decl, "default");
                    check.report(
                        "preset-two-defaults",
                        spot,
                        message,
                        "leave `default = true` in one preset",
                    );
                    break;
                }
            }
        }
    }
}

/// Parameters by name, with what decides about their values; whether there are certainly no others.
fn parameters(check: &Check<'_, '_>) -> (BTreeMap<String, Option<Object>>, bool) {
    let model = check.model;
    let (mut names, mut is_complete) = (BTreeMap::new(), !model.is_partial);
    for decl in model.of_kind("data.coder_parameter") {
        for scope in model.scopes(decl) {
            match model.text(&scope, decl.argument("name")) {
                Some(name) => drop(names.insert(name, parameter_config(check, decl, &scope))),
                None => is_complete = false,
            }
        }
    }
    (names, is_complete)
}

fn answers(
    check: &mut Check<'_, '_>,
    decl: &Decl<'_>,
    scope: &Scope,
    argument: Argument<'_>,
    (parameters, is_complete): (&BTreeMap<String, Option<Object>>, bool),
) {
    let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
    for (name, value) in pairs(check, scope, argument) {
        match parameters.get(&name) {
            None if is_complete => unknown.push(name),
            Some(Some(config)) => {
                let problem = value.and_then(|value| decide(config, Some(&value)));
                wrong.extend(problem.map(|problem| format!("`{name}`: {}", said(&problem))));
            }
            Some(None) | None => {}
        }
    }
    for name in unknown {
        let near = nearest(&name, parameters.keys().map(String::as_str));
        let message =
            format!("the preset answers `{name}`, and no parameter of the template has that name");
        let remedy = match near {
            Some(near) => format!("did you mean `{near}`? The key is the parameter's `name`"),
            None => "use the `name` of a parameter as the key".to_owned(),
        };
        let spot = check.spot(decl, argument.place());
        check.report("preset-unknown-parameter", spot, message, remedy);
    }
    for problem in wrong {
        let spot = check.spot(decl, argument.place());
        let message = format!("the preset gives an answer that the parameter refuses: {problem}");
        let remedy = "use an answer that people could give, too";
        check.report("preset-value-invalid", spot, message, remedy);
    }
}

/// Names and answers as far as they are known; of a map that is written out, each by itself.
fn pairs(
    check: &Check<'_, '_>,
    scope: &Scope,
    argument: Argument<'_>,
) -> Vec<(String, Option<String>)> {
    let values = &check.model.values;
    let text = |expr: &Expression| {
        outpost_language::primitive_text(&values.evaluate(scope, argument.file, expr)?)
    };
    if let Expression::Object(object) = &argument.attribute.value {
        let key = |key: &ObjectKey| match key {
            ObjectKey::Ident(name) => Some(name.as_str().to_owned()),
            ObjectKey::Expression(expr) => match expr.as_variable() {
                Some(name) => Some(name.as_str().to_owned()),
                None => text(expr),
            },
        };
        let pairs = object
            .iter()
            .map(|(name, value)| Some((key(name)?, text(value.expr()))));
        return pairs.flatten().collect();
    }
    match check.model.value(scope, argument) {
        Some(serde_json::Value::Object(map)) => map
            .iter()
            .map(|(name, value)| (name.clone(), outpost_language::primitive_text(value)))
            .collect(),
        _ => Vec::new(),
    }
}
