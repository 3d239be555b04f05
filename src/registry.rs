//! Addresses of providers, platforms and checksums.
