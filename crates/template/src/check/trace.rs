//! References, followed through local values, inputs and outputs of modules to resources and variables.

use std::collections::{BTreeSet, HashMap, HashSet};

use hcl_edit::{
    expr::Expression,
    structure::{Block, Body},
};

use super::{
    model::{Decl, Instance, Model, label},
    values::Paths,
};

/// The ends of an expression's references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traced {
    /// Declarations, by index, and the attribute that is asked for; `None` for the whole.
    pub(crate) decls: BTreeSet<(usize, Option<String>)>,
    /// Variables on the way, by instance and name.
    pub variables: BTreeSet<(usize, String)>,
    /// Functions that are called on the way.
    pub functions: BTreeSet<String>,
    /// Tells whether some of it leads to what is not there, such as a module that was not fetched.
    pub(crate) is_open: bool,
}

/// Follows references; made once for a model.
pub(super) struct Tracer<'a, 'm> {
    model: &'m Model<'a>,
    modules: Vec<Declared<'a>>,
    /// The references of each declaration's own body.
    bodies: Vec<Traced>,
}

/// Expressions by name; several if files override one another.
type Named<'a> = HashMap<&'a str, Vec<&'a Expression>>;

#[derive(Default)]
struct Declared<'a> {
    locals: Named<'a>,
    outputs: Named<'a>,
    inputs: Named<'a>,
}

impl<'a> Declared<'a> {
    fn of(instance: &Instance<'a>) -> Self {
        let mut declared = Self::default();
        for file in &instance.source.files {
            for block in file.body().blocks() {
                match block.ident.as_str() {
                    "locals" => add(&mut declared.locals, &block.body),
                    "output" => {
                        let values = declared.outputs.entry(label(block, 0)).or_default();
                        values.extend(block.body.get_attribute("value").map(|it| &it.value));
                    }
                    _ => {}
                }
            }
        }
        if let Some((_, call)) = instance.call {
            add(&mut declared.inputs, &call.body);
        }
        declared
    }
}

fn add<'a>(named: &mut Named<'a>, body: &'a Body) {
    for attribute in body.attributes() {
        named
            .entry(attribute.key.as_str())
            .or_default()
            .push(&attribute.value);
    }
}

impl<'a, 'm> Tracer<'a, 'm> {
    /// Traces the bodies of all declarations of a model.
    pub(super) fn new(model: &'m Model<'a>) -> Self {
        let modules = model.instances.iter().map(Declared::of).collect();
        let mut tracer = Self {
            model,
            modules,
            bodies: Vec::new(),
        };
        tracer.bodies = model
            .decls
            .iter()
            .map(|decl| tracer.body_of(decl))
            .collect();
        tracer
    }

    /// Traces an expression in a declaration's block.
    pub(super) fn in_decl(&self, decl: &Decl<'_>, expr: &Expression) -> Traced {
        self.run(decl.instance, Some(decl.block), Paths::of_expr(expr))
    }

    /// Traces an expression of an instance.
    pub(super) fn in_instance(&self, instance: usize, expr: &Expression) -> Traced {
        self.run(instance, None, Paths::of_expr(expr))
    }

    /// The references of everything in a declaration's block.
    pub(super) fn of_decl(&self, decl: usize) -> &Traced {
        &self.bodies[decl]
    }

    /// All declarations that one depends on, directly or through others, itself included. What `passes` refuses is reached
    /// and not followed.
    pub(super) fn closure_through(
        &self,
        decl: usize,
        passes: impl Fn(&Decl<'a>) -> bool,
    ) -> HashSet<usize> {
        let (mut seen, mut pending) = (HashSet::from([decl]), vec![decl]);
        while let Some(next) = pending.pop() {
            if next != decl && !passes(&self.model.decls[next]) {
                continue;
            }
            for (found, _) in &self.bodies[next].decls {
                if seen.insert(*found) {
                    pending.push(*found);
                }
            }
        }
        seen
    }

    fn body_of(&self, decl: &Decl<'a>) -> Traced {
        let mut whole = Paths::default();
        for body in decl.bodies() {
            let paths = Paths::of_body(body);
            whole.found.extend(paths.free().cloned());
            whole.functions.extend(paths.functions);
        }
        // A call that repeats decides whether the block is there.
        let mut traced = self.run(decl.instance, Some(decl.block), whole);
        let mut instance = decl.instance;
        while let (Some(parent), Some((_, call))) = (
            self.model.instances[instance].parent,
            self.model.instances[instance].call,
        ) {
            for name in ["count", "for_each", "depends_on"] {
                if let Some(attribute) = call.body.get_attribute(name) {
                    traced.merge(self.in_instance(parent, &attribute.value));
                }
            }
            instance = parent;
        }
        traced
    }

    fn run(&self, instance: usize, block: Option<&Block>, paths: Paths) -> Traced {
        let mut search = Search {
            tracer: self,
            seen: HashSet::new(),
            pending: Vec::new(),
            found: Traced::default(),
        };
        search.add(instance, &paths);
        // `each` of a block is what it repeats over; that of a call is found at the call.
        let each = block.and_then(|block| block.body.get_attribute("for_each"));
        if let Some(each) = each.filter(|_| paths.found.iter().any(|path| path[0] == "each")) {
            search.add(instance, &Paths::of_expr(&each.value));
        }
        search.finish()
    }
}

impl Traced {
    fn merge(&mut self, other: Self) {
        self.decls.extend(other.decls);
        self.variables.extend(other.variables);
        self.functions.extend(other.functions);
        self.is_open |= other.is_open;
    }

