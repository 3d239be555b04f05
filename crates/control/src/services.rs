//! Wires: gRPC for daemons and commands, Coder's own for daemons, and a few plain HTTP routes. They translate and
//! decide nothing.

mod binaries;
mod caller;
mod calls;
mod coder;
mod control;
mod convert;
mod daemon;
mod deadline;
mod gate;
mod http;
mod metered;
mod names;
mod responses;
mod status;

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};
use outpost_net::budget::Refusals;
use outpost_wire::proto::outpost::v1::{
    control_service_server::ControlServiceServer, daemon_service_server::DaemonServiceServer,
};
use tonic::service::Routes;

use self::{
    control::Control,
    daemon::Daemons,
    gate::{Gate, Shares},
};
use super::{config::Config, data_dir::DataDir, plane::Plane};

/// Routes of everything that the listener answers.
pub(super) fn routes(
    plane: &Arc<Plane>,
    config: &Config,
    data_dir: Option<Arc<DataDir>>,
    refusals: &Refusals,
) -> Router {
    let limit = config.limits.message_bytes;
    let daemons = DaemonServiceServer::new(Daemons::new(plane.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let control = ControlServiceServer::new(Control::new(plane.clone(), data_dir.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(outpost_wire::proto::DESCRIPTOR)
        .build_v1()
        .expect("the committed descriptor is valid");
    let (_, health) = tonic_health::server::health_reporter();
    let grpc = Routes::new(health)
        .add_service(reflection)
        .add_service(daemons)
        .add_service(control)
        .into_axum_router();
    let shares = Shares::new(limit, refusals);
    let gate = Gate::new(plane.clone(), shares.clone());
    let grpc = grpc.route_layer(from_fn_with_state(gate, gate::admit));
    let timeout = config.limits.request_timeout;
    grpc.merge(http::routes(plane.clone(), config, data_dir))
        .merge(coder::routes(plane, config, shares))
        .merge(binaries::routes(plane.clone()))
        .fallback(http::unknown)
        .method_not_allowed_fallback(http::unknown)
        .layer(from_fn(move |request, next| {
            deadline::enforce(timeout, request, next)
        }))
}
