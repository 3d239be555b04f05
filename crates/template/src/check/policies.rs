//! What policies are told of a template, and findings made of what they say.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    complaint,
    finding::Finding,
    model::{MissingModule, Model},
    rules::{Spot, finding},
    source::Sources,
};
use crate::{
    picture::Picture,
    policy::{Policies, PolicyError},
};

/// A call of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModuleCall {
    /// Address of the call, such as `module.ide`.
    address: String,
    /// The source as it is written.
    source: String,
    /// The version as it is written; empty for none.
    version: String,
}

pub(super) fn modules(model: &Model<'_>, missing: &[MissingModule]) -> Vec<ModuleCall> {
    let known = model.instances.iter().filter_map(|instance| {
        let (_, call) = instance.call?;
        let text = |name: &str| {
            let value = call.body.get_attribute(name).map(|it| &it.value);
            value
                .and_then(|it| it.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        Some(ModuleCall {
            address: instance.prefix.trim_end_matches('.').to_owned(),
            source: text("source"),
            version: text("version"),
        })
    });
    let missing = missing.iter().map(|module| ModuleCall {
        address: module.address.clone(),
        source: module.source.clone(),
        version: String::new(),
    });
    known.chain(missing).collect()
}

/// Findings of the policies: `picture` is what `outpost inspect` prints.
///
/// # Errors
/// [`PolicyError`] if they cannot be used.
pub fn verdicts(
    policies: &mut Policies,
    sources: &Sources,
    picture: &Picture,
    modules: &[ModuleCall],
) -> Result<Vec<Finding>, PolicyError> {
    let mut input = serde_json::to_value(picture).unwrap_or(Value::Null);
    input["modules"] = json!(modules);
    let verdicts = policies.judge(&input)?;
    let found = verdicts.into_iter().map(|verdict| {
        let (place, module) = complaint::place_of_address(sources, &verdict.address);
        let spot = Spot {
            place,
            address: verdict.address,
            module,
        };
        let remedy = "change the template as the policy demands";
        Finding {
            rule: format!("policy/{}", verdict.id).into(),
            severity: verdict.severity,
            ..finding("policy", spot, verdict.message, remedy)
        }
    });
    Ok(found.collect())
}
