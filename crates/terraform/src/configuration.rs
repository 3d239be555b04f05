//! Configuration part of a plan: declared resources and modules, and references to agents.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::address::Instance;

/// The template as Terraform parsed it, with one entry for each block, regardless of its instances.
#[derive(Debug, Default, Deserialize)]
pub struct Configuration {
    #[serde(default)]
    root_module: Module,
}

/// A module with its declarations.
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

/// Expressions of a block; only the one that refers to agents is kept.
#[derive(Debug, Default, Deserialize)]
struct Expressions {
    #[serde(default, deserialize_with = "references")]
    agent_id: Vec<String>,
}

impl Configuration {
    /// Returns the module in which an instance is declared; `None` if it is no longer called.
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
    /// Returns the block with this mode, type and name.
    pub(super) fn block(&self, mode: &str, kind: &str, name: &str) -> Option<&Declared> {
        let mut all = self.resources.iter();
        all.find(|block| block.mode == mode && block.kind == kind && block.name == name)
    }

    /// Returns whether the module calls another one by this name.
    pub(super) fn calls(&self, name: &str) -> bool {
        self.module_calls.contains_key(name)
    }
}

impl Declared {
    /// Returns the references of `agent_id`, relative to the module; most specific first, as Terraform lists them.
    pub(super) fn agent_references(&self) -> &[String] {
        &self.expressions.agent_id
    }
}

/// Parses the references of an expression. The `agent_id` of another provider may be a block, which has none.
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
