//! The one integration-test binary: the program from outside.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod agent_url;
mod bootstrap;
mod ca;
mod cli;
mod commands;
mod control;
mod conversion;
mod daemon;
mod deploy;
mod dev;
mod doctor;
mod documents;
mod engine;
mod fake_coderd;
mod fuzz;
mod go_agent;
mod go_cli;
mod go_daemon;
mod hostile;
mod interop;
mod isolation;
mod kill_matrix;
mod layers;
mod mirror;
mod operators;
mod overlay;
mod plugin;
mod plugin_cache;
mod proto_fresh;
mod provider;
mod recordings;
mod remote;
mod sealed;
mod server_metrics;
mod shim;
mod slots;
mod source;
mod start;
mod support;
mod template;
mod template_scenarios;
