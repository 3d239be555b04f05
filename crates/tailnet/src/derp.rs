//! DERP relays: each client is known by its key, and sends packets to other clients' keys.
//!
//! A relay proves nothing of who a client is to others; WireGuard does.

pub mod client;
mod connection;
mod counts;
pub mod frame;
mod guests;
mod rates;
pub mod server;
mod strangers;

pub use self::{counts::Counts, guests::Expected, rates::Limits};
