//! The size of states: all messages about a build must fit into one of the server's.

use serde_json::Value;

use super::Check;
use crate::check::model::{Decl, Model};

/// Size of a state from which builds are at risk, in bytes. Messages between server and daemon end at 4 MiB, and carry more
/// than the state.
pub(in crate::check) const MOST: usize = 3 << 20;

/// The id of the rule, which a plan applies as well.
pub(in crate::check) const ID: &str = "state-too-large";

/// The remedy that both have.
pub(in crate::check) const REMEDY: &str = "keep large texts out of resources: fetch them when the workspace starts, or make \
                                           them part of its image";

pub(super) fn check(check: &mut Check<'_, '_>) {
    let model = check.model;
    let sizes = model.decls.iter().filter(|decl| !decl.is_data);
    let sizes: Vec<_> = sizes.map(|decl| (size(model, decl), decl)).collect();
    let total: usize = sizes.iter().map(|(size, _)| size).sum();
    let largest = sizes.iter().max_by_key(|(size, _)| *size);
    if let Some((size, decl)) = largest.filter(|_| total > MOST) {
        let spot = check.block(decl);
        check.report(ID, spot, message(total, &decl.address, *size), REMEDY);
    }
}

/// The message about a state of `total` bytes, of which one block has `size`.
pub(in crate::check) fn message(total: usize, address: &str, size: usize) -> String {
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    format!(
        "the state of a started workspace has more than {:.1} MiB, {:.1} of them in `{address}`; a server hands out no job \
         above 4",
        mebibytes(total),
        mebibytes(size)
    )
}

/// Bytes of a block's arguments in all of its instances, as far as they are known without a plan.
fn size(model: &Model<'_>, decl: &Decl<'_>) -> usize {
    let scopes = model.scopes(decl);
    let certain = scopes.iter().filter(|scope| scope.is_certain);
    let of_scope = |scope| {
        let attributes = decl.bodies().flat_map(|body| body.attributes());
        let values = attributes
            .filter_map(|attribute| model.values.evaluate(scope, decl.file, &attribute.value));
        values.map(|value| json_size(&value)).sum::<usize>()
    };
    certain.map(of_scope).sum()
}

/// Bytes of a value as JSON.
pub(in crate::check) fn json_size(value: &Value) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}
