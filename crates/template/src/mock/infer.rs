//! Schemas of providers that are not at hand, from how a template uses them.
//!
//! An argument has the type of its expression, a block is a block where the source has one, and whatever is referred to
//! and never set is computed. Where the source does not tell, an argument takes anything.

use std::collections::BTreeMap;

use hcl_edit::{
    expr::{BinaryOperator, Expression, ObjectKey, Traversal, TraversalOperator},
    structure::{Block as SourceBlock, Body},
    visit::{self, Visit},
};
use outpost_base::registry::ProviderAddr;
use outpost_language::Constraint;
use serde_json::{Value as Json, json};

use super::{
    addresses::is_mocked,
    schema::{Attribute, Block, Nested, ProviderSchema, Schema},
};
use crate::check::{Model, label};

/// Arguments and blocks that Terraform itself understands.
const META: [&str; 8] = [
    "count",
    "for_each",
    "depends_on",
    "provider",
    "lifecycle",
    "provisioner",
    "connection",
    "alias",
];
/// Steps through local values that are followed.
const MAX_DEPTH: usize = 16;

/// Providers that a template uses, whatever module uses them, without the one that is built in: local names in each
/// instance, and what is accepted of each.
pub fn providers(model: &Model<'_>, default_host: &str) -> BTreeMap<ProviderAddr, Constraint> {
    let mut found: BTreeMap<ProviderAddr, Constraint> = BTreeMap::new();
    for index in 0..model.instances.len() {
        for (addr, constraint) in model.required_providers(index, default_host).into_values() {
            let known = found.entry(addr).or_default();
            *known = known.and(&constraint);
        }
    }
    found.retain(|addr, _| is_mocked(addr));
    found
}

/// The schema that the template's use of a provider implies.
pub fn infer(model: &Model<'_>, addr: &ProviderAddr, default_host: &str) -> ProviderSchema {
    let mut schema = ProviderSchema::default();
    for index in 0..model.instances.len() {
        let names = model.required_providers(index, default_host);
        let is_ours = |name: &str| names.get(name).is_some_and(|(found, _)| found == addr);
        let types = Types {
            model,
            instance: index,
        };
        for file in &model.instances[index].source.files {
            for block in file.body().blocks() {
                let kind = label(block, 0);
                let place = match block.ident.as_str() {
                    "provider" if is_ours(kind) => {
                        types.add_body(&mut schema.provider.block, &block.body, true);
                        continue;
                    }
                    "resource" => &mut schema.resource_schemas,
                    "data" => &mut schema.data_source_schemas,
                    _ => continue,
                };
                if is_ours(&local_name(block)) {
                    let one: &mut Schema = place.entry(kind.to_owned()).or_default();
                    types.add_body(&mut one.block, &block.body, true);
                    one.block
                        .attributes
                        .entry("id".to_owned())
                        .or_insert_with(|| computed(json!("string"), Json::Null, 0));
                }
            }
        }
    }
    // `version` of a provider's block is Terraform's.
    schema.provider.block.attributes.remove("version");
    for instance in &model.instances {
        for file in &instance.source.files {
            let mut uses = Uses::default();
            uses.visit_body(file.body());
            uses.found
                .iter()
                .for_each(|found| found.add_to(&mut schema));
        }
    }
    schema
}

/// The name by which a module refers to the provider of a block.
pub(super) fn local_name(block: &SourceBlock) -> String {
    let chosen = block
        .body
        .get_attribute("provider")
        .and_then(|it| match &it.value {
            Expression::Variable(name) => Some(name.as_str()),
            Expression::Traversal(traversal) => {
                traversal.expr.as_variable().map(|name| name.as_str())
            }
            other => other.as_str().and_then(|text| text.split('.').next()),
        });
    let implied = label(block, 0).split('_').next();
    chosen.or(implied).unwrap_or_default().to_owned()
}

