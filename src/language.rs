//! Terraform's language without an engine: files with spans, version constraints, the lock file, the CLI configuration.
