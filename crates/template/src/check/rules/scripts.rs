//! Rules about scripts: when they run, how long they take, whom they call, and the environment that they get.

use std::{collections::BTreeMap, ops::Range, sync::LazyLock};

use hcl_edit::Span;
use regex::Regex;

use super::{Check, Spot};
use crate::check::{
    model::{Argument, Decl, Nested},
    values::Scope,
};

/// A `sleep` of a shell script, with a unit or in seconds.
static SLEEP: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\bsleep\s+(\d+(?:\.\d+)?)([smhd]?)\b").expect("is valid"));

/// The beginning of an address that a script may call.
static CALL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b(?:https?|ftp|ssh|git)://([A-Za-z0-9.\-]+)").expect("is valid")
});

/// Arguments that hold scripts, by type.
const SCRIPTS: [(&str, &str); 4] = [
    ("coder_agent", "startup_script"),
    ("coder_agent", "shutdown_script"),
    ("coder_script", "script"),
    ("coder_app", "command"),
];

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    for decl in model.of_kind("coder_script") {
        runs(check, decl, &model.scopes(decl));
    }
    for decl in model.of_kind("coder_agent") {
        for block in decl.nested("metadata") {
            slow(check, decl, &block, &model.scopes(decl));
        }
    }
    environment(check);
    if check.options.is_sealed {
        calls(check);
    }
}

fn runs(check: &mut Check<'_, '_>, decl: &Decl<'_>, scopes: &[Scope]) {
    let never = |name: &str| match decl.argument(name) {
        None => true,
        Some(argument) => {
            let off = |scope: &Scope| check.model.text(scope, Some(argument));
            !scopes.is_empty()
                && scopes
                    .iter()
                    .all(|scope| matches!(off(scope).as_deref(), Some("false" | "")))
        }
    };
    if ["run_on_start", "run_on_stop", "cron"]
        .into_iter()
        .all(never)
    {
        let message =
            "nothing ever runs the script: neither `run_on_start`, `run_on_stop` nor `cron` is set";
        let remedy = "set `run_on_start = true`, or `cron` for a script that runs by the clock";
        check.report("script-never-runs", check.block(decl), message, remedy);
    }
}

fn slow(check: &mut Check<'_, '_>, decl: &Decl<'_>, block: &Nested<'_>, scopes: &[Scope]) {
    let Some(scope) = scopes.first() else { return };
    let number =
        |name: &str| -> Option<f64> { check.model.text(scope, block.argument(name))?.parse().ok() };
    let (interval, timeout) = (number("interval"), number("timeout").filter(|it| *it > 0.0));
    if let (Some(interval), Some(timeout)) = (interval, timeout)
        && interval < timeout
        && let Some(argument) = block.argument("interval")
    {
        let message =
            format!("the script runs every {interval} s, and each run may take {timeout} s");
        let remedy = "raise `interval` to at least `timeout`";
        let spot = check.spot(decl, argument.place());
        check.report("metadata-too-slow", spot, message, remedy);
    }
    let Some(script) = block.argument("script") else {
        return;
    };
    let text = check
        .model
        .text(scope, Some(script))
        .unwrap_or_else(|| source(script).to_owned());
    let sleeps: f64 = SLEEP
        .captures_iter(&text)
        .filter_map(|found| seconds(&found[1], &found[2]))
        .sum();
    let limit = timeout.or(interval);
    if let Some(limit) = limit.filter(|limit| sleeps > *limit) {
        let message = format!(
            "the script sleeps {sleeps} s and is ended after {limit} s, so it never has a value"
        );
        let remedy = "shorten the script, or raise `timeout` and `interval`";
        let spot = check.spot(decl, script.place());
        check.report("metadata-too-slow", spot, message, remedy);
    }
}

fn seconds(number: &str, unit: &str) -> Option<f64> {
    let factor = match unit {
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => 1.0,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

fn source<'a>(argument: Argument<'a>) -> &'a str {
    argument.file.parsed.source(&argument.attribute.value)
}

/// Variables of one name and agent.
fn environment(check: &mut Check<'_, '_>) {
    let model = check.model;
    let mut seen: BTreeMap<(Vec<usize>, String), String> = BTreeMap::new();
    let mut found = Vec::new();
    for decl in model.of_kind("coder_env") {
        let Some(agent) = decl.argument("agent_id") else {
            continue;
        };
        let agents: Vec<usize> = check
            .trace(decl, agent)
            .decls
            .iter()
            .map(|(decl, _)| *decl)
            .collect();
        for scope in model.scopes(decl).iter().filter(|scope| scope.is_certain) {
            let Some(name) = model.text(scope, decl.argument("name")) else {
                continue;
            };
            let address = format!("{}{}", decl.address, scope.key);
            let strategy = match decl.argument("merge_strategy") {
                Some(argument) => model.text(scope, Some(argument)),
                None => Some("error".to_owned()),
            };
            let says_how = strategy.is_none_or(|strategy| strategy != "error");
            match seen.get(&(agents.clone(), name.clone())) {
                Some(first) if !says_how => {
                    found.push((decl, name, first.clone()));
                    break;
                }
                Some(_) => {}
                None => {
                    seen.insert((agents.clone(), name), address);
                }
            }
        }
    }
    for (decl, name, first) in found {
        let message = format!(
            "the agent has the variable `{name}` twice, also from `{first}`, and nothing says which one counts"
        );
        let remedy = "remove one, or say how to merge them: `merge_strategy = \"append\"`, `\"prepend\"` or `\"replace\"`";
        check.report("env-duplicate", check.block(decl), message, remedy);
    }
}

/// Addresses in scripts that are out of reach where no public host is.
fn calls(check: &mut Check<'_, '_>) {
    let model = check.model;
    for (kind, name) in SCRIPTS {
        for decl in model.of_kind(kind) {
            let Some(argument) = decl.argument(name) else {
                continue;
            };
            let start = argument.attribute.value.span().map_or(0, |span| span.start);
            let text = source(argument);
            let found: Vec<(Range<usize>, String)> = CALL
                .captures_iter(text)
                .filter_map(|found| Some((found.get(0)?.range(), found[1].to_owned())))
                .filter(|(_, host)| is_public(host))
                .collect();
            for (range, host) in found {
                let place = argument
                    .file
                    .place(&(start + range.start..start + range.end));
                let spot: Spot = check.spot(decl, place);
                let message = format!(
                    "the script calls `{host}`, which a workspace of a sealed site cannot reach"
                );
                let remedy = "take it from a host of the site, or from the image";
                check.report("network-at-start", spot, message, remedy);
            }
        }
    }
}

/// Tells whether a name is one that a sealed site lacks: not this machine, not a name without a dot or of a private domain.
fn is_public(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    if let Ok(address) = host.parse::<std::net::Ipv4Addr>() {
        return !(address.is_loopback() || address.is_private() || address.is_link_local());
    }
    let private = [
        ".local",
        ".localhost",
        ".internal",
        ".lan",
        ".test",
        ".home.arpa",
        ".svc",
    ];
    host.contains('.') && !private.iter().any(|suffix| host.ends_with(suffix))
}
