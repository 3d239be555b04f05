//! Names that every condition may use: roots, and the fields of what they hold.

use super::{Place, Reference};

/// First names of references.
pub(super) const ROOTS: [&str; 8] = [
    "agent",
    "resource",
    "parameter",
    "preset",
    "tags",
    "daily_cost",
    "variable",
    "output",
];

const AGENT: &[&str] = &[
    "os",
    "arch",
    "dir",
    "token_reaches",
    "env",
    "apps",
    "scripts",
    "metadata",
    "resource",
    "order",
    "connection_timeout",
    "troubleshooting_url",
    "motd_file",
    "display_apps",
];
const APP: &[&str] = &[
    "url",
    "share",
    "hidden",
    "healthcheck",
    "open_in",
    "order",
    "group",
    "display_name",
    "command",
    "icon",
    "tooltip",
    "subdomain",
    "external",
];
const SCRIPT: &[&str] = &[
    "script",
    "cron",
    "run_on_start",
    "run_on_stop",
    "start_blocks_login",
    "timeout",
    "log_path",
    "icon",
];
const METADATA: &[&str] = &["display_name", "script", "interval", "timeout", "order"];
const RESOURCE: &[&str] = &[
    "type",
    "name",
    "class",
    "persistence",
    "daily_cost",
    "change",
    "hide",
    "icon",
    "metadata",
    "agents",
    "instance_type",
];
const PARAMETER: &[&str] = &[
    "type",
    "default",
    "value",
    "mutable",
    "ephemeral",
    "required",
    "options",
    "display_name",
    "description",
];
const PRESET: &[&str] = &["description", "icon", "default", "parameters", "prebuilds"];

/// A field that no template can have, its place, and those that there are.
pub(super) fn wrong(reference: &Reference) -> Option<(String, Place, &'static [&'static str])> {
    let path: Vec<&str> = reference
        .path
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let (at, known) = match (reference.root.0.as_str(), path.as_slice()) {
        ("agent", [_, "apps", _, _, ..]) => (3, APP),
        ("agent", [_, "scripts", _, _, ..]) => (3, SCRIPT),
        ("agent", [_, "metadata", _, _, ..]) => (3, METADATA),
        ("agent", [_, _, ..]) => (1, AGENT),
        ("resource", [_, _, ..]) => (1, RESOURCE),
        ("parameter", [_, _, ..]) => (1, PARAMETER),
        ("preset", [_, _, ..]) => (1, PRESET),
        _ => return None,
    };
    let (name, place) = &reference.path[at];
    let is_wrong = !known.contains(&name.as_str());
    is_wrong.then(|| (name.clone(), place.clone(), known))
}
