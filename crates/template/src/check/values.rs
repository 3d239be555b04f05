//! Values that stand in the source: literals, local values, defaults of variables, inputs of modules, `each` and `count`.
//!
//! Only a plan can tell others. An expression with one unknown part has none either, as functions such as
//! `try` would otherwise give an answer that a plan does not.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use hcl_edit::{
    expr::{Expression, ForExpr, Traversal, TraversalOperator},
    structure::{Block, Body},
    visit::{self, Visit},
};
use serde_json::{Map, Value};

use super::{
    model::{Decl, Instance, Model, label},
    source::File,
};

/// Instances of one block that are looked at.
const MAX_EXPANDED: usize = 100;
/// Rounds in which local values are evaluated again because others became known.
const MAX_ROUNDS: usize = 20;

/// An assumption about a workspace, where a rule asks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assumption {
    /// Nothing: parameters and the transition are unknown.
    Nothing,
    /// A started workspace, all of whose parameters have their defaults.
    Started,
    /// Workspace that is stopped.
    Stopped,
}

const ASSUMPTIONS: [Assumption; 3] = [
    Assumption::Nothing,
    Assumption::Started,
    Assumption::Stopped,
];

/// Known values of every instance, by assumption.
#[derive(Default)]
pub struct Values {
    by_assumption: [Vec<Rc<Known>>; 3],
}

/// Known values of one instance.
#[derive(Debug, Default)]
struct Known {
    variables: BTreeMap<String, Value>,
    locals: BTreeMap<String, Value>,
    /// Arguments of parameters, and what is assumed of the workspace, by type and name.
    data: HashMap<(String, String), Map<String, Value>>,
    /// Tells whether the calls that lead here make exactly one instance.
    is_single: bool,
    /// Tells whether they make none.
    is_absent: Option<bool>,
}

/// The surroundings in which an expression is evaluated.
#[derive(Clone, Debug)]
pub struct Scope {
    known: Rc<Known>,
    each: Option<(Value, Value)>,
    count: Option<usize>,
    /// Bindings of the `dynamic` blocks around the expression: name, key and value.
    iterators: Vec<(String, Value, Value)>,
    /// The end of the address: `[0]`, `["a"]`, or nothing.
    pub key: String,
    /// Tells whether there certainly is an instance with this key.
    pub(crate) is_certain: bool,
}

impl Values {
    /// Finds out what is known. `given` are values of the root module's variables.
    pub fn of(model: &Model<'_>, given: &[(String, String)]) -> Self {
        let mut values = Self::default();
        for (slot, assumption) in ASSUMPTIONS.into_iter().enumerate() {
            for index in 0..model.instances.len() {
                let known = values.of_instance(model, index, assumption, given);
                values.by_assumption[slot].push(Rc::new(known));
            }
        }
        values
    }

    fn of_instance(
        &self,
        model: &Model<'_>,
        index: usize,
        assumption: Assumption,
        given: &[(String, String)],
    ) -> Known {
        let instance = &model.instances[index];
        let mut known = Known {
            is_single: true,
            is_absent: Some(false),
            ..Known::default()
        };
        self.inherit(instance, assumption, &mut known);
        for (file, block) in blocks(instance, "variable") {
            let name = label(block, 0).to_owned();
            let from_outside = match instance.parent {
                None => {
                    let found = given.iter().rev().find(|(given, _)| *given == name);
                    found.map(|(_, text)| Some(given_value(block, text)))
                }
                Some(parent) => self.input(instance, parent, assumption, &name),
            };
            let value = match from_outside {
                Some(value) => value,
                None => block.body.get_attribute("default").and_then(|default| {
                    file.parsed.evaluate(&default.value, &BTreeMap::new()).ok()
                }),
            };
            known.variables.extend(value.map(|value| (name, value)));
        }
        for (kind, name, arguments) in assumed(assumption) {
            for decl in of_instance(model, index, kind) {
                if name.is_empty() || decl.name == name {
                    let place = (kind.to_owned(), decl.name.to_owned());
                    known.data.insert(place, arguments.clone());
                }
            }
        }
        settle(model, index, assumption, &mut known);
        known
    }

