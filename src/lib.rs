//! A Terraform-driven provisioner runtime for Coder, in one binary.
//!
//! The modules are in reading order. [`job`] has the nouns and [`provision`] the contracts; [`daemon`] is the verb.
//! Arrows point one way: `cli` knows services, services know engines, engines know the system, and all know the base.
//! `ARCHITECTURE.md` has the picture.

// Base: values, contracts and rules, no I/O.
pub use outpost_base::{error_chain, job, registry, rules, secret, stop};
pub use outpost_language as language;
pub use outpost_provision as provision;
pub use outpost_value as value;
pub use outpost_wire::{messages, proto};

// System: functions of the machine, without domain knowledge.
pub use outpost_files as files;
pub use outpost_net as net;
pub use outpost_process as process;

// Engines: each handles one external system.
pub use outpost_mirror as mirror;
pub use outpost_plugin as plugin;
pub use outpost_tailnet as tailnet;
pub use outpost_terraform as terraform;
pub use outpost_transport as transport;

// Services: long-running; they know engines, never each other.
pub use outpost_agent as agent;
pub use outpost_coder_provider as coder_provider;
pub use outpost_connect as connect;
pub use outpost_control as control;
pub use outpost_daemon as daemon;

// On top.
pub mod cli;
pub mod client;
pub mod config;
pub mod observe;
pub use outpost_template as template;
