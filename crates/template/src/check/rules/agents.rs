//! Rules about `coder_agent`.

use std::collections::HashSet;

use outpost_base::rules::{AGENT_NAME, is_agent_name};

use super::{Check, Spot, names};
use crate::check::{model::Decl, values::Assumption};

/// Attributes with which a machine starts an agent.
const STARTERS: [&str; 2] = ["token", "init_script"];

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    if model.of_kind("coder_agent").next().is_none() {
        return no_agent(check);
    }
    none_when_started(check);
    for decl in model.of_kind("coder_agent") {
        if !is_agent_name(decl.name) {
            let spot = check.spot(decl, decl.name_place());
            let message = format!(
                "the agent's name `{}` does not match {AGENT_NAME}",
                decl.name
            );
            let remedy = format!("rename it to `{}`", legal(decl.name));
            check.report("agent-name-invalid", spot, message, remedy);
        }
    }
    duplicates(check);
    unreachable(check);
}

/// The nearest name that a server accepts.
fn legal(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    match words.is_empty() {
        true => "main".to_owned(),
        false => words.join("-"),
    }
}

/// A template in which there may be an agent that we cannot see is not accused.
fn no_agent(check: &mut Check<'_, '_>) {
    if check.model.is_partial {
        return;
    }
    report_no_agent(
        check,
        "a workspace of this template has no agent, so nobody can connect to it",
    );
}

fn report_no_agent(check: &mut Check<'_, '_>, message: &str) {
    let model = check.model;
    let first = model.managed().map(|(_, decl)| decl).next();
    let first = first.or_else(|| model.decls.first());
    let spot = match first {
        Some(decl) => check.block(decl),
        None => {
            let Some(spot) = first_block(check) else {
                return;
            };
            spot
        }
    };
    let remedy = "add a `coder_agent` resource, and start its `init_script` in the resource that people work in";
    check.report("no-agent", spot, message, remedy);
}

fn first_block(check: &Check<'_, '_>) -> Option<Spot> {
    let file = check.model.sources.modules.first()?.files.first()?;
    let block = file.body().blocks().next();
    Some(Spot {
        place: block.map_or_else(|| file.line_place(1), |block| file.header(block)),
        address: String::new(),
        module: String::new(),
    })
}

/// Agents that are declared, none of which a started workspace has.
fn none_when_started(check: &mut Check<'_, '_>) {
    let model = check.model;
    let count = |decl: &Decl<'_>| model.values.how_many(model, decl, Assumption::Started);
    if !model.is_partial
        && model
            .of_kind("coder_agent")
            .all(|decl| count(decl) == Some(0))
    {
        report_no_agent(
            check,
            "a started workspace of this template has no agent: the `count` of all agents is 0 then",
        );
    }
}

fn duplicates(check: &mut Check<'_, '_>) {
    let model = check.model;
    let all = names::certain(check, model.of_kind("coder_agent"), |decl, _| {
        Some(decl.name.to_owned())
    });
    let repeated: Vec<_> = names::repeated(&all, |named| named.name.to_lowercase())
        .into_iter()
        .map(|(named, first)| (named.decl, first))
        .collect();
    for (decl, first) in repeated {
        let spot = check.spot(decl, decl.name_place());
        let message = format!(
            "the workspace has two agents of the name `{}`: the other one is `{first}`",
            decl.name
        );
        let remedy =
            "give each agent of a workspace a name of its own; upper and lower case count as equal";
        check.report("agent-name-duplicate", spot, message, remedy);
    }
}

/// Agents that no resource depends on, and agents that no resource starts.
fn unreachable(check: &mut Check<'_, '_>) {
    let model = check.model;
    let (mut used, mut started) = (HashSet::new(), HashSet::new());
    for (index, _) in model.managed() {
        // What depends on an agent through another agent's script or app does not run it.
        let through = |decl: &Decl<'_>| decl.is_data || !decl.kind.starts_with("coder_");
        for reached in check.tracer.closure_through(index, through) {
            if model.decls[reached].kind == "coder_agent" {
                used.insert(reached);
            }
            let passes = reached == index || through(&model.decls[reached]);
            if passes {
                let traced = check.tracer.of_decl(reached);
                let starts = traced.decls.iter().filter(|(_, attribute)| {
                    attribute
                        .as_deref()
                        .is_none_or(|name| STARTERS.contains(&name))
                });
                started.extend(starts.map(|(decl, _)| *decl));
            }
        }
    }
    let external: HashSet<usize> = model
        .of_kind("coder_external_agent")
        .filter_map(|decl| decl.argument("agent_id").map(|argument| (decl, argument)))
        .flat_map(|(decl, argument)| check.tracer.in_decl(decl, &argument.attribute.value).decls)
        .map(|(decl, _)| decl)
        .collect();
    for (index, decl) in model.decls.iter().enumerate() {
        if decl.kind != "coder_agent"
            || decl.is_data
            || external.contains(&index)
            || model.is_partial
        {
            continue;
        }
        let spot = check.block(decl);
        if !used.contains(&index) {
            let message = format!(
                "no resource depends on the agent `{}`, so the server drops it",
                decl.name
            );
            let remedy =
                "refer to the agent's `init_script` and `token` in the resource that runs it";
            check.report("agent-without-resource", spot, message, remedy);
        } else if !started.contains(&index) {
            let message = format!(
                "neither the token nor the init script of the agent `{}` reaches any resource, so it never connects",
                decl.name
            );
            let remedy = "pass `init_script` as the command or user data of the machine, and `token` as its \
                          variable CODER_AGENT_TOKEN";
            check.report("agent-never-started", spot, message, remedy);
        }
    }
}