    /// Takes over what the caller says about how many instances there are.
    fn inherit(&self, instance: &Instance<'_>, assumption: Assumption, known: &mut Known) {
        let (Some(parent), Some((file, block))) = (instance.parent, instance.call) else {
            return;
        };
        let scope = self.plain(parent, assumption);
        let repeats = ["count", "for_each"]
            .into_iter()
            .find_map(|name| block.body.get_attribute(name));
        known.is_single = scope.known.is_single && repeats.is_none();
        let own = match repeats {
            None => Some(false),
            Some(repeat) => {
                let value = self.evaluate(&scope, file, &repeat.value);
                value.map(|value| repetitions(&value) == Some(0))
            }
        };
        known.is_absent = match (scope.known.is_absent, own) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        };
    }

    /// The value that a call gives to a variable; `None` if it gives none, `Some(None)` if that is not known.
    fn input(
        &self,
        instance: &Instance<'_>,
        parent: usize,
        assumption: Assumption,
        name: &str,
    ) -> Option<Option<Value>> {
        let (file, block) = instance.call?;
        let attribute = block.body.get_attribute(name)?;
        let scope = self.plain(parent, assumption);
        Some(self.evaluate(&scope, file, &attribute.value))
    }

    /// The scope of an instance outside of any block that repeats.
    pub fn plain(&self, instance: usize, assumption: Assumption) -> Scope {
        let slot = ASSUMPTIONS
            .iter()
            .position(|it| *it == assumption)
            .unwrap_or(0);
        let known = Rc::clone(&self.by_assumption[slot][instance]);
        Scope {
            is_certain: known.is_absent == Some(false),
            known,
            each: None,
            count: None,
            iterators: Vec::new(),
            key: String::new(),
        }
    }

    /// The scopes of all that a block makes whatever its parameters, or one with an open key.
    pub fn expand(&self, model: &Model<'_>, decl: &Decl<'_>) -> Vec<Scope> {
        self.expand_assuming(model, decl, Assumption::Nothing)
    }

    /// The same for a workspace of which something is assumed.
    pub(crate) fn expand_assuming(
        &self,
        _model: &Model<'_>,
        decl: &Decl<'_>,
        assumption: Assumption,
    ) -> Vec<Scope> {
        let plain = self.plain(decl.instance, assumption);
        if plain.known.is_absent == Some(true) {
            return Vec::new();
        }
        let open = Scope {
            is_certain: false,
            ..plain.clone()
        };
        if let Some(count) = decl.argument("count") {
            let value = self.evaluate(&plain, count.file, &count.attribute.value);
            let Some(count) = value.as_ref().and_then(repetitions) else {
                return vec![open];
            };
            return (0..count.min(MAX_EXPANDED))
                .map(|index| Scope {
                    count: Some(index),
                    key: format!("[{index}]"),
                    ..plain.clone()
                })
                .collect();
        }
        if let Some(each) = decl.argument("for_each") {
            return match self.evaluate(&plain, each.file, &each.attribute.value) {
                Some(value) => self.each_of(&plain, &value),
                None => vec![open],
            };
        }
        vec![plain]
    }

    /// The scopes that a value of `for_each` makes.
    pub(crate) fn each_of(&self, plain: &Scope, value: &Value) -> Vec<Scope> {
        let pairs = pairs(value).into_iter();
        pairs
            .take(MAX_EXPANDED)
            .map(|(key, value)| Scope {
                key: format!("[{key}]"),
                each: Some((key, value)),
                ..plain.clone()
            })
            .collect()
    }

    /// The scopes of the blocks that a `dynamic` block makes of a value.
    pub(crate) fn items_of(&self, outer: &Scope, iterator: &str, value: &Value) -> Vec<Scope> {
        let pairs = pairs(value).into_iter().take(MAX_EXPANDED);
        pairs
            .map(|(key, value)| {
                let mut scope = outer.clone();
                scope.iterators.push((iterator.to_owned(), key, value));
                scope
            })
            .collect()
    }

    /// The value of an expression, if all that it refers to is known.
    pub(crate) fn evaluate(&self, scope: &Scope, file: &File, expr: &Expression) -> Option<Value> {
        scope.evaluate(file, expr)
    }

    /// The number of instances of a block under an assumption; `None` if the source does not tell.
    pub(crate) fn how_many(
        &self,
        model: &Model<'_>,
        decl: &Decl<'_>,
        assumption: Assumption,
    ) -> Option<usize> {
        let scopes = self.expand_assuming(model, decl, assumption);
        let is_known = scopes.iter().all(|scope| scope.is_certain);
        is_known.then_some(scopes.len())
    }

    /// Tells whether the calls that lead to an instance make exactly one of it.
    pub fn is_single(&self, instance: usize) -> bool {
        self.by_assumption[0][instance].is_single
    }
}

impl Scope {
    fn evaluate(&self, file: &File, expr: &Expression) -> Option<Value> {
        let mut found = Paths::default();
        found.visit_expr(expr);
        let mut variables = BTreeMap::new();
        for path in found.free() {
            let (depth, value) = self.lookup(path)?;
            insert(&mut variables, &path[..depth], value);
        }
        file.parsed.evaluate(expr, &variables).ok()
    }

