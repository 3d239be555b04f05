//! The embedded control plane: templates, workspaces, builds and their jobs.

pub mod config;
pub mod crypt;
pub mod model;
pub mod queue;
pub mod tokens;
