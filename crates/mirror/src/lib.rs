//! Packages for templates on machines without a network: a store of providers, modules, repositories and engines, and
//! the built-in provider.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

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
pub mod lock;
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

/// Parts of a store that readers of packages do not need: the index of each generation, the locks, which a reader
/// could hold forever, incomplete files, the authority of a proxy with its key, trusted keys, pulled packages, and
/// answers of origins.
pub const PRIVATE: [&str; 7] = [
    "answers",
    "generations",
    "incoming",
    "lock",
    "proxy",
    "pulled",
    "trust",
];