    /// Tells whether an attribute of a declaration is asked for, or the whole of it.
    pub(super) fn asks(&self, wanted: impl Fn(usize, Option<&str>) -> bool) -> bool {
        self.decls
            .iter()
            .any(|(decl, attribute)| wanted(*decl, attribute.as_deref()))
    }
}

/// Follows each reference once. Those to follow are kept in a list: a chain of local values may be longer than a stack.
struct Search<'a, 'm, 't> {
    tracer: &'t Tracer<'a, 'm>,
    seen: HashSet<(usize, Vec<String>)>,
    pending: Vec<(usize, Vec<String>)>,
    found: Traced,
}

impl<'a> Search<'a, '_, '_> {
    fn add(&mut self, instance: usize, paths: &Paths) {
        self.found.functions.extend(paths.functions.iter().cloned());
        for path in paths.free() {
            if self.seen.insert((instance, path.clone())) {
                self.pending.push((instance, path.clone()));
            }
        }
    }

    fn add_all(&mut self, instance: usize, exprs: Option<&Vec<&'a Expression>>) -> bool {
        for expr in exprs.into_iter().flatten() {
            self.add(instance, &Paths::of_expr(expr));
        }
        exprs.is_some()
    }

    fn finish(mut self) -> Traced {
        while let Some((instance, path)) = self.pending.pop() {
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            self.follow(instance, &names);
        }
        self.found
    }

    fn follow(&mut self, instance: usize, path: &[&str]) {
        let (tracer, model) = (self.tracer, self.tracer.model);
        let (owner, declared) = (&model.instances[instance], &tracer.modules[instance]);
        match path {
            ["local", name, ..] => {
                let is_known = self.add_all(instance, declared.locals.get(name));
                self.found.is_open |= !is_known;
            }
            ["var", name, ..] => {
                self.found.variables.insert((instance, (*name).to_owned()));
                if let Some(parent) = owner.parent {
                    self.add_all(parent, declared.inputs.get(name));
                    let is_each = |expr: &&Expression| {
                        let paths = Paths::of_expr(expr);
                        paths.found.iter().any(|path| path[0] == "each")
                    };
                    if declared.inputs.get(name).into_iter().flatten().any(is_each) {
                        self.add_all(parent, declared.inputs.get("for_each"));
                    }
                }
            }
            ["module", name, rest @ ..] => match owner.children.get(*name) {
                Some(child) => self.add_outputs(*child, rest.first().copied()),
                None => self.found.is_open = true,
            },
            ["data", kind, name, rest @ ..] => self.reach(instance, true, (kind, name), rest),
            ["each" | "count" | "path" | "self" | "terraform", ..] => {}
            [kind, name, rest @ ..] => self.reach(instance, false, (kind, name), rest),
            _ => {}
        }
    }

    fn reach(&mut self, instance: usize, is_data: bool, (kind, name): (&str, &str), rest: &[&str]) {
        match self.tracer.model.find(instance, is_data, kind, name) {
            Some(decl) => {
                let attribute = rest.first().map(|name| (*name).to_owned());
                self.found.decls.insert((decl, attribute));
            }
            // What a `dynamic` block binds.
            None if matches!(name, "key" | "value") => {}
            None => self.found.is_open = true,
        }
    }

    /// One output, or all of them if the whole module is referred to.
    fn add_outputs(&mut self, instance: usize, wanted: Option<&str>) {
        let outputs = &self.tracer.modules[instance].outputs;
        match wanted {
            Some(name) => {
                let is_known = self.add_all(instance, outputs.get(name));
                self.found.is_open |= !is_known;
            }
            None => outputs.values().for_each(|exprs| {
                self.add_all(instance, Some(exprs));
            }),
        }
    }
}
