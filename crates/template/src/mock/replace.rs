//! Changes that replace a resource, which no schema tells.

use std::collections::BTreeSet;

use outpost_value::{Object, Value};
use outpost_wire::proto::tfplugin5::{
    AttributePath,
    attribute_path::{Step, step::Selector},
};

/// Arguments that no provider here can change in place, by type. A path leads into a block.
///
/// # Source
/// The providers' documentation, where it says that a change forces a new resource.
const FORCE_NEW: &[(&str, &[&str])] = &[
    ("terraform_data", &["triggers_replace"]),
    ("null_resource", &["triggers"]),
    ("local_file", &["filename", "content"]),
    ("random_id", &["keepers", "prefix"]),
    ("random_password", &["keepers", "length"]),
    ("random_string", &["keepers", "length"]),
    ("random_uuid", &["keepers"]),
    ("random_pet", &["keepers", "prefix"]),
    ("time_static", &["triggers"]),
    (
        "docker_volume",
        &["name", "driver", "driver_opts", "labels.value"],
    ),
    (
        "docker_container",
        &[
            "name",
            "image",
            "command",
            "entrypoint",
            "env",
            "hostname",
            "user",
            "working_dir",
            "runtime",
            "privileged",
            "memory",
        ],
    ),
    ("docker_image", &["name", "triggers"]),
    ("docker_network", &["name", "driver"]),
    (
        "kubernetes_persistent_volume_claim",
        &[
            "metadata.name",
            "metadata.namespace",
            "spec.access_modes",
            "spec.storage_class_name",
            "spec.volume_name",
        ],
    ),
    (
        "kubernetes_persistent_volume_claim_v1",
        &[
            "metadata.name",
            "metadata.namespace",
            "spec.access_modes",
            "spec.storage_class_name",
            "spec.volume_name",
        ],
    ),
    (
        "aws_instance",
        &[
            "ami",
            "availability_zone",
            "subnet_id",
            "key_name",
            "tenancy",
        ],
    ),
    (
        "aws_ebs_volume",
        &[
            "availability_zone",
            "encrypted",
            "kms_key_id",
            "snapshot_id",
        ],
    ),
    (
        "aws_volume_attachment",
        &["device_name", "instance_id", "volume_id"],
    ),
    ("aws_efs_file_system", &["creation_token", "encrypted"]),
    ("aws_s3_bucket", &["bucket", "bucket_prefix"]),
    ("aws_key_pair", &["key_name", "public_key"]),
    ("aws_security_group", &["name", "vpc_id"]),
    ("aws_iam_role", &["name"]),
    ("aws_iam_instance_profile", &["name"]),
    (
        "google_compute_instance",
        &["name", "zone", "metadata_startup_script"],
    ),
    (
        "google_compute_disk",
        &["name", "zone", "image", "snapshot"],
    ),
    (
        "azurerm_linux_virtual_machine",
        &[
            "name",
            "location",
            "resource_group_name",
            "custom_data",
            "admin_username",
        ],
    ),
    (
        "azurerm_windows_virtual_machine",
        &[
            "name",
            "location",
            "resource_group_name",
            "custom_data",
            "admin_username",
        ],
    ),
    (
        "azurerm_managed_disk",
        &["name", "location", "resource_group_name", "create_option"],
    ),
    ("hcloud_server", &["image", "location", "user_data"]),
    ("hcloud_volume", &["location"]),
    ("digitalocean_droplet", &["region", "user_data"]),
    ("digitalocean_volume", &["name", "region"]),
];

/// Providers none of whose resources can be renamed, and the path of the name.
const UNRENAMEABLE: [(&str, &str); 3] = [
    ("google_", "name"),
    ("azurerm_", "name"),
    ("kubernetes_", "metadata.name"),
];

/// Paths of a type whose change replaces a resource: those that are known and those that are given, as `TYPE.PATH`.
pub(crate) fn force_new(kind: &str, given: &BTreeSet<String>) -> Vec<String> {
    let known = FORCE_NEW.iter().find(|(known, _)| *known == kind);
    let known = known.map_or(&[][..], |(_, paths)| paths).iter().copied();
    let by_provider = UNRENAMEABLE
        .iter()
        .filter(|(prefix, _)| kind.starts_with(prefix));
    let given = given
        .iter()
        .filter_map(|path| path.strip_prefix(kind)?.strip_prefix('.'));
    let all: BTreeSet<&str> = known
        .chain(by_provider.map(|(_, path)| *path))
        .chain(given)
        .collect();
    all.into_iter().map(str::to_owned).collect()
}

/// The attributes and blocks with a change at one of the paths.
pub(super) fn required(prior: &Object, planned: &Object, paths: &[String]) -> Vec<AttributePath> {
    let is_changed = |path: &&String| {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        at(prior.get(first), rest) != at(planned.get(first), rest)
    };
    let changed = paths.iter().filter(is_changed);
    let names: BTreeSet<&str> = changed
        .map(|path| path.split('.').next().unwrap_or(path))
        .collect();
    let path = |name: &str| AttributePath {
        steps: vec![Step {
            selector: Some(Selector::AttributeName(name.to_owned())),
        }],
    };
    names.into_iter().map(path).collect()
}

/// The values at a path, in all blocks on the way.
fn at<'v>(value: &'v Value, path: &str) -> Vec<&'v Value> {
    if path.is_empty() {
        return vec![value];
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match value {
        Value::List(items) | Value::Set(items) => {
            items.iter().flat_map(|item| at(item, path)).collect()
        }
        Value::Map(items) => items.values().flat_map(|item| at(item, path)).collect(),
        Value::Object(object) => at(object.get(first), rest),
        Value::Dynamic(inner) => at(&inner.1, path),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_at_a_path_replaces() {
        let volume = |name: &str, size: i64| {
            let mut metadata = Object::new();
            metadata.set("name", name);
            let mut object = Object::new();
            object.set("metadata", Value::List(vec![Value::Object(metadata)]));
            object.set("size", size);
            object
        };
        let paths = force_new(
            "kubernetes_x",
            &BTreeSet::from(["kubernetes_x.size".to_owned()]),
        );
        assert_eq!(paths, ["metadata.name", "size"]);

        let names = |planned: &Object| -> Vec<String> {
            let required = required(&volume("a", 1), planned, &paths);
            required
                .iter()
                .map(|path| format!("{:?}", path.steps))
                .collect()
        };
        assert_eq!(names(&volume("a", 1)), Vec::<String>::new());
        assert!(names(&volume("a", 2))[0].contains("size"));
        assert!(names(&volume("b", 1))[0].contains("metadata"));
    }
}
