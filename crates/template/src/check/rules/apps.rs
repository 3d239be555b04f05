//! Rules about `coder_app`.

use std::collections::BTreeMap;

use outpost_base::rules::{APP_SLUG, is_app_slug};
use url::Url;

use super::{Check, names};
use crate::check::{
    model::{Decl, Nested},
    values::Scope,
};

/// Kinds whose `id` an app may name as its agent.
const AGENTS: [&str; 2] = ["coder_agent", "coder_devcontainer"];

/// Schemes of pages in the workspace.
const PAGES: [&str; 2] = ["http", "https"];

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    for decl in model.of_kind("coder_app") {
        let scopes = model.scopes(decl);
        slug(check, decl, &scopes);
        agent(check, decl);
        urls(check, decl, &scopes);
        hidden(check, decl, &scopes);
    }
    duplicates(check);
    ties(check);
}

fn slug(check: &mut Check<'_, '_>, decl: &Decl<'_>, scopes: &[Scope]) {
    let mut slugs = scopes
        .iter()
        .filter_map(|scope| check.model.text(scope, decl.argument("slug")));
    if let Some(bad) = slugs.find(|slug| !is_app_slug(slug)) {
        let spot = check.argument_or_block(decl, "slug");
        let message = format!("the slug `{bad}` does not match {APP_SLUG}");
        let remedy = "use lower-case letters and digits with single hyphens between them";
        check.report("app-slug-invalid", spot, message, remedy);
    }
}

fn duplicates(check: &mut Check<'_, '_>) {
    let model = check.model;
    let slug = |decl: &Decl<'_>, scope: &Scope| {
        let argument = decl.argument("slug")?;
        outpost_language::primitive_text(&model.values.evaluate(
            scope,
            argument.file,
            &argument.attribute.value,
        )?)
    };
    let all = names::certain(check, model.of_kind("coder_app"), slug);
    let repeated: Vec<_> = names::repeated(&all, |named| named.name.clone())
        .into_iter()
        .map(|(named, first)| (named.decl, named.name.clone(), first))
        .collect();
    for (decl, slug, first) in repeated {
        let spot = check.argument_or_block(decl, "slug");
        let message = format!(
            "the workspace has two apps with the slug `{slug}`: the other one is `{first}`"
        );
        let remedy =
            "give each app of a workspace a slug of its own, also those of different agents";
        check.report("app-slug-duplicate", spot, message, remedy);
    }
}

fn agent(check: &mut Check<'_, '_>, decl: &Decl<'_>) {
    let Some(argument) = decl.argument("agent_id") else {
        let message = "the app has no `agent_id`";
        let remedy = "set it to the `id` of the agent that serves the app";
        return check.report("app-without-agent", check.block(decl), message, remedy);
    };
    let traced = check.trace(decl, argument);
    let decls = &check.model.decls;
    let is_agent = |(found, _): &(usize, Option<String>)| AGENTS.contains(&decls[*found].kind);
    // A variable of the root may hold anything, but no id of this template's agents.
    if traced.is_open || traced.decls.iter().any(is_agent) {
        return;
    }
    let spot = check.spot(decl, argument.place());
    let message = "`agent_id` is the id of no agent of this template, so the app is lost";
    let remedy = "set it to the `id` of a `coder_agent` resource";
    check.report("app-without-agent", spot, message, remedy);
}

fn urls(check: &mut Check<'_, '_>, decl: &Decl<'_>, scopes: &[Scope]) {
    let model = check.model;
    let remedy =
        "write the whole address as the workspace sees it, such as `http://localhost:8080`";
    if decl.argument("command").is_some() && decl.argument("url").is_some() {
        let spot = check.argument_or_block(decl, "url");
        let message = "the app has a `command` and a `url`, of which it can have one";
        let remedy = "remove `url` for an app in a terminal, `command` for one in the browser";
        check.report("app-url-invalid", spot, message, remedy);
        return;
    }
    for scope in scopes {
        let external = match decl.argument("external") {
            None => Some(false),
            argument => model.flag(scope, argument),
        };
        let url = model.text(scope, decl.argument("url"));
        if let Some(reason) = url.and_then(|url| complaint(&url, external)) {
            let spot = check.argument_or_block(decl, "url");
            return check.report("app-url-invalid", spot, reason, remedy);
        }
    }
    for block in decl.nested("healthcheck") {
        health(check, decl, &block, scopes, remedy);
    }
}

