//! Facts that follow from a resource's address and from the types of some clouds.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::plan::ResourceValues;

/// Types of machines, with the attributes for their size and for their id.
const MACHINES: [(&str, &str, &str); 5] = [
    ("google_compute_instance", "machine_type", "instance_id"),
    ("aws_instance", "instance_type", "id"),
    (
        "aws_spot_instance_request",
        "instance_type",
        "spot_instance_id",
    ),
    (
        "azurerm_linux_virtual_machine",
        "size",
        "virtual_machine_id",
    ),
    (
        "azurerm_windows_virtual_machine",
        "size",
        "virtual_machine_id",
    ),
];

/// Regular expression for the steps of an address: modules and the resource itself.
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    let key = r#"(?:\[(?:\d+|"(?:\\.|[^"\\])*")\])?"#;
    let name = r"[A-Za-z_-][A-Za-z0-9_-]*";
    Regex::new(&format!(
        r"^((?:module\.{name}{key}\.)*){name}\.{name}{key}$"
    ))
    .expect("the expression is valid")
});

/// Returns an instance type such as `t3.large`; empty if the resource's type has none.
pub(super) fn instance_type(resource: &ResourceValues) -> String {
    text(resource, |(_, size, _)| size)
        .unwrap_or_default()
        .to_owned()
}

/// Returns the id by which the machine authenticates, once its cloud has assigned it.
pub(super) fn instance_id(resource: &ResourceValues) -> Option<&str> {
    text(resource, |(_, _, id)| id)
}

/// Returns the module part of an address with its indices; empty for the root module.
pub(super) fn module_path(address: &str) -> String {
    match ADDRESS.captures(address) {
        Some(parts) => parts[1].trim_end_matches('.').to_owned(),
        None => "invalid terraform address".to_owned(),
    }
}

fn text(
    resource: &ResourceValues,
    attribute: impl Fn((&'static str, &'static str, &'static str)) -> &'static str,
) -> Option<&str> {
    let machine = MACHINES
        .into_iter()
        .find(|(kind, ..)| *kind == resource.kind)?;
    resource
        .values
        .get(attribute(machine))
        .and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_path_keeps_indices() {
        let cases = [
            ("a.b", ""),
            ("a.b[0]", ""),
            ("module.m.a.b", "module.m"),
            (
                "module.m[0].module.n[\"k.]\"].a.b[\"x\"]",
                "module.m[0].module.n[\"k.]\"]",
            ),
            ("invalid", "invalid terraform address"),
            ("module.m", ""),
        ];
        for (address, path) in cases {
            assert_eq!(module_path(address), path, "{address}");
        }
    }
}
