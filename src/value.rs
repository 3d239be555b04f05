//! Terraform values: types, JSON, msgpack and unknowns.
