//! A mock as Terraform's plugin: the protocol's calls, answered from a schema.

use std::{fs, io, path::Path};

use outpost_plugin::{self as plugin, Launch};
use outpost_value::{Object, Type, Value};
use outpost_wire::proto::tfplugin5::{
    self as wire, provider_server::Provider, schema::nested_block::NestingMode,
};
use tonic::{Request, Response, Status};

use super::{
    fill,
    schema::{Block, ProviderSchema, Schema},
};

/// The reason why a mock could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The schema's file cannot be read.
    #[error("failed to read the schema of a mocked provider")]
    Read(#[from] io::Error),
    /// The file has no schema.
    #[error("the schema of a mocked provider is broken")]
    Schema(#[from] serde_json::Error),
    /// Terraform cannot be talked to.
    #[error(transparent)]
    Plugin(#[from] plugin::ServeError),
}

/// Serves a mock of the provider whose schema is in a file, until Terraform says that it is done.
///
/// # Errors
/// [`ServeError`] if there is no schema, or Terraform cannot be talked to.
pub fn serve(schema: &Path, launch: &Launch) -> Result<(), ServeError> {
    let schema: ProviderSchema = serde_json::from_slice(&fs::read(schema)?)?;
    Ok(plugin::serve_service(Mocked { schema }, launch)?)
}

/// A provider without any effect.
struct Mocked {
    schema: ProviderSchema,
}

type Reply<T> = Result<Response<T>, Status>;

impl Mocked {
    fn resource(&self, name: &str) -> Result<&Schema, Status> {
        let unknown = || Status::not_found(format!("unknown resource type: {name}"));
        self.schema.resource_schemas.get(name).ok_or_else(unknown)
    }

    fn source(&self, name: &str) -> Result<&Schema, Status> {
        let unknown = || Status::not_found(format!("unknown data source: {name}"));
        self.schema
            .data_source_schemas
            .get(name)
            .ok_or_else(unknown)
    }
}

/// Reads an object; nothing where it is null.
fn decode(of: &Type, value: Option<&wire::DynamicValue>) -> Result<Option<Object>, Status> {
    let invalid = |error: String| Status::invalid_argument(error);
    let value = match value {
        Some(value) if !value.msgpack.is_empty() => {
            Value::from_msgpack(of, &value.msgpack).map_err(|error| invalid(error.to_string()))?
        }
        Some(value) if !value.json.is_empty() => {
            Value::from_json(of, &value.json).map_err(|error| invalid(error.to_string()))?
        }
        _ => Value::Null,
    };
    match value {
        Value::Object(object) => Ok(Some(object)),
        _ => Ok(None),
    }
}

fn encode(of: &Type, object: Option<Object>) -> wire::DynamicValue {
    let value = object.map_or(Value::Null, Value::Object);
    wire::DynamicValue {
        msgpack: value.to_msgpack(of).into(),
        json: Default::default(),
    }
}

fn wire_schema(schema: &Schema) -> wire::Schema {
    wire::Schema {
        version: schema.version,
        block: Some(wire_block(&schema.block)),
    }
}

fn wire_block(block: &Block) -> wire::schema::Block {
    let attributes = block
        .attributes
        .iter()
        .map(|(name, one)| wire::schema::Attribute {
            name: name.clone(),
            r#type: one.value_type().to_json().to_string().into(),
            required: one.required,
            optional: one.optional,
            computed: one.computed,
            sensitive: one.sensitive,
            deprecated: one.deprecated,
            ..Default::default()
        });
    let nested = block
        .block_types
        .iter()
        .map(|(name, one)| wire::schema::NestedBlock {
            type_name: name.clone(),
            block: Some(wire_block(&one.block)),
            nesting: match one.nesting_mode.as_str() {
                "single" => NestingMode::Single,
                "group" => NestingMode::Group,
                "set" => NestingMode::Set,
                "map" => NestingMode::Map,
                _ => NestingMode::List,
            }
            .into(),
            min_items: one.min_items,
            max_items: one.max_items,
        });
    wire::schema::Block {
        attributes: attributes.collect(),
        block_types: nested.collect(),
        deprecated: block.deprecated,
        ..Default::default()
    }
}

fn capabilities() -> wire::ServerCapabilities {
    wire::ServerCapabilities {
        get_provider_schema_optional: true,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl Provider for Mocked {
    async fn get_metadata(
        &self,
        _: Request<wire::get_metadata::Request>,
    ) -> Reply<wire::get_metadata::Response> {
        let name = |name: &String| wire::get_metadata::TypeName {
            type_name: name.clone(),
        };
        Ok(Response::new(wire::get_metadata::Response {
            server_capabilities: Some(capabilities()),
            resources: self.schema.resource_schemas.keys().map(name).collect(),
            data_sources: self.schema.data_source_schemas.keys().map(name).collect(),
            ..Default::default()
        }))
    }

    async fn get_schema(
        &self,
        _: Request<wire::get_provider_schema::Request>,
    ) -> Reply<wire::get_provider_schema::Response> {
        let all = |schemas: &std::collections::BTreeMap<String, Schema>| {
            schemas
                .iter()
                .map(|(name, one)| (name.clone(), wire_schema(one)))
                .collect()
        };
        Ok(Response::new(wire::get_provider_schema::Response {
            provider: Some(wire_schema(&self.schema.provider)),
            resource_schemas: all(&self.schema.resource_schemas),
            data_source_schemas: all(&self.schema.data_source_schemas),
            provider_meta: Some(wire::Schema {
                version: 0,
                block: Some(wire::schema::Block::default()),
            }),
            server_capabilities: Some(capabilities()),
            ..Default::default()
        }))
    }

    async fn get_resource_identity_schemas(
        &self,
        _: Request<wire::get_resource_identity_schemas::Request>,
    ) -> Reply<wire::get_resource_identity_schemas::Response> {
        Ok(Response::new(Default::default()))
    }

    async fn get_functions(
        &self,
        _: Request<wire::get_functions::Request>,
    ) -> Reply<wire::get_functions::Response> {
        Ok(Response::new(Default::default()))
    }

    async fn prepare_provider_config(
        &self,
        request: Request<wire::prepare_provider_config::Request>,
    ) -> Reply<wire::prepare_provider_config::Response> {
        Ok(Response::new(wire::prepare_provider_config::Response {
            prepared_config: request.into_inner().config,
            diagnostics: Vec::new(),
        }))
    }

    async fn validate_resource_type_config(
        &self,
        _: Request<wire::validate_resource_type_config::Request>,
    ) -> Reply<wire::validate_resource_type_config::Response> {
        Ok(Response::new(Default::default()))
    }

    async fn validate_data_source_config(
        &self,
        _: Request<wire::validate_data_source_config::Request>,
    ) -> Reply<wire::validate_data_source_config::Response> {
        Ok(Response::new(Default::default()))
    }

    async fn configure(
        &self,
        _: Request<wire::configure::Request>,
    ) -> Reply<wire::configure::Response> {
        Ok(Response::new(Default::default()))
    }

    async fn upgrade_resource_state(
        &self,
        request: Request<wire::upgrade_resource_state::Request>,
    ) -> Reply<wire::upgrade_resource_state::Response> {
        let request = request.into_inner();
        let of = self.resource(&request.type_name)?.block.value_type();
        let raw = request.raw_state.unwrap_or_default();
        let state = Value::from_state_json(&of, &raw.json)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let object = match state {
            Value::Object(object) => Some(object),
            _ => None,
        };
        Ok(Response::new(wire::upgrade_resource_state::Response {
            upgraded_state: Some(encode(&of, object)),
            diagnostics: Vec::new(),
        }))
    }

    async fn read_resource(
        &self,
        request: Request<wire::read_resource::Request>,
    ) -> Reply<wire::read_resource::Response> {
        let request = request.into_inner();
        Ok(Response::new(wire::read_resource::Response {
            new_state: request.current_state,
            private: request.private,
            diagnostics: Vec::new(),
        }))
    }

    async fn plan_resource_change(
        &self,
        request: Request<wire::plan_resource_change::Request>,
    ) -> Reply<wire::plan_resource_change::Response> {
        let request = request.into_inner();
        let block = &self.resource(&request.type_name)?.block;
        let of = block.value_type();
        let prior = decode(&of, request.prior_state.as_ref())?;
        let proposed = decode(&of, request.proposed_new_state.as_ref())?;
        let planned = match (&prior, proposed) {
            (None, Some(proposed)) => Some(fill::planned(block, &proposed)),
            (_, proposed) => proposed,
        };
        Ok(Response::new(wire::plan_resource_change::Response {
            planned_state: Some(encode(&of, planned)),
            planned_private: request.prior_private,
            legacy_type_system: true,
            ..Default::default()
        }))
    }

    async fn apply_resource_change(
        &self,
        request: Request<wire::apply_resource_change::Request>,
    ) -> Reply<wire::apply_resource_change::Response> {
        let request = request.into_inner();
        let block = &self.resource(&request.type_name)?.block;
        let of = block.value_type();
        let planned = decode(&of, request.planned_state.as_ref())?;
        let seed =
            |object: &Object| format!("{}:{}", request.type_name, Value::Object(object.clone()));
        let state = planned.map(|planned| fill::known(block, &planned, &seed(&planned)));
        Ok(Response::new(wire::apply_resource_change::Response {
            new_state: Some(encode(&of, state)),
            private: request.planned_private,
            legacy_type_system: true,
            ..Default::default()
        }))
    }

    async fn import_resource_state(
        &self,
        request: Request<wire::import_resource_state::Request>,
    ) -> Reply<wire::import_resource_state::Response> {
        let name = request.into_inner().type_name;
        Err(Status::unimplemented(format!(
            "{name} is mocked, and a mock imports nothing"
        )))
    }

    async fn read_data_source(
        &self,
        request: Request<wire::read_data_source::Request>,
    ) -> Reply<wire::read_data_source::Response> {
        let request = request.into_inner();
        let block = &self.source(&request.type_name)?.block;
        let of = block.value_type();
        let config = decode(&of, request.config.as_ref())?.unwrap_or_default();
        let seed = format!(
            "data.{}:{}",
            request.type_name,
            Value::Object(config.clone())
        );
        Ok(Response::new(wire::read_data_source::Response {
            state: Some(encode(&of, Some(fill::known(block, &config, &seed)))),
            diagnostics: Vec::new(),
        }))
    }

    async fn stop(&self, _: Request<wire::stop::Request>) -> Reply<wire::stop::Response> {
        Ok(Response::new(Default::default()))
    }
}
