//! Providers that stand in for the real ones: served from a schema, without a network and without an effect.

mod archive;
mod fill;
mod infer;
mod schema;
mod service;
mod store;

pub use self::{
    archive::prepare,
    infer::{infer, providers},
    schema::{Block, ProviderSchema, Schemas, SchemasError},
    service::{ServeError, serve},
    store::{Mock, MockStore},
};

/// The hidden command with which our program serves a mock; the schema's file follows it.
pub const COMMAND: &str = "terraform-provider-mock";
