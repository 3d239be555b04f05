//! Rules about `coder_parameter`. Values are decided by the built-in provider, as in an import.

use std::collections::BTreeMap;

use outpost_coder_provider as coder;
use outpost_plugin::{Call, Diagnostic};
use outpost_value::{Object, Value};
use sha2::{Digest, Sha256};

use super::{Check, names};
use crate::check::{
    model::{Decl, Nested},
    values::Scope,
};

/// Summaries of the provider's errors about repeated options, which have a rule of their own.
const NOT_UNIQUE: [&str; 2] = [
    "Option names must be unique.",
    "Option values must be unique.",
];

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    duplicates(check);
    for decl in model.of_kind("data.coder_parameter") {
        let scopes = model.scopes(decl);
        let Some(scope) = scopes.first() else {
            continue;
        };
        words(check, decl, scope);
        options(check, decl, scope);
        for scope in &scopes {
            if default(check, decl, scope) {
                break;
            }
        }
    }
}

fn duplicates(check: &mut Check<'_, '_>) {
    let model = check.model;
    let name = |decl: &Decl<'_>, scope: &Scope| model.text(scope, decl.argument("name"));
    let all = names::certain(check, model.of_kind("data.coder_parameter"), name);
    let repeated: Vec<_> = names::repeated(&all, |named| named.name.clone())
        .into_iter()
        .map(|(named, first)| (named.decl, named.name.clone(), first))
        .collect();
    for (decl, name, first) in repeated {
        let message = format!("the template asks for `{name}` twice: also in `{first}`");
        let remedy = "give each parameter a `name` of its own, also those in modules, or ask once and pass the value on";
        check.report("parameter-duplicate", check.block(decl), message, remedy);
    }
}

fn words(check: &mut Check<'_, '_>, decl: &Decl<'_>, scope: &Scope) {
    let name = check
        .model
        .text(scope, decl.argument("name"))
        .unwrap_or_else(|| decl.name.to_owned());
    let has_default = decl
        .argument("default")
        .is_some_and(|it| !it.attribute.value.is_null());
    let flag = |argument: &str| match decl.argument(argument) {
        None => Some(false),
        given => check.model.flag(scope, given),
    };
    if flag("ephemeral") == Some(true) && !has_default {
        let message = format!(
            "the parameter `{name}` counts for one build only and has no default, which no server accepts"
        );
        let remedy = "add a `default`, which counts in all other builds";
        check.report(
            "parameter-ephemeral-without-default",
            check.block(decl),
            message,
            remedy,
        );
    } else if flag("mutable") == Some(false) && !has_default {
        let message = format!(
            "people must answer `{name}` when they make a workspace, and can never change the answer"
        );
        let remedy = "add a `default`, or set `mutable = true`";
        check.report(
            "parameter-immutable-without-default",
            check.block(decl),
            message,
            remedy,
        );
    }
    let has_description = decl.argument("description").is_some_and(|it| {
        check
            .model
            .text(scope, Some(it))
            .is_none_or(|text| !text.trim().is_empty())
    });
    if !has_description {
        let message = format!("the parameter `{name}` has no description");
        let remedy = "say in a `description` what the answer changes";
        check.report(
            "parameter-without-description",
            check.block(decl),
            message,
            remedy,
        );
    }
}

fn options(check: &mut Check<'_, '_>, decl: &Decl<'_>, scope: &Scope) {
    let (mut names, mut values) = (BTreeMap::new(), BTreeMap::new());
    for block in decl.nested("option") {
        for inner in inner_scopes(check, scope, &block) {
            for (argument, seen) in [("name", &mut names), ("value", &mut values)] {
                let Some(text) = check.model.text(&inner, block.argument(argument)) else {
                    continue;
                };
                if seen.insert(text.clone(), ()).is_none() {
                    continue;
                }
                let spot = check.spot(decl, block.place());
                let message =
                    format!("another option of this parameter has the {argument} `{text}`, too");
                let remedy = "give each option a name and a value of its own";
                check.report("parameter-option-duplicate", spot, message, remedy);
                break;
            }
        }
    }
}

/// The scopes of a block inside of another one; one that is generated has one for each item, none if those are unknown.
fn inner_scopes(check: &Check<'_, '_>, scope: &Scope, block: &Nested<'_>) -> Vec<Scope> {
    let Some(each) = block.for_each else {
        return vec![scope.clone()];
    };
    let value = check.model.values.evaluate(scope, block.file, each);
    let iterator = block
        .block
        .body
        .get_attribute("iterator")
        .and_then(|it| it.value.as_variable());
    let name = iterator.map_or_else(
        || crate::check::model::label(block.block, 0),
        |name| name.as_str(),
    );
    value.map_or_else(Vec::new, |value| {
        check.model.values.items_of(scope, name, &value)
    })
}

