//! Addresses of mocked resources: a provider never learns them, so override files pass them as an argument that only
//! mocks have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
};

use outpost_base::registry::{DEFAULT_HOST, OPENTOFU_HOST, ProviderAddr};

use super::infer::local_name;
use crate::check::{Decl, Model};

/// The argument that passes `NAME|ADDRESS` of a resource or a data source.
pub(super) const ARGUMENT: &str = "outpost_mock_address";
/// The variable that tells a module its own address, with a dot at its end.
const MODULE: &str = "outpost_mock_module";
/// Engines read override files sorted by name, so that this one comes last.
const OVERRIDE: &str = "zz_outpost_mock_override.tf";
const VARIABLE: &str = "zz_outpost_mock.tf";

/// Tells whether a mock replaces a provider.
pub fn is_mocked(addr: &ProviderAddr) -> bool {
    let coder = [DEFAULT_HOST, OPENTOFU_HOST].map(|host| format!("{host}/coder/coder"));
    !addr.is_builtin() && !coder.contains(&addr.to_string())
}

/// The files that pass addresses, by path in the template. Fetched modules get none.
pub(super) fn files(model: &Model<'_>, default_host: &str) -> BTreeMap<PathBuf, String> {
    let (mut files, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for (index, instance) in model.instances.iter().enumerate() {
        let dir = &instance.source.dir;
        if !instance.source.fetched.is_empty() || !seen.insert(dir) {
            continue;
        }
        let prefix = match instance.parent {
            Some(_) => {
                let text = format!("variable \"{MODULE}\" {{\n  default = \"\"\n}}\n");
                files.insert(dir.join(VARIABLE), text);
                format!("${{var.{MODULE}}}")
            }
            None => String::new(),
        };
        let text = resources(model, index, default_host, &prefix) + &calls(model, index, &prefix);
        if !text.is_empty() {
            files.insert(dir.join(OVERRIDE), text);
        }
    }
    files
}

fn resources(model: &Model<'_>, index: usize, default_host: &str, prefix: &str) -> String {
    let providers = model.required_providers(index, default_host);
    let is_mocked = |decl: &&Decl<'_>| {
        let addr = providers.get(&local_name(decl.block));
        decl.instance == index && addr.is_some_and(|(addr, _)| is_mocked(addr))
    };
    let mut text = String::new();
    for decl in model.decls.iter().filter(is_mocked) {
        let (block, mode) = match decl.is_data {
            true => ("data", "data."),
            false => ("resource", ""),
        };
        let key = key(
            decl.argument("count").is_some(),
            decl.argument("for_each").is_some(),
        );
        let (kind, name) = (decl.kind, decl.name);
        let _ = write!(
            text,
            "{block} \"{kind}\" \"{name}\" {{\n  {ARGUMENT} = \"{name}|{prefix}{mode}{kind}.{name}{key}\"\n}}\n"
        );
    }
    text
}

fn calls(model: &Model<'_>, index: usize, prefix: &str) -> String {
    let children = model.instances[index].children.iter();
    let own: BTreeMap<_, _> = children
        .filter(|(_, child)| model.instances[**child].source.fetched.is_empty())
        .collect();
    let mut text = String::new();
    for (name, child) in own {
        let Some((_, call)) = model.instances[*child].call else {
            continue;
        };
        let has = |argument: &str| call.body.get_attribute(argument).is_some();
        let key = key(has("count"), has("for_each"));
        let _ = write!(
            text,
            "module \"{name}\" {{\n  {MODULE} = \"{prefix}module.{name}{key}.\"\n}}\n"
        );
    }
    text
}

/// The key of an instance, as a template that is part of its address.
fn key(has_count: bool, has_for_each: bool) -> &'static str {
    match (has_count, has_for_each) {
        (true, _) => "[${count.index}]",
        (_, true) => "[\\\"${each.key}\\\"]",
        _ => "",
    }
}
