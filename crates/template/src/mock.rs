//! Providers that stand in for the real ones: served from a schema, without a network and without an effect.

mod addresses;
mod archive;
mod ask;
mod backend;
mod doubles;
mod fill;
mod given;
mod infer;
mod replace;
mod schema;
mod service;
mod store;

pub use self::{
    addresses::is_mocked,
    archive::prepare,
    ask::{Question, ask, package_key},
    backend::StateServer,
    doubles::Doubles,
    given::{Unfit, Values},
    infer::{infer, providers},
    schema::{Attribute, Block, ProviderSchema, Schemas, SchemasError},
    service::{ServeError, serve},
    store::{Mock, MockStore, RealProvider, Served},
};
pub(crate) use self::{
    doubles::{has_backend, mocks},
    given::{conform, type_in},
    replace::force_new,
};

/// The hidden command with which our program serves a mock; the schema's file follows it.
pub const COMMAND: &str = "terraform-provider-mock";
