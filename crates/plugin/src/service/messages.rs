//! Answers that are almost the same for every provider.

use std::collections::BTreeMap;

use bytes::Bytes;
use outpost_wire::proto::tfplugin5::{self as wire, get_metadata::TypeName};

/// Returns the optional parts of the protocol that the provider supports.
fn capabilities() -> wire::ServerCapabilities {
    wire::ServerCapabilities {
        plan_destroy: false,
        get_provider_schema_optional: true,
        move_resource_state: false,
        generate_resource_config: false,
    }
}

pub(super) fn metadata<'a>(
    resources: impl Iterator<Item = &'a String>,
    data_sources: impl Iterator<Item = &'a String>,
) -> wire::get_metadata::Response {
    let name = |name: &String| TypeName {
        type_name: name.clone(),
    };
    wire::get_metadata::Response {
        server_capabilities: Some(capabilities()),
        diagnostics: Vec::new(),
        data_sources: data_sources.map(name).collect(),
        resources: resources.map(name).collect(),
    }
}

pub(super) fn schemas(
    provider: wire::Schema,
    resources: BTreeMap<String, wire::Schema>,
    data_sources: BTreeMap<String, wire::Schema>,
) -> wire::get_provider_schema::Response {
    wire::get_provider_schema::Response {
        provider: Some(provider),
        resource_schemas: resources,
        data_source_schemas: data_sources,
        diagnostics: Vec::new(),
        // The block must exist, and is empty.
        provider_meta: Some(wire::Schema {
            version: 0,
            block: Some(wire::schema::Block::default()),
        }),
        server_capabilities: Some(capabilities()),
    }
}

pub(super) fn planned(
    state: Option<wire::DynamicValue>,
    private: Bytes,
) -> wire::plan_resource_change::Response {
    wire::plan_resource_change::Response {
        planned_state: state,
        requires_replace: Vec::new(),
        planned_private: private,
        diagnostics: Vec::new(),
        legacy_type_system: true,
    }
}

pub(super) fn applied(
    state: wire::DynamicValue,
    private: Bytes,
    diagnostics: Vec<wire::Diagnostic>,
) -> wire::apply_resource_change::Response {
    wire::apply_resource_change::Response {
        new_state: Some(state),
        private,
        diagnostics,
        legacy_type_system: true,
    }
}

/// Returns the private data of a resource: the version of its schema, or nothing for version 0, as the SDK stores it.
pub(super) fn private(version: i64) -> Bytes {
    match version {
        0 => Bytes::from_static(b"null"),
        version => format!(r#"{{"schema_version":"{version}"}}"#).into(),
    }
}
