//! The built-in `coder` provider.
