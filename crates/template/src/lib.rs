//! Commands of a template author that need no server: inspect, draw, check and test.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests make the files, the clocks and the environments that they need"
    )
)]

pub mod check;
mod complaints;
pub mod dependence;
mod groups;
mod mermaid;
pub mod mock;
pub mod picture;
pub mod policy;
pub mod result_cache;
pub mod scenario;
mod similar;
mod survey;
mod svg;

pub use self::{
    mermaid::mermaid,
    picture::Picture,
    survey::{SurveyError, survey},
    svg::svg,
};
