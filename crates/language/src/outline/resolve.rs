//! References through local values, inputs and outputs of modules.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
        files::TemplateFiles,
        module::{Module, load_below},
    },
    References,
};

/// Maximum depth of module calls.
const MAX_DEPTH: usize = 16;
/// Maximum number of modules in one template.
const MAX_MODULES: usize = 500;

/// The root module of a template and the local modules that it calls; the root comes first.
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// A call of a module.
pub(super) struct Node {
    /// Prefix of addresses in the module, `module.a.module.b.`; empty for the root.
    pub(super) prefix: String,
    pub(super) module: Module,
    /// Index of the calling module.
    pub(super) parent: Option<usize>,
    /// Block of the call; empty for the root.
    pub(super) call: Body,
    /// Indices of called modules, by the names of their calls.
    children: BTreeMap<String, usize>,
    /// Address and source of modules that are missing.
    pub(super) missing: Vec<(String, String)>,
}

/// A module that is still to be read.
struct Pending {
    parent: usize,
    name: String,
    /// Directory relative to the template's.
    dir: PathBuf,
    call: Body,
    depth: usize,
}

impl Tree {
    /// Reads all local modules that `root`, the module in `files`, calls; without `files` they count as missing.
    pub(super) fn load<F: TemplateFiles + ?Sized>(
        root: Module,
        files: Option<&F>,
    ) -> Result<Self, LoadError> {
        let mut tree = Self { nodes: Vec::new() };
        let place = files.map(|files| (files, Path::new("")));
        let mut pending = tree.add(root, None, place, 0);
        while let (Some(next), Some(files)) = (pending.pop(), files) {
            let module = load_below(files, &next.dir)?;
            let (dir, depth) = (next.dir.clone(), next.depth);
            pending.extend(tree.add(module, Some(next), Some((files, &dir)), depth));
        }
        Ok(tree)
    }

    /// Adds a module, and returns the modules that it calls. `place` is the directory that their sources are relative
    /// to.
    fn add<F: TemplateFiles + ?Sized>(
        &mut self,
        module: Module,
        call: Option<Pending>,
        place: Option<(&F, &Path)>,
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
            let child = place
                .map(|(files, dir)| (files, dir.join(source)))
                .filter(|(files, child)| is_local && files.is_dir(child))
                .map(|(_, child)| child);
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
}

/// Declarations of all modules of a tree, by name, so that following a reference takes one step.
pub(super) struct Resolver<'a> {
    tree: &'a Tree,
    modules: Vec<Declared<'a>>,
}

/// Declarations of one module, and its inputs.
#[derive(Default)]
struct Declared<'a> {
    /// Types and names of resources.
    resources: HashSet<(&'a str, &'a str)>,
    locals: Named<'a>,
    inputs: Named<'a>,
    outputs: Named<'a>,
}

/// Expressions by name; several if files override one another.
type Named<'a> = HashMap<&'a str, Vec<&'a Expression>>;

impl<'a> Declared<'a> {
    fn of(node: &'a Node) -> Self {
        let mut declared = Self::default();
        for located in node.module.blocks("resource") {
            let block = located.block;
            let label = |index: usize| block.labels.get(index).map_or("", |label| label.as_str());
            declared.resources.insert((label(0), label(1)));
        }
        for located in node.module.blocks("locals") {
            add_attributes(&mut declared.locals, &located.block.body);
        }
        for located in node.module.blocks("output") {
            let block = located.block;
            let name = block.labels.first().map_or("", |label| label.as_str());
            let value = block.body.get_attribute("value");
            let values = declared.outputs.entry(name).or_default();
            values.extend(value.map(|value| &value.value));
        }
        add_attributes(&mut declared.inputs, &node.call);
        declared
    }
}

fn add_attributes<'a>(named: &mut Named<'a>, body: &'a Body) {
    for attribute in body.attributes() {
        let values = named.entry(attribute.key.as_str()).or_default();
        values.push(&attribute.value);
    }
}

impl<'a> Resolver<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        let modules = tree.nodes.iter().map(Declared::of).collect();
        Self { tree, modules }
    }

    /// Returns the targets of an expression's references in a module.
    pub(super) fn references(&self, node: usize, expr: &Expression) -> References {
        let mut paths = Paths::default();
        paths.visit_expr(expr);
        Search::new(self).run(node, paths)
    }

    /// Returns the targets of all references in a block's arguments.
    pub(super) fn references_of_body(&self, node: usize, body: &Body) -> References {
        let mut paths = Paths::default();
        paths.visit_body(body);
        Search::new(self).run(node, paths)
    }
}

/// Follows each reference once. The search is iterative, because a chain of local values may be longer than the
/// stack.
struct Search<'a> {
    resolver: &'a Resolver<'a>,
    seen: HashSet<(usize, Vec<String>)>,
    pending: Vec<(usize, Vec<String>)>,
    found: References,
}

impl<'a> Search<'a> {
    fn new(resolver: &'a Resolver<'a>) -> Self {
        Self {
            resolver,
            seen: HashSet::new(),
            pending: Vec::new(),
            found: References::default(),
        }
    }

    fn run(mut self, node: usize, paths: Paths) -> References {
        self.add(node, paths);
        while let Some((node, path)) = self.pending.pop() {
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            self.follow(node, &names);
        }
        self.found
    }

    fn add(&mut self, node: usize, paths: Paths) {
        for path in paths.0 {
            if self.seen.insert((node, path.clone())) {
                self.pending.push((node, path));
            }
        }
    }

    fn add_all(&mut self, node: usize, exprs: Option<&Vec<&Expression>>) {
        let mut paths = Paths::default();
        exprs
            .into_iter()
            .flatten()
            .for_each(|expr| paths.visit_expr(expr));
        self.add(node, paths);
    }

    fn follow(&mut self, node: usize, path: &[&str]) {
        let resolver = self.resolver;
        let (owner, declared) = (&resolver.tree.nodes[node], &resolver.modules[node]);
        match path {
            ["local", name, ..] => self.add_all(node, declared.locals.get(name)),
            ["var", name, ..] => {
                if let Some(parent) = owner.parent {
                    self.add_all(parent, declared.inputs.get(name));
                }
            }
            ["module", name, rest @ ..] => {
                if let Some(child) = owner.children.get(*name) {
                    self.add_outputs(*child, rest.first().copied());
                }
            }
            ["data", kind, name, rest @ ..] => {
                self.found.has_transition |= *kind == "coder_workspace"
                    && matches!(rest, ["start_count" | "transition", ..]);
                self.found
                    .addresses
                    .insert(format!("{}data.{kind}.{name}", owner.prefix));
            }
            [kind, name, ..] if declared.resources.contains(&(*kind, *name)) => {
                self.found
                    .addresses
                    .insert(format!("{}{kind}.{name}", owner.prefix));
            }
            _ => {}
        }
    }

    /// Adds one output, or all outputs if the reference is to the whole module.
    fn add_outputs(&mut self, node: usize, wanted: Option<&str>) {
        let outputs = &self.resolver.modules[node].outputs;
        match wanted {
            Some(name) => self.add_all(node, outputs.get(name)),
            None => outputs
                .values()
                .for_each(|exprs| self.add_all(node, Some(exprs))),
        }
    }
}

/// The names in references, without indices: `data.coder_workspace.me.start_count`.
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
