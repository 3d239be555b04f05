//! Maintenance of a store: verification, and removal of what is no longer needed.

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
