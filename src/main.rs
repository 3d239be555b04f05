//! Parses, runs, reports: everything else is in the library.

fn main() {}
