//! Network functions that several engines share: TLS, proxies and HTTP.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read clocks and write files as they like"
    )
)]

pub mod access;
pub mod back_off;
pub mod budget;
pub mod ca;
pub mod certificate;
pub mod headers;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod network;
pub mod proxy;
pub mod tls;
pub mod trust;
pub mod web;
pub mod websocket;

/// Makes aws-lc-rs the cryptography of every TLS connection. Calling it twice does nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already, and we never install another one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
