//! Those who mean harm, beside a real server, daemon and engine: what each of them gets, and what goes on beside it.

mod memory;
mod names;
mod places;
mod red_team;
mod session_files;