fn computed(kind: Json, like: Json, items: usize) -> Attribute {
    Attribute {
        kind,
        optional: true,
        computed: true,
        like,
        items,
        ..Attribute::default()
    }
}

/// Types of expressions of one instance.
struct Types<'m, 'a> {
    model: &'m Model<'a>,
    instance: usize,
}

impl Types<'_, '_> {
    fn add_body(&self, block: &mut Block, body: &Body, is_top: bool) {
        for attribute in body.attributes() {
            let name = attribute.key.as_str();
            if is_top && META.contains(&name) {
                continue;
            }
            // What a type leaves open is not possible inside of blocks.
            let open = if is_top {
                json!("dynamic")
            } else {
                json!("string")
            };
            let kind = self
                .of(&attribute.value, !is_top, 0)
                .unwrap_or_else(|| open.clone());
            let known = block
                .attributes
                .entry(name.to_owned())
                .or_insert_with(|| Attribute {
                    kind: kind.clone(),
                    optional: true,
                    ..Attribute::default()
                });
            if known.kind != kind {
                known.kind = open;
            }
        }
        for inner in body.blocks() {
            let name = inner.ident.as_str();
            let (name, body) = match name {
                "dynamic" => (
                    label(inner, 0),
                    inner.body.get_blocks("content").next().map(|it| &it.body),
                ),
                name => (name, Some(&inner.body)),
            };
            let Some(body) = body.filter(|_| !(is_top && META.contains(&name))) else {
                continue;
            };
            let nested = block
                .block_types
                .entry(name.to_owned())
                .or_insert_with(|| Nested {
                    nesting_mode: "list".to_owned(),
                    ..Nested::default()
                });
            self.add_body(&mut nested.block, body, false);
        }
    }

    /// The type of an expression in Terraform's notation; `None` if only a plan knows.
    fn of(&self, expr: &Expression, is_nested: bool, depth: usize) -> Option<Json> {
        if depth > MAX_DEPTH {
            return None;
        }
        let deeper = |expr: &Expression| self.of(expr, is_nested, depth + 1);
        match expr {
            Expression::String(_)
            | Expression::StringTemplate(_)
            | Expression::HeredocTemplate(_) => Some(json!("string")),
            Expression::Number(_) => Some(json!("number")),
            Expression::Bool(_) => Some(json!("bool")),
            Expression::Null(_) => None,
            Expression::Parenthesis(inner) => deeper(inner.inner()),
            Expression::Conditional(either) => {
                // One branch may be `null`, or a reference.
                deeper(&either.true_expr).or_else(|| deeper(&either.false_expr))
            }
            Expression::UnaryOp(op) => match *op.operator {
                hcl_edit::expr::UnaryOperator::Neg => Some(json!("number")),
                hcl_edit::expr::UnaryOperator::Not => Some(json!("bool")),
            },
            Expression::BinaryOp(op) => Some(of_operator(*op.operator.value())),
            Expression::Array(items) => {
                let mut kinds = items
                    .iter()
                    .map(|item| deeper(item).unwrap_or(json!("string")));
                let first = kinds.next()?;
                kinds
                    .all(|kind| kind == first)
                    .then(|| json!(["list", first]))
            }
            Expression::Object(object) => {
                let kinds: Vec<(Option<String>, Json)> = object
                    .iter()
                    .map(|(key, value)| {
                        (
                            key_name(key),
                            deeper(value.expr()).unwrap_or(json!("string")),
                        )
                    })
                    .collect();
                let is_map = kinds.iter().all(|(_, kind)| kind.is_string());
                match is_map {
                    true => Some(json!(["map", "string"])),
                    false if is_nested => {
                        let named = kinds.into_iter().map(|(name, kind)| Some((name?, kind)));
                        Some(json!([
                            "object",
                            named.collect::<Option<serde_json::Map<_, _>>>()?
                        ]))
                    }
                    false => None,
                }
            }
            Expression::ForExpr(each) => match &each.key_expr {
                Some(_) => Some(json!([
                    "map",
                    deeper(&each.value_expr).unwrap_or(json!("string"))
                ])),
                None => Some(json!([
                    "list",
                    deeper(&each.value_expr).unwrap_or(json!("string"))
                ])),
            },
            Expression::FuncCall(call) => {
                let name = call.name.name.as_str();
                of_function(name).or_else(|| match name {
                    "try" | "coalesce" | "sensitive" | "nonsensitive" | "one" => {
                        call.args.get(0).and_then(deeper)
                    }
                    _ => None,
                })
            }
            Expression::Traversal(traversal) => self.of_reference(traversal, is_nested, depth),
            Expression::Variable(_) => None,
        }
    }

