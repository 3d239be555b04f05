//! Values for variables that have none, so that a plan can go on to what else is wrong.

use hcl_edit::expr::Expression;

use super::{
    model::{Model, label},
    rules::Options,
};

/// Variables of the root module without a value, and one of their type.
pub(super) fn made_up(model: &Model<'_>, options: &Options) -> Vec<(String, String)> {
    let files = model.instances[0].source.files.iter();
    let blocks = files.flat_map(|file| file.body().get_blocks("variable"));
    let missing = blocks.filter(|block| {
        let name = label(block, 0);
        block.body.get_attribute("default").is_none()
            && !options.variables.iter().any(|(given, _)| given == name)
    });
    let value = |block: &hcl_edit::structure::Block| {
        let kind = block.body.get_attribute("type").map(|it| &it.value);
        (label(block, 0).to_owned(), of_type(kind).to_owned())
    };
    missing.map(value).collect()
}

fn of_type(kind: Option<&Expression>) -> &'static str {
    match kind {
        Some(Expression::Variable(name)) => match name.as_str() {
            "number" => "1",
            "bool" => "false",
            _ => "unknown",
        },
        Some(Expression::FuncCall(call)) => match call.name.name.as_str() {
            "map" | "object" => "{}",
            _ => "[]",
        },
        _ => "unknown",
    }
}
