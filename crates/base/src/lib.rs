//! The base: nouns of a job, addresses in registries, rules, secrets, how work is stopped, and causes of errors. No
//! I/O.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod error_chain;
pub mod job;
pub mod registry;
pub mod rules;
pub mod secret;
pub mod stop;
