//! The provisioner daemon: acquire a job, run it, say how it ended.