    fn of_reference(&self, traversal: &Traversal, is_nested: bool, depth: usize) -> Option<Json> {
        let root = traversal.expr.as_variable()?.as_str();
        let operators: Vec<&TraversalOperator> =
            traversal.operators.iter().map(|it| it.value()).collect();
        let TraversalOperator::GetAttr(name) = operators.first()? else {
            return None;
        };
        let is_whole = operators.len() == 1;
        match root {
            "count" => Some(json!("number")),
            "path" | "terraform" => Some(json!("string")),
            "var" if is_whole => {
                let declared = self.variable(name.as_str())?;
                of_constraint(&declared.body.get_attribute("type")?.value)
            }
            "local" if is_whole => {
                let value = self.local(name.as_str())?;
                self.of(value, is_nested, depth + 1)
            }
            "data" => {
                let TraversalOperator::GetAttr(last) = operators.last()? else {
                    return None;
                };
                match (name.as_str(), last.as_str()) {
                    ("coder_workspace", "start_count" | "prebuild_count" | "access_port") => {
                        Some(json!("number"))
                    }
                    ("coder_workspace", "is_prebuild" | "is_prebuild_claim") => Some(json!("bool")),
                    ("coder_workspace_owner", "groups") => Some(json!(["list", "string"])),
                    (kind, _) if kind.starts_with("coder_") => Some(json!("string")),
                    _ => None,
                }
            }
            "coder_agent" => Some(json!("string")),
            _ => None,
        }
    }

    fn variable(&self, name: &str) -> Option<&SourceBlock> {
        let files = &self.model.instances[self.instance].source.files;
        let mut blocks = files
            .iter()
            .flat_map(|file| file.body().get_blocks("variable"));
        blocks.find(|block| label(block, 0) == name)
    }

    fn local(&self, name: &str) -> Option<&Expression> {
        let files = &self.model.instances[self.instance].source.files;
        let mut blocks = files
            .iter()
            .flat_map(|file| file.body().get_blocks("locals"));
        blocks.find_map(|block| block.body.get_attribute(name).map(|it| &it.value))
    }
}

fn key_name(key: &ObjectKey) -> Option<String> {
    match key {
        ObjectKey::Ident(name) => Some(name.as_str().to_owned()),
        ObjectKey::Expression(expr) => expr.as_str().map(str::to_owned),
    }
}

fn of_operator(operator: BinaryOperator) -> Json {
    use BinaryOperator as B;
    match operator {
        B::Plus | B::Minus | B::Mul | B::Div | B::Mod => json!("number"),
        B::Eq | B::NotEq | B::LessEq | B::GreaterEq | B::Less | B::Greater | B::And | B::Or => {
            json!("bool")
        }
    }
}

