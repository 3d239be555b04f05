//! Terraform's language without an engine: files with spans, version constraints, the lock file, the CLI
//! configuration.
//!
//! [`load`] reads the root module of a directory. Each of the other functions extracts one kind of information from
//! it: [`variables()`], [`workspace_tags_raw`], [`required_providers`], [`module_calls`], [`backend()`],
//! [`outline()`]. Nothing here starts a process or uses a network.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

mod backend;
pub mod cli_config;
pub mod constraint;
mod diagnostic;
mod eval;
mod files;
mod json;
pub mod lock;
mod module;
mod outline;
mod providers;
mod quote;
mod tags;
mod variables;

pub use self::{
    backend::{Backend, backend},
    constraint::{Constraint, ConstraintError},
    diagnostic::{Diagnostic, LoadError, Severity},
    eval::{EvalError, evaluate_condition, evaluate_text, text as primitive_text},
    files::TemplateFiles,
    module::{Located, Module, SourceFile, load},
    outline::{
        Count, EphemeralReference, Outline, OutlinedResource, ephemeral_references, outline,
        outline_of,
    },
    providers::{
        ModuleCall, RequiredProvider, module_calls, required_providers, required_providers_of_tree,
    },
    quote::quote,
    tags::{TagError, workspace_tags_raw},
    variables::variables,
};
