//! Child processes: groups, pipes, signals.
