//! The mirror from outside: what it fetches, and from whom, and what engines take from it.

mod bundle;
pub mod origin;
mod pull;
pub mod serve;
mod sync;
