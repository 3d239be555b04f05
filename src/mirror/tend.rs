//! Tending a store: is everything as it was, and what is nobody's any more.

mod gc;
mod prune;
mod verify;

pub use self::{
    gc::{Collected, collect},
    prune::{Keep, prune},
    verify::{Problem, Verified, verify},
};
