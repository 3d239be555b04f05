//! What a plan says of the template itself: which resources and modules it declares, and what refers to agents.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::address::Instance;

/// The template as Terraform read it. Instances do not count here: a block is there once.
#[derive(Debug, Default, Deserialize)]
pub struct Configuration {
    #[serde(default)]
    root_module: Module,
}

/// A module with what it declares.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Module {
    #[serde(default)]
    resources: Vec<Declared>,
    #[serde(default)]
    module_calls: BTreeMap<String, Call>,
}

#[derive(Debug, Deserialize)]
struct Call {
    #[serde(default)]
    module: Module,
}

/// A block of a resource or data source.
#[derive(Debug, Deserialize)]
pub(super) struct Declared {
    #[serde(default)]
    mode: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    expressions: Expressions,
}

/// Of all attributes only the one that names agents.
#[derive(Debug, Default, Deserialize)]
struct Expressions {
    #[serde(default, deserialize_with = "references")]
    agent_id: Vec<String>,
}

impl Configuration {
    /// The module in which an instance is declared; `None` if it is called no more.
    pub(super) fn module_of(&self, instance: &Instance<'_>) -> Option<&Module> {
        instance
            .modules
            .iter()
            .try_fold(&self.root_module, |module, step| {
                Some(&module.module_calls.get(step.name)?.module)
            })
    }
}

impl Module {
    /// The block of a mode, a type and a name.
    pub(super) fn block(&self, mode: &str, kind: &str, name: &str) -> Option<&Declared> {
        let mut all = self.resources.iter();
        all.find(|block| block.mode == mode && block.kind == kind && block.name == name)
    }

    /// Whether it calls a module by this name.
    pub(super) fn calls(&self, name: &str) -> bool {
        self.module_calls.contains_key(name)
    }
}

impl Declared {
    /// What the `agent_id` refers to, relative to the module; most specific first, as Terraform lists it.
    pub(super) fn agent_references(&self) -> &[String] {
        &self.expressions.agent_id
    }
}

/// References of an expression. What other providers call `agent_id` may be a block, which has none.
fn references<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let expression = Value::deserialize(input)?;
    let listed = expression.get("references").and_then(Value::as_array);
    let texts = listed.into_iter().flatten().filter_map(Value::as_str);
    Ok(texts.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_the_module_that_declares_them_whatever_the_instance() {
        let configuration: Configuration = serde_json::from_str(
            r#"{"root_module": {
                "resources": [{"mode": "managed", "type": "x", "name": "y", "expressions": {"agent_id": [{}]}}],
                "module_calls": {"m": {"module": {"resources": [
                    {"mode": "managed", "type": "coder_script", "name": "s",
                     "expressions": {"agent_id": {"references": ["var.a.id", "var.a"]}}}]}}}}}"#,
        )
        .unwrap();
        let module = |address| configuration.module_of(&Instance::parse(address).unwrap());

        let inside = module("module.m[3].coder_script.s[0]").unwrap();
        let script = inside.block("managed", "coder_script", "s").unwrap();
        assert_eq!(script.agent_references(), ["var.a.id", "var.a"]);
        assert!(inside.block("data", "coder_script", "s").is_none());
        assert!(module("x.y").unwrap().calls("m") && !inside.calls("m"));
        assert!(module("module.gone.x.y").is_none());
    }
}