    /// The value that the first names of a path stand for, and how many names that are.
    fn lookup(&self, path: &[String]) -> Option<(usize, Value)> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names.as_slice() {
            ["var", name, ..] => Some((2, self.known.variables.get(*name)?.clone())),
            ["local", name, ..] => Some((2, self.known.locals.get(*name)?.clone())),
            ["each", "key", ..] => Some((2, self.each.as_ref()?.0.clone())),
            ["each", "value", ..] => Some((2, self.each.as_ref()?.1.clone())),
            ["count", "index"] => Some((2, self.count?.into())),
            ["terraform", "workspace"] => Some((2, "default".into())),
            [name, part @ ("key" | "value"), ..] => {
                let mut bound = self.iterators.iter().rev();
                let (_, key, value) = bound.find(|(bound, ..)| bound == name)?;
                let found = if *part == "key" { key } else { value };
                Some((2, found.clone()))
            }
            ["data", kind, name, attribute, ..] => {
                let data = self
                    .known
                    .data
                    .get(&((*kind).to_owned(), (*name).to_owned()))?;
                Some((4, data.get(*attribute)?.clone()))
            }
            _ => None,
        }
    }
}

/// Puts a value at a path of names into nested objects.
fn insert(variables: &mut BTreeMap<String, Value>, path: &[String], value: Value) {
    let [first, rest @ ..] = path else { return };
    let slot = variables
        .entry(first.clone())
        .or_insert_with(|| Value::Object(Map::new()));
    let mut slot = slot;
    for name in rest {
        let Value::Object(map) = slot else { return };
        slot = map
            .entry(name.clone())
            .or_insert_with(|| Value::Object(Map::new()));
    }
    *slot = value;
}

/// Keys and values that `for_each` goes through.
fn pairs(value: &Value) -> Vec<(Value, Value)> {
    match value {
        Value::Array(items) => items
            .iter()
            .map(|item| (item.clone(), item.clone()))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (Value::String(key.clone()), value.clone()))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// The number of instances that a value of `count` or `for_each` makes.
fn repetitions(value: &Value) -> Option<usize> {
    match value {
        Value::Array(items) => Some(items.len()),
        Value::Object(map) => Some(map.len()),
        Value::Number(_) | Value::String(_) => {
            outpost_language::primitive_text(value)?.parse().ok()
        }
        Value::Null | Value::Bool(_) => None,
    }
}

fn blocks<'a>(
    instance: &Instance<'a>,
    kind: &'a str,
) -> impl Iterator<Item = (&'a File, &'a Block)> + use<'a> {
    let source = instance.source;
    source.files.iter().flat_map(move |file| {
        let blocks = file
            .body()
            .blocks()
            .filter(move |block| block.ident.as_str() == kind);
        blocks.map(move |block| (file, block))
    })
}

fn of_instance<'m, 'a>(
    model: &'m Model<'a>,
    instance: usize,
    kind: &'m str,
) -> impl Iterator<Item = &'m Decl<'a>> {
    let wanted =
        move |decl: &&Decl<'a>| decl.is_data && decl.instance == instance && decl.kind == kind;
    model.decls.iter().filter(wanted)
}

