//! A Terraform-driven provisioner runtime for Coder, in one binary.
//!
//! The modules stand in reading order. [`job`] has the nouns and [`provision`] the contracts; [`daemon`] is the
//! verb. Arrows point one way: `cli` knows services, services know engines, engines know the system, and all know
//! the base. `ARCHITECTURE.md` has the picture.

// Base: values, contracts and rules, no I/O.
pub mod error_chain;
pub mod job;
pub mod language;
pub mod proto;
pub mod provision;
pub mod registry;
pub mod rules;
pub mod secret;
pub mod stop;
pub mod value;

// System: the machine, no domain.
pub mod files;
pub mod net;
pub mod process;

// Engines: each masters one outside thing.
pub mod mirror;
pub mod plugin;
pub mod tailnet;
pub mod terraform;
pub mod transport;

// Services: long-running; they know engines, never each other.
pub mod agent;
pub mod coder_provider;
pub mod connect;
pub mod control;
pub mod daemon;

// On top.
pub mod cli;
pub mod client;
pub mod config;
pub mod observe;
pub mod template;
