//! Embedded control plane: templates, workspaces, builds and their jobs, for laptops, labs and small sites.
//!
//! [`start()`] opens the storage and the listener. Below it, from the inside out: [`queue`] decides which daemon
//! takes which job and [`parameters`] which values are accepted, both without I/O; [`store`] keeps everything that
//! must last; [`plane`] has the operations; `services` translate wire protocols into its calls, and [`LocalSource`]
//! serves a daemon in this process.
//!
//! A job is handed out at most once and ends exactly once. Its end, its state and its resources are stored together
//! or not at all; a terminal message may be repeated, and a state that arrives late is kept.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod agent_ids;
pub mod agent_log;
pub mod agent_reports;
pub mod backup;
mod binaries;
pub mod config;
pub mod data_dir;
pub mod job_log;
mod metrics;
pub mod model;
pub mod parameters;
pub mod plane;
mod psk;
pub mod queue;
mod services;
pub mod sessions;
pub mod snapshot;
mod source;
mod start;
pub mod store;
pub mod tokens;
pub mod workspace_tags;

use outpost_files::sealed as crypt;

pub use self::{
    config::{Config, ConfigError, DirectPaths, Limits, StateKey, Storage},
    metrics::Metrics,
    plane::Registration,
    source::LocalSource,
    start::{Running, StartError, start},
};
