//! Follows references through local values, inputs and outputs of modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use hcl_edit::{
    expr::{Expression, Traversal, TraversalOperator},
    structure::Body,
    visit::{self, Visit},
};

use super::{
    super::{
        diagnostic::LoadError,
        module::{Module, load},
    },
    References,
};

/// Modules inside of each other.
const MAX_DEPTH: usize = 16;
/// Modules in one template.
const MAX_MODULES: usize = 500;

/// A template's module and the local modules that it calls; the root comes first.
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// One call of a module.
pub(super) struct Node {
    /// `module.a.module.b.`, empty for the root.
    pub(super) prefix: String,
    pub(super) module: Module,
    /// Who calls it.
    pub(super) parent: Option<usize>,
    /// The block that calls it; empty for the root.
    pub(super) call: Body,
    /// By name.
    children: BTreeMap<String, usize>,
    /// Address and source of modules that are not there.
    pub(super) missing: Vec<(String, String)>,
}

/// A module that waits to be read.
struct Pending {
    parent: usize,
    name: String,
    dir: PathBuf,
    call: Body,
    depth: usize,
}

impl Tree {
    /// Reads all local modules below `root`, which is in `dir`; without one they count as missing.
    pub(super) fn load(root: Module, dir: Option<&Path>) -> Result<Self, LoadError> {
        let mut tree = Self { nodes: Vec::new() };
        let mut pending = tree.add(root, None, dir, 0);
        while let Some(next) = pending.pop() {
            let module = load(&next.dir)?;
            let dir = next.dir.clone();
            let depth = next.depth;
            pending.extend(tree.add(module, Some(next), Some(&dir), depth));
        }
        Ok(tree)
    }

    fn add(
        &mut self,
        module: Module,
        call: Option<Pending>,
        dir: Option<&Path>,
        depth: usize,
    ) -> Vec<Pending> {
        let index = self.nodes.len();
        let prefix = match &call {
            Some(call) => format!("{}module.{}.", self.nodes[call.parent].prefix, call.name),
            None => String::new(),
        };
        if let Some(call) = &call {
            self.nodes[call.parent]
                .children
                .insert(call.name.clone(), index);
        }
        let (mut pending, mut missing) = (Vec::new(), Vec::new());
        for located in module.blocks("module") {
            let name = located.label(0).to_owned();
            let body = &located.block.body;
            let source = body
                .get_attribute("source")
                .and_then(|source| source.value.as_str());
            let source = source.unwrap_or_default();
            let is_local = source.starts_with("./") || source.starts_with("../");
            let child = dir
                .map(|dir| dir.join(source))
                .filter(|child| is_local && child.is_dir());
            match child {
                Some(dir) if depth < MAX_DEPTH && index + pending.len() < MAX_MODULES => {
                    let call = body.clone();
                    pending.push(Pending {
                        parent: index,
                        name,
                        dir,
                        call,
                        depth: depth + 1,
                    });
                }
                _ => missing.push((format!("{prefix}module.{name}"), source.to_owned())),
            }
        }
        pending.reverse();
        self.nodes.push(Node {
            prefix,
            module,
            parent: call.as_ref().map(|call| call.parent),
            call: call.map(|call| call.call).unwrap_or_default(),
            children: BTreeMap::new(),
            missing,
        });
        pending
    }

    /// What an expression of a module leads to.
    pub(super) fn references(&self, node: usize, expr: &Expression) -> References {
        let mut search = Search::new(self);
        search.expr(node, expr);
        search.found
    }

    /// What any argument in a body leads to.
    pub(super) fn references_of_body(&self, node: usize, body: &Body) -> References {
        let mut search = Search::new(self);
        let mut paths = Paths::default();
        paths.visit_body(body);
        search.paths(node, paths);
        search.found
    }
}

/// Follows each reference once.
struct Search<'a> {
    tree: &'a Tree,
    seen: BTreeSet<(usize, String)>,
    found: References,
}

impl<'a> Search<'a> {
    fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            seen: BTreeSet::new(),
            found: References::default(),
        }
    }

    fn expr(&mut self, node: usize, expr: &Expression) {
        let mut paths = Paths::default();
        paths.visit_expr(expr);
        self.paths(node, paths);
    }

    fn paths(&mut self, node: usize, paths: Paths) {
        for path in paths.0 {
            if self.seen.insert((node, path.join("."))) {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                self.path(node, &path);
            }
        }
    }

    fn path(&mut self, node: usize, path: &[&str]) {
        let owner = &self.tree.nodes[node];
        match path {
            ["local", name, ..] => {
                for located in owner.module.blocks("locals") {
                    if let Some(attribute) = located.block.body.get_attribute(name) {
                        self.expr(node, &attribute.value);
                    }
                }
            }
            ["var", name, ..] => {
                if let (Some(parent), Some(input)) = (owner.parent, owner.call.get_attribute(name))
                {
                    self.expr(parent, &input.value);
                }
            }
            ["module", name, rest @ ..] => {
                if let Some(child) = owner.children.get(*name) {
                    self.outputs(*child, rest.first().copied());
                }
            }
            ["data", kind, name, rest @ ..] => {
                self.found.has_transition |= *kind == "coder_workspace"
                    && matches!(rest, ["start_count" | "transition", ..]);
                self.found
                    .addresses
                    .insert(format!("{}data.{kind}.{name}", owner.prefix));
            }
            [kind, name, ..] => {
                let is_it = |located: super::Located<'_>| {
                    (located.label(0), located.label(1)) == (*kind, *name)
                };
                if owner.module.blocks("resource").any(is_it) {
                    self.found
                        .addresses
                        .insert(format!("{}{kind}.{name}", owner.prefix));
                }
            }
            _ => {}
        }
    }

    /// One output, or all of them if the whole module is referred to.
    fn outputs(&mut self, node: usize, wanted: Option<&str>) {
        let module = &self.tree.nodes[node].module;
        for located in module.blocks("output") {
            let is_wanted = wanted.is_none_or(|wanted| wanted == located.label(0));
            if let (true, Some(value)) = (is_wanted, located.block.body.get_attribute("value")) {
                self.expr(node, &value.value);
            }
        }
    }
}

/// The names in references, without indexes: `data.coder_workspace.me.start_count`.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl Visit for Paths {
    fn visit_traversal(&mut self, traversal: &Traversal) {
        if let Some(root) = traversal.expr.as_variable() {
            let names = traversal
                .operators
                .iter()
                .filter_map(|operator| match operator.value() {
                    TraversalOperator::GetAttr(name) => Some(name.as_str().to_owned()),
                    TraversalOperator::AttrSplat(_)
                    | TraversalOperator::FullSplat(_)
                    | TraversalOperator::Index(_)
                    | TraversalOperator::LegacyIndex(_) => None,
                });
            self.0.push(
                [root.as_str().to_owned()]
                    .into_iter()
                    .chain(names)
                    .collect(),
            );
        }
        visit::visit_traversal(self, traversal);
    }
}
