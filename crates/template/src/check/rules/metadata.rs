//! Rules about `coder_metadata`: whose facts they are, and what a workspace costs.

use std::collections::HashSet;

use super::Check;

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    for decl in model.of_kind("coder_metadata") {
        let Some(argument) = decl.argument("resource_id") else {
            continue;
        };
        let traced = check.trace(decl, argument);
        let is_managed = traced
            .decls
            .iter()
            .any(|(found, _)| !model.decls[*found].is_data);
        if traced.is_open || is_managed {
            continue;
        }
        let spot = check.spot(decl, argument.place());
        let message =
            "`resource_id` is the id of no resource of this template, so nobody sees the metadata";
        let remedy = "set it to the `id` of the resource that the metadata is about";
        check.report("metadata-unknown-resource", spot, message, remedy);
    }
    if check.options.requires_cost {
        costs(check);
    }
}

/// Resources with agents about whose cost nothing is said.
fn costs(check: &mut Check<'_, '_>) {
    let model = check.model;
    let priced: HashSet<usize> = model
        .of_kind("coder_metadata")
        .filter(|decl| decl.argument("daily_cost").is_some())
        .filter_map(|decl| {
            decl.argument("resource_id")
                .map(|argument| (decl, argument))
        })
        .flat_map(|(decl, argument)| check.trace(decl, argument).decls)
        .map(|(found, _)| found)
        .collect();
    for index in check.computational() {
        if priced.contains(&index) {
            continue;
        }
        let decl = &model.decls[index];
        let message = format!(
            "nothing says what `{}` costs a day, so quotas do not count it",
            decl.address
        );
        let remedy = "add a `coder_metadata` resource with its `resource_id` and `daily_cost`";
        check.report("workspace-cost-missing", check.block(decl), message, remedy);
    }
}

impl Check<'_, '_> {
    /// Managed resources that run an agent, as far as the source tells: those that use an agent themselves, not through
    /// another managed resource.
    pub(super) fn computational(&self) -> Vec<usize> {
        let model = self.model;
        let is_near = |index: usize| {
            let through = self.tracer.closure_through(index, |decl| decl.is_data);
            through.iter().any(|found| {
                model.decls[*found].kind == "coder_agent" && !model.decls[*found].is_data
            })
        };
        model
            .managed()
            .map(|(index, _)| index)
            .filter(|index| is_near(*index))
            .collect()
    }
}
