//! Tending a store: is everything as it was, and what is nobody's any more.

mod gc;
mod index;
mod prune;
mod verify;

pub use self::{
    gc::{Collected, collect},
    index::{IndexState, index_state},
    prune::{Keep, Needed, prune},
    verify::{Problem, Verified, Wanted, verify},
};
