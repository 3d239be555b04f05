//! Outline of a template without a plan: the contents of its source, for templates whose providers are not available.

mod ephemeral;
mod resolve;

use std::{collections::BTreeSet, path::Path};

use hcl_edit::structure::Body;
use serde_json::Value;

pub use self::ephemeral::{EphemeralReference, ephemeral_references};
use self::resolve::{Resolver, Tree};
use super::{
    diagnostic::LoadError,
    eval::{self, Fuel, Scope},
    files::TemplateFiles,
    module::{Located, Module, load},
};

/// Declarations of a template, including local modules. One block is one resource, whatever its number of instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Resources and data sources, in the order of modules, files and lines.
    pub resources: Vec<OutlinedResource>,
    /// Number of files in the root module; a directory without any is not a template.
    pub files: usize,
    /// Addresses and sources of modules that would have to be fetched. Their declarations are not known.
    pub missing_modules: Vec<(String, String)>,
}

/// A block `resource` or `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlinedResource {
    /// Address without an index: `module.a.docker_container.workspace`, `data.coder_parameter.region`.
    pub address: String,
    /// `true` for a data source.
    pub is_data: bool,
    /// Type, such as `docker_container`.
    pub kind: String,
    /// Name in the source.
    pub name: String,
    /// Number of its instances.
    pub count: Count,
    /// Addresses that it refers to, also through local values, outputs and inputs of modules; sorted.
    pub references: Vec<String>,
    /// Arguments with a literal string, number or bool, by name: `name`, `slug`, `default` …
    pub texts: Vec<(String, String)>,
}

/// Number of a block's instances, as far as its source shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Always exactly one instance.
    One,
    /// The number depends on whether the workspace is started or stopped: the resource is probably ephemeral.
    Transition,
    /// The number depends on something else.
    Other,
}

impl OutlinedResource {
    /// Returns the value of an argument, if it is literal.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.texts.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Outline {
    /// Returns resources of one type, such as `coder_agent` or `coder_app`.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a OutlinedResource> {
        self.resources
            .iter()
            .filter(move |resource| resource.kind == kind)
    }

    /// Returns the `coder_agent` resources.
    pub fn agents(&self) -> impl Iterator<Item = &OutlinedResource> {
        self.of_kind("coder_agent")
    }

    /// Returns the `coder_app` resources.
    pub fn apps(&self) -> impl Iterator<Item = &OutlinedResource> {
        self.of_kind("coder_app")
    }

    /// Returns the `coder_parameter` data sources.
    pub fn parameters(&self) -> impl Iterator<Item = &OutlinedResource> {
        self.of_kind("coder_parameter")
    }
}

/// Outlines the template in a directory.
///
/// A block whose `count` or `for_each` depends on `start_count` or `transition` of `coder_workspace` is probably
/// ephemeral; only two plans can prove it.
///
/// # Errors
/// [`LoadError`] of the first module that cannot be read.
pub fn outline<F: TemplateFiles + ?Sized>(files: &F) -> Result<Outline, LoadError> {
    let root = load(files)?;
    Ok(Tree::load(root, Some(files))?.outline())
}

/// Outlines a module in memory; modules that it calls count as missing.
pub fn outline_of(module: Module) -> Outline {
    let tree = Tree::load::<Path>(module, None);
    tree.map(|tree| tree.outline()).unwrap_or_default()
}

/// Returns arguments with literal values.
fn texts(body: &Body) -> Vec<(String, String)> {
    let fuel = Fuel::new();
    let scope = Scope::literal(&fuel);
    let text = |attribute: &hcl_edit::structure::Attribute| {
        let value: Value = eval::evaluate(&attribute.value, &scope).ok()?;
        Some((attribute.key.as_str().to_owned(), eval::text(&value)?))
    };
    body.attributes().filter_map(text).collect()
}

impl Tree {
    fn outline(&self) -> Outline {
        let resolver = Resolver::new(self);
        let mut outline = Outline {
            files: self.nodes.first().map_or(0, |root| root.module.files.len()),
            ..Outline::default()
        };
        for (index, node) in self.nodes.iter().enumerate() {
            for kind in ["resource", "data"] {
                let blocks = node.module.blocks(kind);
                let outlined =
                    blocks.map(|located| self.resource(&resolver, index, kind, &located));
                outline.resources.extend(outlined);
            }
            outline.missing_modules.extend(node.missing.iter().cloned());
        }
        outline
    }

    fn resource(
        &self,
        resolver: &Resolver<'_>,
        node: usize,
        block: &str,
        located: &Located<'_>,
    ) -> OutlinedResource {
        let body = &located.block.body;
        let (kind, name) = (located.label(0).to_owned(), located.label(1).to_owned());
        let (is_data, prefix) = (block == "data", &self.nodes[node].prefix);
        let label = if is_data { "data." } else { "" };
        let address = format!("{prefix}{label}{kind}.{name}");
        let mut references = resolver.references_of_body(node, body).addresses;
        references.remove(&address);
        OutlinedResource {
            is_data,
            count: self.count(resolver, node, body),
            references: references.into_iter().collect(),
            texts: texts(body),
            address,
            kind,
            name,
        }
    }

    /// Returns the number of instances of a block. If the number of a module's instances varies, so does that of its
    /// blocks.
    fn count(&self, resolver: &Resolver<'_>, node: usize, body: &Body) -> Count {
        let mut count = Count::One;
        let own = [body.get_attribute("count"), body.get_attribute("for_each")];
        for attribute in own.into_iter().flatten() {
            count = match resolver.references(node, &attribute.value).has_transition {
                true => Count::Transition,
                false => Count::Other,
            };
        }
        match (count, self.nodes[node].parent) {
            (Count::Transition, _) | (_, None) => count,
            (own, Some(parent)) => match self.count(resolver, parent, &self.nodes[node].call) {
                Count::One => own,
                counted @ (Count::Transition | Count::Other) => counted,
            },
        }
    }
}

/// Targets of an expression's references.
#[derive(Debug, Default)]
struct References {
    addresses: BTreeSet<String>,
    has_transition: bool,
}

#[cfg(test)]
mod tests;
