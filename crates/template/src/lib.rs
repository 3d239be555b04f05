//! What a template author does without a server: inspect and draw.

mod groups;
mod mermaid;
pub mod picture;
mod survey;
mod svg;

pub use self::{
    mermaid::mermaid,
    picture::Picture,
    survey::{SurveyError, survey},
    svg::svg,
};