/// The type that a variable's constraint names; `None` for `any` and for objects, which no attribute may be.
fn of_constraint(expr: &Expression) -> Option<Json> {
    match expr {
        Expression::Variable(name) => match name.as_str() {
            kind @ ("string" | "number" | "bool") => Some(json!(kind)),
            _ => None,
        },
        Expression::FuncCall(call) => {
            let inner = of_constraint(call.args.get(0)?)?;
            match call.name.name.as_str() {
                kind @ ("list" | "set" | "map") => Some(json!([kind, inner])),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Functions that always give the same type.
fn of_function(name: &str) -> Option<Json> {
    Some(match name {
        "abs" | "ceil" | "floor" | "length" | "log" | "max" | "min" | "parseint" | "pow"
        | "signum" | "sum" | "tonumber" | "index" => json!("number"),
        "can" | "tobool" | "contains" | "alltrue" | "anytrue" | "endswith" | "startswith"
        | "fileexists" => json!("bool"),
        "tolist" | "split" | "concat" | "compact" | "keys" | "sort" | "distinct" | "formatlist"
        | "flatten" | "range" | "fileset" | "reverse" | "slice" | "chunklist" | "toset"
        | "setunion" => json!(["list", "string"]),
        "merge" | "tomap" | "zipmap" => json!(["map", "string"]),
        "base64decode" | "base64encode" | "base64gzip" | "base64sha256" | "base64sha512"
        | "bcrypt" | "chomp" | "cidrhost" | "cidrnetmask" | "cidrsubnet" | "csvdecode"
        | "dirname" | "basename" | "abspath" | "file" | "filebase64" | "filemd5" | "filesha1"
        | "filesha256" | "format" | "formatdate" | "indent" | "join" | "jsonencode" | "lower"
        | "md5" | "pathexpand" | "replace" | "rsadecrypt" | "sha1" | "sha256" | "sha512"
        | "strrev" | "substr" | "templatefile" | "textencodebase64" | "textdecodebase64"
        | "timeadd" | "timestamp" | "plantimestamp" | "title" | "tostring" | "trim"
        | "trimprefix" | "trimspace" | "trimsuffix" | "upper" | "urlencode" | "uuid" | "uuidv5"
        | "yamlencode" => json!("string"),
        _ => return None,
    })
}

/// A template's reference to a resource or a data source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Use {
    is_data: bool,
    kind: String,
    /// Behind the name: attributes and indexes.
    steps: Vec<Step>,
    is_number: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Attribute(String),
    /// An element, or all of them; how many there must be at least.
    Element(usize),
}

#[derive(Default)]
struct Uses {
    found: Vec<Use>,
    is_number: bool,
}

impl Visit for Uses {
    fn visit_binary_op(&mut self, op: &hcl_edit::expr::BinaryOp) {
        let outer = self.is_number;
        self.is_number = of_operator(*op.operator.value()) == "number";
        visit::visit_binary_op(self, op);
        self.is_number = outer;
    }

    fn visit_func_call(&mut self, call: &hcl_edit::expr::FuncCall) {
        let outer = std::mem::replace(&mut self.is_number, false);
        visit::visit_func_call(self, call);
        self.is_number = outer;
    }

    fn visit_traversal(&mut self, traversal: &Traversal) {
        if let Some(found) = self.of(traversal) {
            self.found.push(found);
        }
        visit::visit_traversal(self, traversal);
    }
}

impl Uses {
    fn of(&self, traversal: &Traversal) -> Option<Use> {
        let root = traversal.expr.as_variable()?.as_str();
        let mut steps: Vec<Step> = traversal
            .operators
            .iter()
            .map(|it| step(it.value()))
            .collect();
        let mut name = || match steps.first()? {
            Step::Attribute(_) => match steps.remove(0) {
                Step::Attribute(name) => Some(name),
                Step::Element(_) => None,
            },
            Step::Element(_) => None,
        };
        let is_data = root == "data";
        let kind = if is_data { name()? } else { root.to_owned() };
        name()?;
        // That of a block that repeats.
        if matches!(steps.first(), Some(Step::Element(_))) {
            steps.remove(0);
        }
        Some(Use {
            is_data,
            kind,
            steps,
            is_number: self.is_number,
        })
    }
}

fn step(operator: &TraversalOperator) -> Step {
    match operator {
        TraversalOperator::GetAttr(name) => Step::Attribute(name.as_str().to_owned()),
        TraversalOperator::Index(index) => match index {
            Expression::String(key) => Step::Attribute(key.value().clone()),
            Expression::Number(number) => Step::Element(
                1 + usize::try_from(number.value().as_u64().unwrap_or(0))
                    .unwrap_or(0)
                    .min(8),
            ),
            _ => Step::Element(1),
        },
        TraversalOperator::LegacyIndex(index) => {
            Step::Element(1 + usize::try_from(*index.value()).unwrap_or(0).min(8))
        }
        TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => Step::Element(0),
    }
}

impl Use {
    fn add_to(&self, schema: &mut ProviderSchema) {
        let place = match self.is_data {
            true => schema.data_source_schemas.get_mut(&self.kind),
            false => schema.resource_schemas.get_mut(&self.kind),
        };
        if let Some(one) = place {
            self.add_to_block(&mut one.block, &self.steps, !self.is_data);
        }
    }

    /// What a resource computes `is_open` in a plan, but not inside of blocks, where a type cannot be open.
    fn add_to_block(&self, block: &mut Block, steps: &[Step], is_open: bool) {
        let Some((Step::Attribute(name), rest)) = steps.split_first() else {
            return;
        };
        if let Some(nested) = block.block_types.get_mut(name) {
            let is_element = |step: &&Step| matches!(step, Step::Element(_));
            let elements = rest.iter().take_while(is_element).count();
            return self.add_to_block(&mut nested.block, &rest[elements..], false);
        }
        let leaf = if self.is_number {
            json!("number")
        } else {
            json!("string")
        };
        let (like, items) = shape(rest, leaf);
        let kind = if is_open {
            json!("dynamic")
        } else {
            like.clone()
        };
        match block.attributes.get_mut(name) {
            // One resource may set what another one leaves to the provider.
            Some(known) if !known.computed => known.computed = true,
            // Its type is known without a use.
            Some(_) if name == "id" => {}
            Some(known) => {
                known.items = known.items.max(items);
                known.like = richer(&known.like, &like);
                if known.kind != kind {
                    let is_nested = !is_open && !self.is_data;
                    known.kind = match is_nested {
                        true => known.like.clone(),
                        false => merged(&known.kind, &kind),
                    };
                }
            }
            None => {
                block
                    .attributes
                    .insert(name.clone(), computed(kind, like, items));
            }
        }
    }
}

/// The type of what is reached by steps, and how many elements it has at least.
fn shape(steps: &[Step], leaf: Json) -> (Json, usize) {
    match steps.split_first() {
        None => (leaf, 0),
        Some((Step::Element(items), rest)) => {
            let (inner, more) = shape(rest, leaf);
            (json!(["list", inner]), more.max(*items))
        }
        Some((Step::Attribute(name), rest)) => {
            let (inner, items) = shape(rest, leaf);
            let mut attributes = serde_json::Map::new();
            attributes.insert(name.clone(), inner);
            (json!(["object", attributes]), items)
        }
    }
}

/// A type that has what both uses reach; that with more structure where only one of them has some.
fn richer(one: &Json, other: &Json) -> Json {
    match (one.is_array(), other.is_array()) {
        (false, _) => other.clone(),
        (true, false) => one.clone(),
        (true, true) => match merged(one, other) {
            Json::String(_) => one.clone(),
            both => both,
        },
    }
}

/// A type that two uses have in common.
fn merged(one: &Json, other: &Json) -> Json {
    match (
        one.as_array().map(Vec::as_slice),
        other.as_array().map(Vec::as_slice),
    ) {
        (Some([kind, a]), Some([same, b])) if kind == same && kind == "list" => {
            json!(["list", merged(a, b)])
        }
        (Some([kind, Json::Object(a)]), Some([same, Json::Object(b)])) if kind == same => {
            let mut all = a.clone();
            for (name, of) in b {
                let of = all
                    .get(name)
                    .map_or_else(|| of.clone(), |known| merged(known, of));
                all.insert(name.clone(), of);
            }
            json!(["object", all])
        }
        _ if one == other => one.clone(),
        _ => json!("dynamic"),
    }
}
