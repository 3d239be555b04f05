//! A mock as Terraform's plugin: the protocol's calls, answered from a schema.

use std::{fs, io, path::Path};

use outpost_plugin::{self as plugin, Launch};
use outpost_value::{Object, Type, Value};
use outpost_wire::proto::tfplugin5::{
    self as wire, provider_server::Provider, schema::nested_block::NestingMode,
};
use serde_json::Value as Json;
use tonic::{Request, Response, Status};

use super::{
    addresses, fill,
    given::{Identity, conform, values_for},
    replace,
    schema::{Attribute, Block, Schema},
    store::Served,
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
    let mut served: Served = serde_json::from_slice(&fs::read(schema)?)?;
    let schema = &mut served.schema;
    let resources = schema.resource_schemas.values_mut();
    for one in resources.chain(schema.data_source_schemas.values_mut()) {
        one.block
            .attributes
            .insert(addresses::ARGUMENT.to_owned(), address_argument());
    }
    Ok(plugin::serve_service(Mocked(served), launch)?)
}

fn address_argument() -> Attribute {
    Attribute {
        kind: "string".into(),
        optional: true,
        ..Attribute::default()
    }
}

/// A provider without any effect.
struct Mocked(Served);

type Reply<T> = Result<Response<T>, Status>;

impl Mocked {
    fn resource(&self, name: &str) -> Result<&Schema, Status> {
        let unknown = || Status::not_found(format!("unknown resource type: {name}"));
        self.0.schema.resource_schemas.get(name).ok_or_else(unknown)
    }

    fn source(&self, name: &str) -> Result<&Schema, Status> {
        let unknown = || Status::not_found(format!("unknown data source: {name}"));
        self.0
            .schema
            .data_source_schemas
            .get(name)
            .ok_or_else(unknown)
    }
}

impl Mocked {
    /// The object with all values, which follow from its address; from its arguments if nobody passed one.
    fn known(
        &self,
        is_data: bool,
        kind: &str,
        block: &Block,
        object: &Object,
        passed: &str,
    ) -> Result<Object, Status> {
        let (name, address) = passed.split_once('|').unwrap_or_default();
        let seed = match address {
            "" => format!("{kind}:{}", Value::Object(object.clone())),
            address => address.to_owned(),
        };
        let identity = Identity {
            is_data,
            kind,
            name,
            address,
        };
        let given = values_for(&self.0.values, block, &identity, &seed)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(fill::known(block, object, &given, &seed))
    }
}

fn address(object: &Object) -> Option<String> {
    object.text(addresses::ARGUMENT).map(str::to_owned)
}

fn without_address(mut object: Object) -> Object {
    object.set(addresses::ARGUMENT, Value::Null);
    object
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

/// A state of a real provider, as far as it fits the schema.
fn foreign(block: &Block, json: &Json) -> Object {
    let mut object = Object::new();
    for (name, attribute) in &block.attributes {
        let value = conform(&attribute.value_type(), &json[name], "").unwrap_or_default();
        object.set(name.clone(), value);
    }
    for (name, nested) in &block.block_types {
        let inner = |json: &Json| Value::Object(foreign(&nested.block, json));
        let value = match (nested.nesting_mode.as_str(), &json[name]) {
            ("single" | "group", json) if json.is_object() => inner(json),
            ("single" | "group", _) => Value::Null,
            ("map", json) => {
                let members = json.as_object().into_iter().flatten();
                Value::Map(members.map(|(key, it)| (key.clone(), inner(it))).collect())
            }
            ("set", json) => Value::set(json.as_array().into_iter().flatten().map(inner)),
            (_, json) => Value::List(json.as_array().into_iter().flatten().map(inner).collect()),
        };
        object.set(name.clone(), value);
    }
    object
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
            resources: self.0.schema.resource_schemas.keys().map(name).collect(),
            data_sources: self.0.schema.data_source_schemas.keys().map(name).collect(),
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
            provider: Some(wire_schema(&self.0.schema.provider)),
            resource_schemas: all(&self.0.schema.resource_schemas),
            data_source_schemas: all(&self.0.schema.data_source_schemas),
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
        let block = &self.resource(&request.type_name)?.block;
        let of = block.value_type();
        let raw = request.raw_state.unwrap_or_default();
        let object = match Value::from_state_json(&of, &raw.json) {
            Ok(Value::Object(object)) => Some(object),
            Ok(_) => None,
            // That of a real provider, whose types may be others than those that are inferred.
            Err(_) => {
                let json: Json = serde_json::from_slice(&raw.json)
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                Some(foreign(block, &json))
            }
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
        let address = proposed.as_ref().and_then(address);
        let planned = match (&prior, proposed.map(without_address)) {
            (None, Some(proposed)) => Some(fill::planned(block, &proposed)),
            (_, proposed) => proposed,
        };
        let requires_replace = match (&prior, &planned) {
            (Some(prior), Some(planned)) => {
                let paths = self.0.force_new.get(&request.type_name);
                replace::required(prior, planned, paths.map_or(&[][..], Vec::as_slice))
            }
            _ => Vec::new(),
        };
        Ok(Response::new(wire::plan_resource_change::Response {
            planned_state: Some(encode(&of, planned)),
            // A state shows nothing of the address.
            planned_private: address.unwrap_or_default().into(),
            requires_replace,
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
        let address = String::from_utf8_lossy(&request.planned_private);
        let state = match &planned {
            Some(planned) => {
                Some(self.known(false, &request.type_name, block, planned, &address)?)
            }
            None => None,
        };
        Ok(Response::new(wire::apply_resource_change::Response {
            new_state: Some(encode(&of, state)),
            private: request.planned_private.clone(),
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
        let address = address(&config).unwrap_or_default();
        let config = without_address(config);
        let state = self.known(true, &request.type_name, block, &config, &address)?;
        Ok(Response::new(wire::read_data_source::Response {
            state: Some(encode(&of, Some(state))),
            diagnostics: Vec::new(),
        }))
    }

    async fn stop(&self, _: Request<wire::stop::Request>) -> Reply<wire::stop::Response> {
        Ok(Response::new(Default::default()))
    }
}
