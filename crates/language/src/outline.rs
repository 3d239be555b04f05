//! A picture of a template without a plan: what stands in its source, for templates whose providers are not at hand.

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

/// What a template declares, local modules included. One block is one resource, however many it makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Resources and data sources, in the order of modules, files and lines.
    pub resources: Vec<OutlinedResource>,
    /// Files of the root module; a directory without any is no template.
    pub files: usize,
    /// Sources of modules that would have to be fetched, by address. What they declare is not known.
    pub missing_modules: Vec<(String, String)>,
}

/// A `resource` or `data` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlinedResource {
    /// Without an index: `module.a.docker_container.workspace`, `data.coder_parameter.region`.
    pub address: String,
    /// Whether it only reads.
    pub is_data: bool,
    /// Its type, such as `docker_container`.
    pub kind: String,
    /// Its name in the source.
    pub name: String,
    /// How many there are.
    pub count: Count,
    /// Addresses of what it refers to, also through local values, outputs and inputs of modules; sorted.
    pub references: Vec<String>,
    /// Arguments whose values stand in the source as text, number or bool, by name: `name`, `slug`, `default` …
    pub texts: Vec<(String, String)>,
}

/// How many instances a block makes, as far as its source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Always one.
    One,
    /// It depends on whether the workspace is started or stopped: it is probably ephemeral.
    Transition,
    /// It depends on something else.
    Other,
}

impl OutlinedResource {
    /// The value of an argument, if it stands in the source.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.texts.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Outline {
    /// Resources of one type, such as `coder_agent` or `coder_app`.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a OutlinedResource> {
        self.resources
            .iter()
            .filter(move |resource| resource.kind == kind)
    }

    /// The `coder_agent` resources.
    pub fn agents(&self) -> impl Iterator<Item = &OutlinedResource> {
        self.of_kind("coder_agent")
    }

    /// The `coder_app` resources.
    pub fn apps(&self) -> impl Iterator<Item = &OutlinedResource> {
        self.of_kind("coder_app")
    }

    /// The `coder_parameter` data sources.
    pub fn parameters(&self) -> impl Iterator<Item = &OutlinedResource> {
        self.of_kind("coder_parameter")
    }
}

/// Outlines the template in a directory.
///
/// A block whose `count` or `for_each` leads to `start_count` or `transition` of `coder_workspace` is probably
/// ephemeral; only two plans can tell for sure.
///
/// # Errors
/// [`LoadError`] of the first module that cannot be read.
pub fn outline<F: TemplateFiles + ?Sized>(files: &F) -> Result<Outline, LoadError> {
    let root = load(files)?;
    Ok(Tree::load(root, Some(files))?.outline())
}

/// Outlines a module that is in memory; modules that it calls are missing.
pub fn outline_of(module: Module) -> Outline {
    let tree = Tree::load::<Path>(module, None);
    tree.map(|tree| tree.outline()).unwrap_or_default()
}

/// Arguments that stand for themselves.
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

    /// What counts modules counts what is in them.
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

/// What an expression leads to.
#[derive(Debug, Default)]
struct References {
    addresses: BTreeSet<String>,
    has_transition: bool,
}

#[cfg(test)]
mod tests;