/// A complaint about an app's URL; `external` is unknown if a plan must tell.
fn complaint(url: &str, external: Option<bool>) -> Option<String> {
    let parsed = Url::parse(url);
    match (parsed, external) {
        (Err(_), _) => Some(format!("`{url}` is no absolute URL")),
        (Ok(parsed), Some(false)) if !PAGES.contains(&parsed.scheme()) => Some(format!(
            "`{url}` is no absolute URL of a page: it begins with neither `http://` nor `https://`"
        )),
        (Ok(_), _) => None,
    }
}

fn health(
    check: &mut Check<'_, '_>,
    decl: &Decl<'_>,
    block: &Nested<'_>,
    scopes: &[Scope],
    remedy: &str,
) {
    let Some(argument) = block.argument("url") else {
        return;
    };
    let mut urls = scopes
        .iter()
        .filter_map(|scope| check.model.text(scope, Some(argument)));
    let Some(url) = urls.next() else {
        return;
    };
    let spot = check.spot(decl, argument.place());
    if let Some(reason) = complaint(&url, Some(false)) {
        return check.report("app-url-invalid", spot, reason, remedy);
    }
    let host = Url::parse(&url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_default();
    if !is_local(&host) {
        let message = format!("the health check asks `{host}`, which is not the workspace");
        let remedy = "the agent sends the request: use `localhost` and the port of the app";
        check.report("app-healthcheck-not-local", spot, message, remedy);
    }
}

fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let address: Option<std::net::IpAddr> = host.parse().ok();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_some_and(|address| address.is_loopback() || address.is_unspecified())
}

fn hidden(check: &mut Check<'_, '_>, decl: &Decl<'_>, scopes: &[Scope]) {
    let Some(argument) = decl.argument("hidden") else {
        return;
    };
    let is_hidden = |scope: &Scope| check.model.flag(scope, Some(argument)) == Some(true);
    let index = check.model.find(decl.instance, false, decl.kind, decl.name);
    let decls = check.model.decls.iter().enumerate();
    let is_shown_elsewhere = decls
        .filter(|(_, other)| other.kind == "coder_ai_task")
        .any(|(other, _)| {
            check
                .tracer
                .of_decl(other)
                .asks(|found, _| Some(found) == index)
        });
    if !scopes.is_empty() && scopes.iter().all(is_hidden) && !is_shown_elsewhere {
        let spot = check.spot(decl, argument.place());
        let message = "the app is hidden whatever people choose, so nobody sees its button";
        let remedy =
            "remove the app or `hidden`, unless people are given its address in another way";
        check.report("app-hidden-everywhere", spot, message, remedy);
    }
}

/// Apps of one agent and group with the same place among others.
fn ties(check: &mut Check<'_, '_>) {
    let model = check.model;
    let mut seen: BTreeMap<(Vec<usize>, String, String), String> = BTreeMap::new();
    let mut found = Vec::new();
    for decl in model.of_kind("coder_app") {
        let Some(order) = decl.argument("order") else {
            continue;
        };
        let agents = decl
            .argument("agent_id")
            .map(|argument| check.trace(decl, argument));
        let agents: Vec<usize> = agents
            .into_iter()
            .flat_map(|it| it.decls)
            .map(|(decl, _)| decl)
            .collect();
        for scope in model.scopes(decl).iter().filter(|scope| scope.is_certain) {
            let Some(value) = model.text(scope, Some(order)) else {
                continue;
            };
            let group = model
                .text(scope, decl.argument("group"))
                .unwrap_or_default();
            let address = format!("{}{}", decl.address, scope.key);
            if let Some(first) = seen.insert((agents.clone(), group, value.clone()), address) {
                found.push((decl, order, value, first));
                break;
            }
        }
    }
    for (decl, order, value, first) in found {
        let spot = check.spot(decl, order.place());
        let message = format!(
            "the app has the order {value}, and so has `{first}`: their names decide which comes first"
        );
        check.report(
            "app-order-tie",
            spot,
            message,
            "give each app of an agent another number",
        );
    }
}
