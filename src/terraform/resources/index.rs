//! Finding resources by label, type and address.

use std::collections::{BTreeMap, BTreeSet};

use crate::terraform::plan::{Module, ResourceValues};

/// All resources of all modules.
pub(super) struct Index<'a> {
    by_address: BTreeMap<&'a str, &'a ResourceValues>,
    by_type: BTreeMap<&'a str, Vec<&'a ResourceValues>>,
    targets: BTreeSet<&'a str>,
    /// Types whose order in the document counts, duplicates included.
    in_order: BTreeMap<&'a str, Vec<&'a ResourceValues>>,
}

/// Types whose order in the document counts.
const ORDERED_TYPES: [&str; 3] = ["coder_parameter", "coder_workspace_preset", "coder_ai_task"];

/// The address up to the first index. In a counted module that cuts off nearly all of it, as in the reference.
pub(super) fn label(address: &str) -> &str {
    address.split('[').next().unwrap_or(address)
}

/// All resources of a module, those of the modules it calls first.
pub(super) fn walk(module: &Module) -> Vec<&ResourceValues> {
    let mut found: Vec<_> = module.child_modules.iter().flat_map(walk).collect();
    found.extend(&module.resources);
    found
}

impl<'a> Index<'a> {
    pub(super) fn new(modules: &'a [Module]) -> Self {
        let mut index = Self {
            by_address: BTreeMap::new(),
            by_type: BTreeMap::new(),
            targets: BTreeSet::new(),
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
                index.targets.insert(label(&resource.address));
            }
        }
        index
    }

    /// All resources, each address once, sorted by address.
    pub(super) fn resources(&self) -> impl Iterator<Item = &'a ResourceValues> {
        self.by_address.values().copied()
    }

    /// The resources of one type, each address once, sorted by address.
    pub(super) fn of_type(&self, kind: &str) -> impl Iterator<Item = &'a ResourceValues> {
        self.by_type.get(kind).into_iter().flatten().copied()
    }

    /// The resources of one type in the order of the document.
    pub(super) fn in_order(&self, kind: &str) -> &[&'a ResourceValues] {
        self.in_order.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Whether the label is that of a resource that agents and metadata can belong to.
    pub(super) fn is_target(&self, label: &str) -> bool {
        self.targets.contains(label)
    }
}

fn is_target(resource: &ResourceValues) -> bool {
    let is_foreign =
        !resource.kind.starts_with("coder_") || resource.kind == "coder_external_agent";
    resource.mode == "managed" && is_foreign
}
