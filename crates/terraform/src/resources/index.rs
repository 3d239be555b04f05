//! Lookup of resources by label, type and address.

use std::{borrow::Cow, collections::BTreeMap};

use super::keys::{counterparts, without_keys};
use crate::plan::{Module, ResourceValues};

/// Granularity of the assignment of agents and metadata to resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granularity {
    /// All instances of a block share them, as in the reference.
    Block,
    /// Each instance has its own, for templates that the reference refuses.
    Instance,
}

/// Index of all resources of all modules.
pub(super) struct Index<'a> {
    pub(super) granularity: Granularity,
    by_address: BTreeMap<&'a str, &'a ResourceValues>,
    by_type: BTreeMap<&'a str, Vec<&'a ResourceValues>>,
    /// Resources that agents and metadata can belong to, by the label of their node, sorted by address.
    targets: BTreeMap<Cow<'a, str>, Vec<&'a ResourceValues>>,
    /// Types whose order in the document matters, with duplicates.
    in_order: BTreeMap<&'a str, Vec<&'a ResourceValues>>,
}

/// Types whose order in the document matters.
const ORDERED_TYPES: [&str; 3] = ["coder_parameter", "coder_workspace_preset", "coder_ai_task"];

/// Returns the address up to the first index. In a counted module that removes nearly all of it, as in the reference.
fn label(address: &str) -> &str {
    address.split('[').next().unwrap_or(address)
}

/// Returns all resources of a module, beginning with those of the modules that it calls.
pub(super) fn walk(module: &Module) -> Vec<&ResourceValues> {
    let mut found: Vec<_> = module.child_modules.iter().flat_map(walk).collect();
    found.extend(&module.resources);
    found
}

impl<'a> Index<'a> {
    pub(super) fn new(modules: &'a [Module], granularity: Granularity) -> Self {
        let mut index = Self {
            granularity,
            by_address: BTreeMap::new(),
            by_type: BTreeMap::new(),
            targets: BTreeMap::new(),
            in_order: BTreeMap::new(),
        };
        for resource in modules.iter().flat_map(walk) {
            if ORDERED_TYPES.contains(&resource.kind.as_str()) {
                index
                    .in_order
                    .entry(&resource.kind)
                    .or_default()
                    .push(resource);
            }
            index.by_address.insert(&resource.address, resource);
        }
        for resource in index.by_address.values() {
            index
                .by_type
                .entry(&resource.kind)
                .or_default()
                .push(resource);
            if is_target(resource) {
                let label = index.label(&resource.address);
                index.targets.entry(label).or_default().push(resource);
            }
        }
        index
    }

    /// Returns the label of a resource in the graph.
    pub(super) fn label<'r>(&self, address: &'r str) -> Cow<'r, str> {
        match self.granularity {
            Granularity::Block => Cow::Borrowed(label(address)),
            Granularity::Instance => without_keys(address),
        }
    }

    /// Returns the place of a resource, which is the same for all resources that share agents and metadata.
    pub(super) fn place<'r>(&self, address: &'r str) -> &'r str {
        match self.granularity {
            Granularity::Block => label(address),
            Granularity::Instance => address,
        }
    }

    /// Returns the places of `target`, a node of the graph, that `owner` most likely belongs to. `id` is the id in
    /// the owner's attributes; empty if it is not known.
    pub(super) fn places(&self, target: &'a str, owner: &str, id: &str) -> Vec<&'a str> {
        if self.granularity == Granularity::Block {
            return vec![target];
        }
        let has_id = |resource: &&&ResourceValues| {
            !id.is_empty() && resource.values.get("id").is_some_and(|value| value == id)
        };
        let address = |resource: &&'a ResourceValues| resource.address.as_str();
        let near = self.targets.get(target).map_or(&[][..], Vec::as_slice);
        let all = || self.targets.values().flatten();
        let named = [
            near.iter().filter(has_id).map(address).collect::<Vec<_>>(),
            all().filter(has_id).map(address).collect(),
            near.iter().map(address).collect(),
        ];
        let named = named.into_iter().find(|found| !found.is_empty());
        counterparts(owner, &named.unwrap_or_default())
    }

    /// Returns all resources, each address once, sorted by address.
    pub(super) fn resources(&self) -> impl Iterator<Item = &'a ResourceValues> {
        self.by_address.values().copied()
    }

    /// Returns the resources of one type, each address once, sorted by address.
    pub(super) fn of_type(&self, kind: &str) -> impl Iterator<Item = &'a ResourceValues> {
        self.by_type.get(kind).into_iter().flatten().copied()
    }

    /// Returns the resources of one type in the order of the document.
    pub(super) fn in_order(&self, kind: &str) -> &[&'a ResourceValues] {
        self.in_order.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the label is that of a resource that agents and metadata can belong to.
    pub(super) fn is_target(&self, label: &str) -> bool {
        self.targets.contains_key(label)
    }
}

/// Returns whether agents and metadata can belong to the resource.
pub(super) fn is_target(resource: &ResourceValues) -> bool {
    let is_foreign =
        !resource.kind.starts_with("coder_") || resource.kind == "coder_external_agent";
    resource.mode == "managed" && is_foreign
}
