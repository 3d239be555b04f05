//! Declarations of a template: calls of modules, resources and data sources, by address.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use hcl_edit::{
    Span,
    expr::Expression,
    structure::{Attribute, Block, Body},
};
use outpost_base::registry::ProviderAddr;
use outpost_language::Constraint;
use serde_json::Value;

use super::{
    place::Place,
    source::{File, ModuleSource, SourceError, Sources, Target},
    values::{Scope, Values},
};

/// One call of a module, or the root. A call with `for_each` or `count` is one instance.
#[derive(Debug)]
pub struct Instance<'a> {
    /// `module.a.module.b.`, empty for the root.
    pub prefix: String,
    /// The files it is made of.
    pub source: &'a ModuleSource,
    /// The instance that calls it.
    pub parent: Option<usize>,
    /// The block that calls it, and its file.
    pub call: Option<(&'a File, &'a Block)>,
    /// Instances of the modules that it calls, by name.
    pub(crate) children: HashMap<&'a str, usize>,
}

/// A `resource` or `data` block of one instance.
#[derive(Debug)]
pub struct Decl<'a> {
    /// The instance it belongs to.
    pub instance: usize,
    /// The file with the block.
    pub file: &'a File,
    /// Block in the file, with its spans.
    pub block: &'a Block,
    /// Blocks of override files that change it, with their files.
    pub(crate) overrides: Vec<(&'a File, &'a Block)>,
    /// Tells whether it only reads.
    pub(crate) is_data: bool,
    /// Its type, such as `docker_container`.
    pub kind: &'a str,
    /// Name of the block: its last label.
    pub name: &'a str,
    /// Its address without indexes.
    pub address: String,
}

/// An argument of a block and the file it stands in.
#[derive(Clone, Copy, Debug)]
pub struct Argument<'a> {
    /// File that it stands in.
    pub file: &'a File,
    /// Name and value, with their spans.
    pub(crate) attribute: &'a Attribute,
}

/// A block inside of another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nested<'a> {
    /// File that it stands in.
    pub file: &'a File,
    /// Block in the file, with its spans.
    pub block: &'a Block,
    /// The arguments; those of `content` in a `dynamic` block.
    pub body: &'a Body,
    /// The collection that a `dynamic` block repeats over.
    pub for_each: Option<&'a Expression>,
}

/// A module that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingModule {
    /// Address of the call, such as `module.editor`.
    pub address: String,
    /// The source that it would come from.
    pub source: String,
    /// Place of the `source` argument.
    pub place: Place,
    /// The fetched module in whose files the place is.
    pub module: String,
}

/// A call that can never work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongCall {
    /// The address of the module.
    pub address: String,
    /// The reason why it cannot work.
    pub reason: String,
    /// The `source` argument, or the block.
    pub place: Place,
    /// The fetched module in whose files the place is.
    pub module: String,
}

impl fmt::Display for WrongCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        write!(
            f,
            "{}:{}:{}: {}",
            place.file, place.line, place.column, self.reason
        )
    }
}

/// The call of an instance: indexes instead of references, while files are still being read.
struct Planned {
    prefix: String,
    source: usize,
    parent: Option<usize>,
    /// File and block of the caller's module.
    call: Option<(usize, usize)>,
    /// Modules that call each other, from the root to this one.
    chain: Vec<usize>,
}

/// All instances, found while modules are read.
#[derive(Default)]
pub struct Calls {
    planned: Vec<Planned>,
    /// Modules that are not there.
    pub missing: Vec<MissingModule>,
    /// Calls that can never work.
    pub wrong: Vec<WrongCall>,
}

impl Calls {
    /// Follows all calls of modules from the root on.
    ///
    /// # Errors
    /// [`SourceError`] if a module's directory cannot be listed.
    pub fn follow(sources: &mut Sources) -> Result<Self, SourceError> {
        let mut calls = Self::default();
        calls.planned.push(Planned {
            prefix: String::new(),
            source: 0,
            parent: None,
            call: None,
            chain: vec![0],
        });
        let mut next = 0;
        while next < calls.planned.len() {
            calls.children_of(next, sources)?;
            next += 1;
        }
        Ok(calls)
    }

    fn children_of(&mut self, index: usize, sources: &mut Sources) -> Result<(), SourceError> {
        let (prefix, source) = (
            self.planned[index].prefix.clone(),
            self.planned[index].source,
        );
        let chain = self.planned[index].chain.clone();
        for (file_index, block_index, call) in module_calls(&sources.modules[source]) {
            let address = format!("{prefix}module.{}", call.name);
            let module = sources.modules[source].fetched.clone();
            let keys = address
                .trim_start_matches("module.")
                .replace(".module.", ".");
            let wrong = |reason: String| WrongCall {
                address: address.clone(),
                reason,
                place: call.place.clone(),
                module: module.clone(),
            };
            let target = match &call.source {
                Some(text) => sources.resolve(source, text, &keys, chain.len())?,
                None => {
                    self.wrong.push(wrong(
                        "a module needs a `source`, which is a literal text".to_owned(),
                    ));
                    continue;
                }
            };
            match target {
                Target::Module(found) if chain.contains(&found) => {
                    self.wrong.push(wrong(
                        "the module calls itself, directly or through another one".to_owned(),
                    ));
                }
                Target::Module(found) => self.planned.push(Planned {
                    prefix: format!("{address}."),
                    source: found,
                    parent: Some(index),
                    call: Some((file_index, block_index)),
                    chain: chain.iter().copied().chain([found]).collect(),
                }),
                Target::Missing => self.missing.push(MissingModule {
                    address: address.clone(),
                    source: call.source.unwrap_or_default(),
                    place: call.place,
                    module,
                }),
                Target::Wrong(reason) => self.wrong.push(wrong(reason)),
            }
        }
        Ok(())
    }
}

