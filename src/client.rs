//! Our gRPC API as the commands see it.