/// The value that somebody typed for a variable: a text, or an expression if its type asks for one.
fn given_value(block: &Block, text: &str) -> Value {
    let is_text = block.body.get_attribute("type").is_none_or(|kind| {
        kind.value
            .as_variable()
            .is_some_and(|name| name.as_str() == "string")
    });
    let literal = || outpost_language::evaluate_text(text, &BTreeMap::new()).ok();
    match is_text {
        true => Value::String(text.to_owned()),
        false => literal().unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

/// Assumptions about data sources: type, name or nothing for all, and arguments.
fn assumed(assumption: Assumption) -> Vec<(&'static str, &'static str, Map<String, Value>)> {
    let (count, transition) = match assumption {
        Assumption::Nothing => return Vec::new(),
        Assumption::Started => (1, "start"),
        Assumption::Stopped => (0, "stop"),
    };
    let workspace = [
        ("start_count", Value::from(count)),
        ("transition", transition.into()),
        ("prebuild_count", 0.into()),
        ("is_prebuild", false.into()),
        ("is_prebuild_claim", false.into()),
    ];
    let workspace = workspace
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    vec![("coder_workspace", "", workspace.collect())]
}

/// Evaluates local values and parameters until nothing more becomes known.
fn settle(model: &Model<'_>, index: usize, assumption: Assumption, known: &mut Known) {
    let locals: Vec<_> = blocks(&model.instances[index], "locals")
        .flat_map(|(file, block)| block.body.attributes().map(move |it| (file, it)))
        .collect();
    let mut known_now = std::mem::take(known);
    for _ in 0..MAX_ROUNDS {
        let before = known_now.locals.len() + known_now.data.values().map(Map::len).sum::<usize>();
        let scope = Scope {
            known: Rc::new(known_now),
            each: None,
            count: None,
            iterators: Vec::new(),
            key: String::new(),
            is_certain: true,
        };
        let mut found = Vec::new();
        for (file, attribute) in &locals {
            if !scope.known.locals.contains_key(attribute.key.as_str()) {
                let value = scope.evaluate(file, &attribute.value);
                found.extend(value.map(|value| (attribute.key.as_str().to_owned(), value)));
            }
        }
        let mut parameters = Vec::new();
        for decl in of_instance(model, index, "coder_parameter") {
            parameters.push((decl.name.to_owned(), parameter(&scope, decl, assumption)));
        }
        known_now = Rc::into_inner(scope.known).unwrap_or_default();
        known_now.locals.extend(found);
        for (name, arguments) in parameters {
            let place = ("coder_parameter".to_owned(), name);
            known_now.data.entry(place).or_default().extend(arguments);
        }
        let after = known_now.locals.len() + known_now.data.values().map(Map::len).sum::<usize>();
        if after == before {
            break;
        }
    }
    *known = known_now;
}

/// Arguments of a parameter that are known. One that repeats is referred to by index, which is not followed here.
fn parameter(scope: &Scope, decl: &Decl<'_>, assumption: Assumption) -> Map<String, Value> {
    if decl.argument("count").is_some() || decl.argument("for_each").is_some() {
        return Map::new();
    }
    let names = [
        "name",
        "display_name",
        "description",
        "type",
        "default",
        "mutable",
    ];
    let mut arguments = Map::new();
    for name in names {
        let argument = decl.argument(name);
        let value = argument.and_then(|it| scope.evaluate(it.file, &it.attribute.value));
        arguments.extend(value.map(|value| (name.to_owned(), value)));
    }
    if assumption != Assumption::Nothing
        && let Some(default) = arguments
            .get("default")
            .and_then(outpost_language::primitive_text)
    {
        arguments.insert("value".to_owned(), default.into());
    }
    arguments
}

/// The names in references, without indexes, and the names that `for` binds.
#[derive(Default)]
pub(super) struct Paths {
    pub(super) found: Vec<Vec<String>>,
    bound: Vec<String>,
    /// Names of functions that are called.
    pub(super) functions: Vec<String>,
}

impl Paths {
    pub(super) fn of_expr(expr: &Expression) -> Self {
        let mut paths = Self::default();
        paths.visit_expr(expr);
        paths
    }

    pub(super) fn of_body(body: &Body) -> Self {
        let mut paths = Self::default();
        paths.visit_body(body);
        paths
    }

    /// References to what is not bound by a `for` of the same expression.
    pub(super) fn free(&self) -> impl Iterator<Item = &Vec<String>> {
        self.found
            .iter()
            .filter(|path| !self.bound.contains(&path[0]))
    }
}

impl Visit for Paths {
    fn visit_expr(&mut self, expr: &Expression) {
        if let Expression::Variable(name) = expr {
            self.found.push(vec![name.as_str().to_owned()]);
        }
        visit::visit_expr(self, expr);
    }

    fn visit_traversal(&mut self, traversal: &Traversal) {
        let Some(root) = traversal.expr.as_variable() else {
            return visit::visit_traversal(self, traversal);
        };
        let name = |operator: &TraversalOperator| match operator {
            TraversalOperator::GetAttr(name) => Some(name.as_str().to_owned()),
            TraversalOperator::AttrSplat(_)
            | TraversalOperator::FullSplat(_)
            | TraversalOperator::Index(_)
            | TraversalOperator::LegacyIndex(_) => None,
        };
        let names = traversal.operators.iter().filter_map(|it| name(it.value()));
        let root = root.as_str().to_owned();
        self.found
            .push(std::iter::once(root).chain(names).collect());
        for operator in &traversal.operators {
            visit::visit_traversal_operator(self, operator.value());
        }
    }

    fn visit_for_expr(&mut self, each: &ForExpr) {
        let intro = &each.intro;
        self.bound
            .extend(intro.key_var.iter().map(|name| name.as_str().to_owned()));
        self.bound.push(intro.value_var.as_str().to_owned());
        visit::visit_for_expr(self, each);
    }

    fn visit_for_template_expr(&mut self, each: &hcl_edit::template::ForTemplateExpr) {
        self.bound
            .extend(each.key_var.iter().map(|name| name.as_str().to_owned()));
        self.bound.push(each.value_var.as_str().to_owned());
        visit::visit_for_template_expr(self, each);
    }

    fn visit_func_call(&mut self, call: &hcl_edit::expr::FuncCall) {
        self.functions.push(call.name.name.as_str().to_owned());
        visit::visit_func_call(self, call);
    }
}
