//! The gRPC service that Terraform calls: requests in, the provider's answers out.

mod configuration;
mod convert;
mod data_source;
mod messages;
mod resource;

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use outpost_value::Type;
use outpost_wire::proto::tfplugin5::{self as wire, provider_server};
use tonic::{Request, Response, Status};

use self::convert::diagnostics;
use crate::{DataSource, Diagnostic, Diagnostics, Provider, Resource, Schema};

pub(super) struct Service<C> {
    provider: Provider<C>,
    resources: BTreeMap<String, Described>,
    data_sources: BTreeMap<String, Described>,
    /// Context for the resources, which `Configure` sets.
    context: RwLock<Option<Arc<C>>>,
}

/// A schema and values that are derived from it.
struct Described {
    schema: Schema,
    of: Type,
}

impl Described {
    fn new(schema: Schema) -> Self {
        let schema = schema.with_id();
        let of = schema.value_type();
        Self { schema, of }
    }
}

/// Result of a call; errors replace the whole answer.
type Answer<T> = Result<T, Diagnostics>;

impl<C> Service<C> {
    pub(super) fn new(provider: Provider<C>) -> Self {
        let resources = provider.resources.iter();
        let data_sources = provider.data_sources.iter();
        Self {
            resources: resources
                .map(|(name, one)| (name.clone(), Described::new(one.schema())))
                .collect(),
            data_sources: data_sources
                .map(|(name, one)| (name.clone(), Described::new(one.schema())))
                .collect(),
            context: RwLock::new(None),
            provider,
        }
    }

    fn resource(&self, name: &str) -> Answer<(&dyn Resource<C>, &Described)> {
        let found = self
            .provider
            .resources
            .get(name)
            .zip(self.resources.get(name));
        let (resource, described) =
            found.ok_or_else(|| Diagnostic::error(format!("unknown resource type: {name}")))?;
        Ok((&**resource, described))
    }

    fn source(&self, name: &str) -> Answer<(&dyn DataSource<C>, &Described)> {
        let found = self
            .provider
            .data_sources
            .get(name)
            .zip(self.data_sources.get(name));
        let (source, described) =
            found.ok_or_else(|| Diagnostic::error(format!("unknown data source: {name}")))?;
        Ok((&**source, described))
    }

    fn context(&self) -> Answer<Arc<C>> {
        let context = self
            .context
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let missing = || Diagnostic::error("the provider was called before it was configured");
        Ok(context.clone().ok_or_else(missing)?)
    }
}

/// Runs a call: the answer has either its result, or only diagnostics.
macro_rules! answer {
    ($result:expr, $response:path, |$parts:pat_param| $made:expr) => {
        Ok(Response::new(match $result {
            Ok($parts) => $made,
            Err(errors) => {
                let mut response = <$response>::default();
                response.diagnostics = diagnostics(errors);
                response
            }
        }))
    };
}

