//! The mirror from outside: what it fetches, and from whom.

pub mod origin;
mod sync;
