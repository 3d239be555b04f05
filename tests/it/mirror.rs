//! The mirror from outside: what it fetches, and from whom, and what engines take from it.

mod audit;
mod bundle;
mod images;
mod killed;
mod landing;
mod modules;
mod neighbours;
pub mod origin;
mod pull;
mod republished;
mod round_trip;
mod rows;
mod running;
mod screen;
pub mod serve;
mod sites;
mod sync;
mod trust;
mod unchanged;
mod unmet;
mod unsigned;
