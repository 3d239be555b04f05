//! What templates need without a network: a store of providers, modules, repositories and engines, and the provider
//! that is built in.

pub mod builtin;
pub mod bundle;
mod digest;
pub mod doctor;
pub mod fetch;
pub mod generation;
pub mod git;
pub mod images;
pub mod inventory;
pub mod keys;
pub mod publisher;
pub mod pulled;
mod remote;
mod resolve;
pub mod scan;
pub mod serve;
pub mod setup;
pub mod store;
pub mod sync;
pub mod tend;
mod view;
pub mod vulnerabilities;

pub use self::{
    digest::{Digest, DigestError},
    generation::Generation,
    remote::{Offer, Remote, RemoteError},
    store::{Store, StoreError},
    view::Packages,
};

/// What of a store no reader of packages needs: the index of each generation and the locks, which a reader could hold
/// for ever, what is not whole yet, the authority of a proxy with its key, what is trusted, and what was pulled.
pub const PRIVATE: [&str; 6] = [
    "generations",
    "incoming",
    "lock",
    "proxy",
    "pulled",
    "trust",
];
