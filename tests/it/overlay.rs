//! People in workspaces, from outside: the program as server and as agents, and OpenSSH as the one who comes.

mod crowd;
mod direct;
mod duties;
mod fake;
mod files;
mod forwards;
mod git;
mod inside;
mod lab;
mod life;
mod outages;
mod proxy;
mod sessions;
mod terminals;
