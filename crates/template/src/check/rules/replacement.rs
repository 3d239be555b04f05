//! Rules about persistent resources that a change destroys and makes again.

use hcl_edit::{
    Span,
    expr::{Expression, ObjectKey},
};

use super::{
    Check,
    lifetime::{is_persistent, is_protected},
};
use crate::check::{
    model::{Decl, nested},
    place::Place,
    source::File,
    trace::Traced,
};
use crate::mock::force_new;

/// Last parts of paths that are names.
const NAMES: [&str; 6] = [
    "name",
    "name_prefix",
    "bucket",
    "bucket_prefix",
    "key_name",
    "creation_token",
];

/// Functions with another value in every plan.
const RESTLESS: [&str; 4] = ["timestamp", "plantimestamp", "uuid", "bcrypt"];

/// A value of an argument, wherever it stands in the block.
struct Found<'a> {
    expr: &'a Expression,
    place: Place,
}

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    let persistent: Vec<usize> = model
        .managed()
        .filter(|(_, decl)| is_persistent(check, decl))
        .map(|(index, _)| index)
        .collect();
    for index in persistent {
        let decl = &model.decls[index];
        if is_protected(decl) {
            continue;
        }
        for path in force_new(decl.kind, &check.options.force_new) {
            if is_ignored(decl, &path) {
                continue;
            }
            for found in at(decl, &path) {
                let traced = check.tracer.in_decl(decl, found.expr);
                replaced(check, decl, &path, &found, &traced);
                renamed(check, decl, &path, &found, &traced);
            }
        }
    }
}

/// The values at a path of a block: `name`, or `metadata.name` for an argument in blocks or in an object.
fn at<'a>(decl: &Decl<'a>, path: &str) -> Vec<Found<'a>> {
    let Some((block, rest)) = path.split_once('.') else {
        let argument = decl.argument(path);
        let found = argument.map(|it| Found {
            expr: &it.attribute.value,
            place: it.place(),
        });
        return found.into_iter().collect();
    };
    if let Some(argument) = decl.argument(block) {
        return in_object(argument.file, &argument.attribute.value, rest);
    }
    let blocks = nested(decl.file, &decl.block.body, block).into_iter();
    let found = blocks.filter_map(|block| {
        let argument = block.argument(rest)?;
        Some(Found {
            expr: &argument.attribute.value,
            place: argument.place(),
        })
    });
    found.collect()
}

/// JSON has objects where the native syntax has blocks.
fn in_object<'a>(file: &File, value: &'a Expression, name: &str) -> Vec<Found<'a>> {
    match value {
        Expression::Array(items) => items
            .iter()
            .flat_map(|item| in_object(file, item, name))
            .collect(),
        Expression::Object(object) => object
            .iter()
            .filter(|(key, _)| match key {
                ObjectKey::Ident(ident) => ident.as_str() == name,
                ObjectKey::Expression(expr) => expr.as_str() == Some(name),
            })
            .map(|(key, value)| {
                let start = key.span().map_or(0, |span| span.start);
                let end = value.expr().span().map_or(start, |span| span.end);
                Found {
                    expr: value.expr(),
                    place: file.place(&(start..end)),
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Tells whether changes of an argument are ignored.
fn is_ignored(decl: &Decl<'_>, path: &str) -> bool {
    let first = path.split('.').next().unwrap_or(path);
    decl.nested("lifecycle").iter().any(|block| {
        let Some(argument) = block.argument("ignore_changes") else {
            return false;
        };
        let Some(items) = argument.attribute.value.as_array() else {
            return false;
        };
        items.iter().any(|item| {
            let root = match item {
                Expression::Traversal(traversal) => {
                    traversal.expr.as_variable().map(|name| name.as_str())
                }
                Expression::Variable(name) => Some(name.as_str()),
                other => other
                    .as_str()
                    .and_then(|text| text.split(['.', '[']).next()),
            };
            root == Some(first)
        })
    })
}

fn replaced(
    check: &mut Check<'_, '_>,
    decl: &Decl<'_>,
    path: &str,
    found: &Found<'_>,
    traced: &Traced,
) {
    let Some(reason) = cause(check, traced) else {
        return;
    };
    let message = format!(
        "`{}` outlives a stop, but a change of its `{path}` replaces it, and that changes with {reason}",
        decl.address
    );
    let remedy = format!(
        "make `{path}` depend on nothing that changes, such as the workspace's `id`, or add it to `ignore_changes`"
    );
    let spot = check.spot(decl, found.place.clone());
    check.report("persistent-replaced", spot, message, remedy);
}

/// The cause that changes a value between two builds of one workspace.
fn cause(check: &Check<'_, '_>, traced: &Traced) -> Option<String> {
    let restless = traced
        .functions
        .iter()
        .find(|name| RESTLESS.contains(&name.as_str()));
    if let Some(name) = restless {
        return Some(format!("every build, by `{name}()`"));
    }
    for (index, attribute) in &traced.decls {
        let decl = &check.model.decls[*index];
        match (decl.kind, attribute.as_deref()) {
            ("coder_workspace", Some("start_count" | "transition")) if decl.is_data => {
                return Some("every stop and start".to_owned());
            }
            ("coder_agent", Some("token")) => {
                return Some(format!(
                    "every build, as the token of `{}` does",
                    decl.address
                ));
            }
            ("coder_parameter", Some("value")) if decl.is_data && is_mutable(check, decl) => {
                return Some(format!(
                    "the answer to `{}`, which people may change",
                    decl.address
                ));
            }
            _ => {}
        }
    }
    None
}

fn is_mutable(check: &Check<'_, '_>, decl: &Decl<'_>) -> bool {
    let scopes = check.model.scopes(decl);
    scopes
        .iter()
        .any(|scope| check.model.flag(scope, decl.argument("mutable")) == Some(true))
}

fn renamed(
    check: &mut Check<'_, '_>,
    decl: &Decl<'_>,
    path: &str,
    found: &Found<'_>,
    traced: &Traced,
) {
    let last = path.rsplit('.').next().unwrap_or(path);
    if !NAMES.contains(&last) {
        return;
    }
    let named = traced.decls.iter().find(|(index, attribute)| {
        let other = &check.model.decls[*index];
        match (other.kind, attribute.as_deref()) {
            ("coder_workspace_owner", Some("name" | "full_name" | "email")) => other.is_data,
            ("coder_workspace", Some("name" | "owner" | "owner_name" | "owner_email")) => {
                other.is_data
            }
            _ => false,
        }
    });
    let Some((index, attribute)) = named else {
        return;
    };
    let source = format!(
        "{}.{}",
        check.model.decls[*index].address,
        attribute.as_deref().unwrap_or_default()
    );
    let message = format!(
        "the name of `{}` contains `{source}`: a rename of it destroys what people keep there",
        decl.address
    );
    let remedy = "use `data.coder_workspace.me.id` instead, which never changes, or add the argument to `ignore_changes`";
    let spot = check.spot(decl, found.place.clone());
    check.report("persistent-renamed-by-owner", spot, message, remedy);
}
