//! Terraform's plugin protocol, version 5, from the provider's side.
//!
//! A [`Provider`] names its resources and data sources; each describes itself by a [`Schema`] and sets its computed
//! attributes. Everything between that and Terraform is here: the handshake on stdout and the mutual TLS of its
//! plugin system, the gRPC services, and the rules by which HashiCorp's plugin SDK (version 2) plans and stores
//! values, including `""` and null, sets and blocks. Those rules matter: a state written by a provider with that SDK
//! must be planned without a change by one of ours, and vice versa.

mod diagnostic;
mod handshake;
mod listen;
mod mutual_tls;
mod plan;
mod provider;
mod schema;
mod serve;
mod service;
mod settle;
mod validate;

pub use self::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    handshake::{COOKIE, Launch, LaunchError},
    mutual_tls::TlsError,
    provider::{Call, Configure, DataSource, Outcome, Provider, Resource},
    schema::{
        Block, Check, Default, Field, Nesting, Presence, Schema, Shape, computed, list, optional,
        required, set,
    },
    serve::{ServeError, serve, serve_service},
};
