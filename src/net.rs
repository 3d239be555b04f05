//! TLS, proxies and HTTP, which several engines share.

pub mod websocket;