/// Checks the default; whether there was something to report.
fn default(check: &mut Check<'_, '_>, decl: &Decl<'_>, scope: &Scope) -> bool {
    let Some(argument) = decl.argument("default") else {
        return false;
    };
    let Some(config) = parameter_config(check, decl, scope) else {
        return false;
    };
    let Some(problem) = decide(&config, None) else {
        return false;
    };
    if NOT_UNIQUE.contains(&problem.summary.as_str()) || problem.summary.starts_with("ephemeral") {
        return false;
    }
    let is_others = ["Option ", "Invalid form_type", "parameter can't"];
    if is_others
        .iter()
        .any(|prefix| problem.summary.starts_with(prefix))
    {
        let message = said(&problem);
        check.report(
            "invalid",
            check.block(decl),
            message,
            "correct the parameter as the message says",
        );
        return true;
    }
    let spot = check.spot(decl, argument.place());
    let remedy = "use a default that people could give as an answer, too";
    check.report("parameter-default-invalid", spot, said(&problem), remedy);
    true
}

/// A diagnostic in one line.
pub(super) fn said(problem: &Diagnostic) -> String {
    match problem.detail.as_str() {
        "" => problem.summary.clone(),
        detail => format!("{}: {detail}", problem.summary.trim_end_matches('.')),
    }
}

/// A parameter as the provider gets it, if all that decides about values is known.
pub(super) fn parameter_config(
    check: &Check<'_, '_>,
    decl: &Decl<'_>,
    scope: &Scope,
) -> Option<Object> {
    let mut config = Object::new();
    for name in ["name", "type", "form_type", "default"] {
        if let Some(argument) = decl.argument(name) {
            match check.model.value(scope, argument)? {
                serde_json::Value::Null => {}
                value => config.set(name, outpost_language::primitive_text(&value)?),
            }
        }
    }
    for name in ["mutable", "ephemeral"] {
        if let Some(argument) = decl.argument(name) {
            config.set(name, check.model.flag(scope, Some(argument))?);
        }
    }
    let mut choices = Vec::new();
    for block in decl.nested("option") {
        let scopes = inner_scopes(check, scope, &block);
        if scopes.is_empty() {
            return None;
        }
        for inner in scopes {
            choices.push(object(check, &inner, &block, &["name", "value"], &[])?);
        }
    }
    config.set_blocks("option", choices);
    let mut validations = Vec::new();
    for block in decl.nested("validation") {
        let scopes = inner_scopes(check, scope, &block);
        let inner = scopes.first()?;
        validations.push(object(
            check,
            inner,
            &block,
            &["monotonic", "regex", "error"],
            &["min", "max"],
        )?);
    }
    config.set_blocks("validation", validations);
    Some(config)
}

fn object(
    check: &Check<'_, '_>,
    scope: &Scope,
    block: &Nested<'_>,
    texts: &[&str],
    numbers: &[&str],
) -> Option<Object> {
    let mut object = Object::new();
    for name in texts.iter().chain(numbers) {
        let Some(argument) = block.argument(name) else {
            continue;
        };
        let value = check.model.value(scope, argument)?;
        if value.is_null() {
            continue;
        }
        let text = outpost_language::primitive_text(&value)?;
        match numbers.contains(name) {
            true => object.set(*name, Value::from(text.parse::<i64>().ok()?)),
            false => object.set(*name, text),
        }
    }
    Some(object)
}

/// The built-in provider's complaint about a parameter, with an answer or without one.
pub(super) fn decide(config: &Object, answer: Option<&str>) -> Option<Diagnostic> {
    let name = config.text("name").unwrap_or_default();
    let variable = format!("CODER_PARAMETER_{}", hex::encode(Sha256::digest(name)));
    let environment: BTreeMap<_, _> = answer
        .map(|answer| (variable, answer.to_owned()))
        .into_iter()
        .collect();
    let provider = coder::provider(environment, None);
    let context = (provider.configure)(&Object::new()).ok()?;
    let mut state = config.clone();
    for (name, default) in [("type", "string"), ("form_type", "")] {
        if config.text(name).is_none() {
            state.set(name, default);
        }
    }
    let call = Call {
        config,
        context: &context,
    };
    let errors = provider
        .data_sources
        .get("coder_parameter")?
        .read(&mut state, &call)
        .err()?;
    errors.into_iter().next()
}
