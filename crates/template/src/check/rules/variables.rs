//! Rules about what an import must know: values of variables, and tags.

use hcl_edit::expr::Expression;

use super::{Check, Spot};
use crate::check::{model::label, place::Place, trace::Traced};

/// Data sources whose values an import knows.
const KNOWN_TO_IMPORTS: [&str; 1] = ["coder_parameter"];

pub(super) fn check(check: &mut Check<'_, '_>) {
    without_value(check);
    tags(check);
}

fn without_value(check: &mut Check<'_, '_>) {
    let root = check.model.instances[0].source;
    let given = &check.options.variables;
    let mut missing = Vec::new();
    for file in &root.files {
        for block in file
            .body()
            .blocks()
            .filter(|block| block.ident.as_str() == "variable")
        {
            let name = label(block, 0);
            let is_given = given.iter().any(|(given, _)| given == name);
            if block.body.get_attribute("default").is_none() && !is_given {
                missing.push((name.to_owned(), file.header(block)));
            }
        }
    }
    for (name, place) in missing {
        let message = format!(
            "the variable `{name}` has no default, and an import fails unless somebody gives it a value"
        );
        let remedy =
            format!("add a `default`, or check with `--variable {name}=VALUE` as the push will");
        check.report("variable-without-value", root_spot(place), message, remedy);
    }
}

fn root_spot(place: Place) -> Spot {
    Spot {
        place,
        address: String::new(),
        module: String::new(),
    }
}

fn tags(check: &mut Check<'_, '_>) {
    let model = check.model;
    for decl in model.of_kind("data.coder_workspace_tags") {
        let Some(argument) = decl.argument("tags") else {
            continue;
        };
        let exprs: Vec<&Expression> = match &argument.attribute.value {
            Expression::Object(object) => object.iter().map(|(_, value)| value.expr()).collect(),
            other => vec![other],
        };
        for expr in exprs {
            let traced = check.tracer.in_decl(decl, expr);
            let Some(what) = unknown(check, &traced) else {
                continue;
            };
            let spot = check.spot(decl, argument.file.place_of(expr));
            let message = format!("the tag depends on `{what}`, which an import does not know");
            let remedy = "use literals, variables, local values and parameters only";
            check.report("tags-not-static", spot, message, remedy);
        }
    }
}

fn unknown(check: &Check<'_, '_>, traced: &Traced) -> Option<String> {
    let decls = traced
        .decls
        .iter()
        .map(|(index, _)| &check.model.decls[*index]);
    let mut others = decls.filter(|decl| !(decl.is_data && KNOWN_TO_IMPORTS.contains(&decl.kind)));
    others.next().map(|decl| decl.address.clone())
}
