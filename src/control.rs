//! The embedded control plane: templates, workspaces, builds and their jobs.
