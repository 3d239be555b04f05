//! Terraform's plugin protocol, as a provider speaks it.
