//! Terraform and OpenTofu as engines: processes in, resources out.

pub mod graph;
pub mod plan;
pub mod reference_json;
pub mod resources;
pub mod state;
pub mod template;
