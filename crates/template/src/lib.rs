//! What a template author does without a server: inspect, draw and test.

mod groups;
mod mermaid;
pub mod picture;
pub mod scenario;
mod survey;
mod svg;

pub use self::{
    mermaid::mermaid,
    picture::Picture,
    survey::{SurveyError, survey},
    svg::svg,
};