struct ModuleCall {
    name: String,
    source: Option<String>,
    place: Place,
}

fn module_calls(module: &ModuleSource) -> Vec<(usize, usize, ModuleCall)> {
    let mut found = Vec::new();
    for (file_index, file) in module.files.iter().enumerate() {
        for (block_index, block) in file.body().blocks().enumerate() {
            if block.ident.as_str() != "module" || file.parsed.is_override {
                continue;
            }
            let source = block.body.get_attribute("source");
            let call = ModuleCall {
                name: label(block, 0).to_owned(),
                source: source
                    .and_then(|source| source.value.as_str())
                    .map(str::to_owned),
                place: source.map_or_else(|| file.header(block), |source| file.place_of(source)),
            };
            found.push((file_index, block_index, call));
        }
    }
    found
}

/// The label of a block at an index, empty if there is none.
pub fn label(block: &Block, index: usize) -> &str {
    block.labels.get(index).map_or("", |label| label.as_str())
}

/// A template, ready to be asked about.
pub struct Model<'a> {
    /// Files of the template and its modules.
    pub sources: &'a Sources,
    /// The root comes first; callers come before those they call.
    pub instances: Vec<Instance<'a>>,
    /// All resources and data sources, in the order of instances, files and lines.
    pub(crate) decls: Vec<Decl<'a>>,
    /// Values that are known without a plan.
    pub values: Values,
    /// Tells whether a module is not there, so that what is not found may be in it.
    pub is_partial: bool,
    index: HashMap<(usize, bool, &'a str, &'a str), usize>,
}

impl<'a> Model<'a> {
    /// Puts together what the files say. `variables` are values that somebody gave.
    pub fn new(sources: &'a Sources, calls: &Calls, variables: &[(String, String)]) -> Self {
        let mut instances: Vec<Instance<'a>> = Vec::new();
        for planned in &calls.planned {
            let call = planned
                .parent
                .zip(planned.call)
                .and_then(|(parent, (file, block))| {
                    let caller: &Instance<'a> = &instances[parent];
                    let file = &caller.source.files[file];
                    Some((file, file.body().blocks().nth(block)?))
                });
            let index = instances.len();
            if let (Some(parent), Some((_, block))) = (planned.parent, call) {
                instances[parent].children.insert(label(block, 0), index);
            }
            instances.push(Instance {
                prefix: planned.prefix.clone(),
                source: &sources.modules[planned.source],
                parent: planned.parent,
                call,
                children: HashMap::new(),
            });
        }
        let mut model = Self {
            sources,
            instances,
            decls: Vec::new(),
            values: Values::default(),
            is_partial: !calls.missing.is_empty() || !sources.broken.is_empty(),
            index: HashMap::new(),
        };
        model.declare();
        model.values = Values::of(&model, variables);
        model
    }

    fn declare(&mut self) {
        for index in 0..self.instances.len() {
            let source = self.instances[index].source;
            for file in &source.files {
                for block in file.body().blocks() {
                    let is_data = match block.ident.as_str() {
                        "resource" => false,
                        "data" => true,
                        _ => continue,
                    };
                    self.declare_one(index, file, block, is_data);
                }
            }
        }
    }

    fn declare_one(&mut self, instance: usize, file: &'a File, block: &'a Block, is_data: bool) {
        let (kind, name) = (label(block, 0), label(block, 1));
        let key = (instance, is_data, kind, name);
        if file.parsed.is_override {
            if let Some(base) = self.index.get(&key) {
                self.decls[*base].overrides.push((file, block));
            }
            return;
        }
        let mode = if is_data { "data." } else { "" };
        let prefix = &self.instances[instance].prefix;
        self.index.entry(key).or_insert(self.decls.len());
        self.decls.push(Decl {
            instance,
            file,
            block,
            overrides: Vec::new(),
            is_data,
            kind,
            name,
            address: format!("{prefix}{mode}{kind}.{name}"),
        });
    }

    /// The declaration of a type and a name in an instance.
    pub fn find(&self, instance: usize, is_data: bool, kind: &str, name: &str) -> Option<usize> {
        self.index.get(&(instance, is_data, kind, name)).copied()
    }

