//! Terraform and OpenTofu as engines: processes in, resources out.