/// Result of the service's functions.
type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<C: Send + Sync + 'static> provider_server::Provider for Service<C> {
    async fn get_metadata(
        &self,
        _: Request<wire::get_metadata::Request>,
    ) -> Reply<wire::get_metadata::Response> {
        Ok(Response::new(messages::metadata(
            self.resources.keys(),
            self.data_sources.keys(),
        )))
    }

    async fn get_schema(
        &self,
        _: Request<wire::get_provider_schema::Request>,
    ) -> Reply<wire::get_provider_schema::Response> {
        let all = |described: &BTreeMap<String, Described>| {
            let schemas = described.iter();
            schemas
                .map(|(name, one)| (name.clone(), convert::schema(&one.schema)))
                .collect()
        };
        let provider = convert::schema(&self.provider.schema);
        Ok(Response::new(messages::schemas(
            provider,
            all(&self.resources),
            all(&self.data_sources),
        )))
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
        use wire::prepare_provider_config::Response as Prepared;
        answer!(self.prepare(request.into_inner()), Prepared, |config| {
            Prepared {
                prepared_config: Some(config),
                diagnostics: Vec::new(),
            }
        })
    }

    async fn validate_resource_type_config(
        &self,
        request: Request<wire::validate_resource_type_config::Request>,
    ) -> Reply<wire::validate_resource_type_config::Response> {
        let found = self
            .validate_resource(request.into_inner())
            .unwrap_or_else(|errors| errors);
        Ok(Response::new(
            wire::validate_resource_type_config::Response {
                diagnostics: diagnostics(found),
            },
        ))
    }

    async fn validate_data_source_config(
        &self,
        request: Request<wire::validate_data_source_config::Request>,
    ) -> Reply<wire::validate_data_source_config::Response> {
        let found = self
            .validate_source(request.into_inner())
            .unwrap_or_else(|errors| errors);
        Ok(Response::new(wire::validate_data_source_config::Response {
            diagnostics: diagnostics(found),
        }))
    }

    async fn configure(
        &self,
        request: Request<wire::configure::Request>,
    ) -> Reply<wire::configure::Response> {
        let found = self
            .configure(request.into_inner())
            .unwrap_or_else(|errors| errors);
        Ok(Response::new(wire::configure::Response {
            diagnostics: diagnostics(found),
        }))
    }

    async fn upgrade_resource_state(
        &self,
        request: Request<wire::upgrade_resource_state::Request>,
    ) -> Reply<wire::upgrade_resource_state::Response> {
        use wire::upgrade_resource_state::Response as Upgraded;
        answer!(self.upgrade(request.into_inner()), Upgraded, |state| {
            Upgraded {
                upgraded_state: state,
                diagnostics: Vec::new(),
            }
        })
    }

    async fn read_resource(
        &self,
        request: Request<wire::read_resource::Request>,
    ) -> Reply<wire::read_resource::Response> {
        use wire::read_resource::Response as Read;
        let request = request.into_inner();
        answer!(self.read(&request), Read, |(state, warnings)| Read {
            new_state: Some(state),
            diagnostics: diagnostics(warnings),
            private: request.private,
        })
    }

    async fn plan_resource_change(
        &self,
        request: Request<wire::plan_resource_change::Request>,
    ) -> Reply<wire::plan_resource_change::Response> {
        use wire::plan_resource_change::Response as Planned;
        answer!(self.plan(request.into_inner()), Planned, |planned| planned)
    }

    async fn apply_resource_change(
        &self,
        request: Request<wire::apply_resource_change::Request>,
    ) -> Reply<wire::apply_resource_change::Response> {
        use wire::apply_resource_change::Response as Applied;
        let request = request.into_inner();
        let prior = request.prior_state.clone();
        let mut response = self.apply(request).unwrap_or_else(|errors| Applied {
            new_state: prior,
            diagnostics: diagnostics(errors),
            ..Applied::default()
        });
        // Terraform then tolerates the SDK's loose treatment of null and zero, which it would otherwise refuse.
        response.legacy_type_system = true;
        Ok(Response::new(response))
    }

    async fn import_resource_state(
        &self,
        request: Request<wire::import_resource_state::Request>,
    ) -> Reply<wire::import_resource_state::Response> {
        let name = request.into_inner().type_name;
        let errors = self.resource(&name).err().unwrap_or_else(|| {
            Diagnostic::error(format!("resource {name} doesn't support import")).into()
        });
        Ok(Response::new(wire::import_resource_state::Response {
            diagnostics: diagnostics(errors),
            ..Default::default()
        }))
    }

    async fn read_data_source(
        &self,
        request: Request<wire::read_data_source::Request>,
    ) -> Reply<wire::read_data_source::Response> {
        use wire::read_data_source::Response as Read;
        answer!(self.read_source(&request.into_inner()), Read, |(
            state,
            warnings,
        )| {
            Read {
                state: Some(state),
                diagnostics: diagnostics(warnings),
            }
        })
    }

    /// Does nothing, because calls end at once.
    async fn stop(&self, _: Request<wire::stop::Request>) -> Reply<wire::stop::Response> {
        Ok(Response::new(Default::default()))
    }
}
