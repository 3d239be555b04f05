//! Rules about what a stop keeps and destroys.

use super::Check;
use crate::check::{model::Decl, values::Assumption};

/// Types of providers that have nothing to do with a machine, a disk or a cost.
const HELPERS: [&str; 6] = ["random_", "tls_", "time_", "null_", "local_", "cloudinit_"];

pub(super) fn check(check: &mut Check<'_, '_>) {
    unprotected_volumes(check);
    if check.model.is_partial {
        return;
    }
    let Some(&at) = check.computational().first() else {
        return;
    };
    all_ephemeral(check, at);
    nothing_ephemeral(check, at);
}

/// Tells whether a block makes something of a started and of a stopped workspace; `None` if only a plan can tell.
pub(super) fn lifetime(check: &Check<'_, '_>, decl: &Decl<'_>) -> Option<(bool, bool)> {
    let model = check.model;
    let exists = |assumption| Some(model.values.how_many(model, decl, assumption)? > 0);
    Some((exists(Assumption::Started)?, exists(Assumption::Stopped)?))
}

/// Tells whether a block certainly makes something that outlives a stop.
pub(super) fn is_persistent(check: &Check<'_, '_>, decl: &Decl<'_>) -> bool {
    lifetime(check, decl) == Some((true, true))
}

fn is_helper(decl: &Decl<'_>) -> bool {
    HELPERS.iter().any(|prefix| decl.kind.starts_with(prefix))
}

fn all_ephemeral(check: &mut Check<'_, '_>, at: usize) {
    let model = check.model;
    let lifetimes = model.managed().filter(|(_, decl)| !is_helper(decl));
    let lifetimes: Vec<_> = lifetimes.map(|(_, decl)| lifetime(check, decl)).collect();
    let started = lifetimes
        .iter()
        .filter(|it| !matches!(it, Some((false, _))));
    if started.clone().next().is_some() && started.clone().all(|it| *it == Some((true, false))) {
        let message = "a stop destroys every resource of the workspace, and with them all that people keep in it";
        let remedy = "keep the home directory in a resource without `count = data.coder_workspace.me.start_count`, such as a volume";
        check.report(
            "all-ephemeral",
            check.block(&model.decls[at]),
            message,
            remedy,
        );
    }
}

fn nothing_ephemeral(check: &mut Check<'_, '_>, at: usize) {
    let model = check.model;
    let workspace_changes = |name: &str| ["start_count", "transition"].contains(&name);
    let changes = model.managed().any(|(index, decl)| {
        let traced = check.tracer.of_decl(index);
        let is_open = lifetime(check, decl).is_none() && traced.is_open;
        is_open
            || traced.asks(|found, attribute| {
                model.decls[found].kind == "coder_workspace"
                    && attribute.is_none_or(workspace_changes)
            })
    });
    if !changes {
        let message = "a stop changes nothing: the machine goes on, and so do its costs";
        let remedy =
            "set `count = data.coder_workspace.me.start_count` on the resource that runs the agent";
        check.report(
            "nothing-ephemeral",
            check.block(&model.decls[at]),
            message,
            remedy,
        );
    }
}

/// Tells whether `lifecycle` protects a resource from being replaced or destroyed.
pub(super) fn is_protected(decl: &Decl<'_>) -> bool {
    decl.nested("lifecycle").iter().any(|block| {
        let ignores_all = block.argument("ignore_changes").is_some_and(|argument| {
            argument
                .attribute
                .value
                .as_variable()
                .is_some_and(|name| name.as_str() == "all")
                || argument.attribute.value.as_str() == Some("all")
        });
        let prevents = block
            .argument("prevent_destroy")
            .is_some_and(|argument| argument.attribute.value.as_bool() == Some(true));
        ignores_all || prevents
    })
}

fn unprotected_volumes(check: &mut Check<'_, '_>) {
    let model = check.model;
    for decl in model.of_kind("docker_volume") {
        if is_persistent(check, decl) && !is_protected(decl) {
            let message = "a change of the volume's arguments destroys it, and with it what people keep there";
            let remedy = "add `lifecycle { ignore_changes = all }`";
            check.report(
                "docker-volume-without-protection",
                check.block(decl),
                message,
                remedy,
            );
        }
    }
}