    /// Declarations of one type; data sources if it begins with `data.`.
    pub(crate) fn of_kind<'m>(&'m self, kind: &'m str) -> impl Iterator<Item = &'m Decl<'a>> {
        let (is_data, kind) = match kind.strip_prefix("data.") {
            Some(kind) => (true, kind),
            None => (false, kind),
        };
        let wanted = move |decl: &&Decl<'a>| decl.is_data == is_data && decl.kind == kind;
        self.decls.iter().filter(wanted)
    }

    /// Managed resources that are shown to people: all but those of the `coder` provider.
    pub(crate) fn managed(&self) -> impl Iterator<Item = (usize, &Decl<'a>)> {
        let shown =
            |(_, decl): &(usize, &Decl<'a>)| !decl.is_data && !decl.kind.starts_with("coder_");
        self.decls.iter().enumerate().filter(shown)
    }

    /// The fetched module in whose files a declaration stands; empty for the template's own.
    pub(crate) fn module_of(&self, decl: &Decl<'_>) -> &'a str {
        &self.instances[decl.instance].source.fetched
    }

    /// Local names of the providers of an instance, with their addresses and what is accepted of them. Those that are only
    /// used are HashiCorp's, as Terraform knows no better.
    pub(crate) fn required_providers(
        &self,
        instance: usize,
        default_host: &str,
    ) -> BTreeMap<String, (ProviderAddr, Constraint)> {
        super::rules::required_providers(self, instance, default_host)
    }

    /// The scopes of all that a block makes, as far as that is known; one, with an open key, if it is not.
    pub(crate) fn scopes(&self, decl: &Decl<'_>) -> Vec<Scope> {
        self.values.expand(self, decl)
    }

    /// The value of an argument in a scope, if it is known without a plan.
    pub fn value(&self, scope: &Scope, argument: Argument<'_>) -> Option<Value> {
        self.values
            .evaluate(scope, argument.file, &argument.attribute.value)
    }

    /// The same as text: a primitive.
    pub fn text(&self, scope: &Scope, argument: Option<Argument<'_>>) -> Option<String> {
        outpost_language::primitive_text(&self.value(scope, argument?)?)
    }

    /// The same as a bool.
    pub fn flag(&self, scope: &Scope, argument: Option<Argument<'_>>) -> Option<bool> {
        match self.text(scope, argument)?.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

impl<'a> Decl<'a> {
    /// An argument of the block; one of an override file wins.
    pub fn argument(&self, name: &str) -> Option<Argument<'a>> {
        let of = |(file, block): (&'a File, &'a Block)| {
            let attribute = block.body.get_attribute(name)?;
            Some(Argument { file, attribute })
        };
        let overrides = self.overrides.iter().rev().copied();
        overrides.chain([(self.file, self.block)]).find_map(of)
    }

    /// Blocks of one name inside of the block, `dynamic` ones included.
    pub(crate) fn nested(&self, name: &str) -> Vec<Nested<'a>> {
        let replaced = self.overrides.iter().rev().copied();
        let mut all = replaced.chain([(self.file, self.block)]);
        all.find_map(|(file, block)| {
            let found = nested(file, &block.body, name);
            (!found.is_empty()).then_some(found)
        })
        .unwrap_or_default()
    }

    /// The place of the words before the block's brace.
    pub fn place(&self) -> Place {
        self.file.header(self.block)
    }

    /// The place of its name.
    pub(crate) fn name_place(&self) -> Place {
        let span = self.block.labels.get(1).and_then(Span::span);
        span.map_or_else(|| self.place(), |span| self.file.place(&span))
    }

    /// All bodies with its arguments.
    pub fn bodies(&self) -> impl Iterator<Item = &'a Body> {
        let own = std::iter::once(&self.block.body);
        own.chain(self.overrides.iter().map(|(_, block)| &block.body))
    }
}

/// Blocks of one name in a body, `dynamic` ones included.
pub(super) fn nested<'a>(file: &'a File, body: &'a Body, name: &str) -> Vec<Nested<'a>> {
    let of = |block: &'a Block| {
        if block.ident.as_str() == name {
            return Some(Nested {
                file,
                block,
                body: &block.body,
                for_each: None,
            });
        }
        if block.ident.as_str() != "dynamic" || label(block, 0) != name {
            return None;
        }
        let content = block.body.get_blocks("content").next()?;
        Some(Nested {
            file,
            block,
            body: &content.body,
            for_each: block.body.get_attribute("for_each").map(|it| &it.value),
        })
    };
    body.blocks().filter_map(of).collect()
}

impl<'a> Nested<'a> {
    /// An argument of the block.
    pub(crate) fn argument(&self, name: &str) -> Option<Argument<'a>> {
        let attribute = self.body.get_attribute(name)?;
        Some(Argument {
            file: self.file,
            attribute,
        })
    }

    /// The place of the words before the block's brace.
    pub(crate) fn place(&self) -> Place {
        self.file.header(self.block)
    }
}

impl Argument<'_> {
    /// The place of name and value.
    pub fn place(&self) -> Place {
        self.file.place_of(self.attribute)
    }
}
