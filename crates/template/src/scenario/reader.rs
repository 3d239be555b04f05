//! Blocks of a scenario, read argument by argument; every mistake is kept with its place.

use std::collections::BTreeMap;

use hcl_edit::{
    expr::{Expression, ObjectKey},
    structure::{Attribute, Block, Body},
};
use outpost_language::evaluate_condition;
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{
    Given,
    place::{Place, Problem, Source},
};
use crate::similar::suggestion;

/// The memory that a compiled regular expression may take, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Reads parts of one file and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) source: Source<'a>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn wrong(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(Problem::new(place, message));
    }

    /// Reports arguments and blocks that are not among the known ones. `what` is where they are.
    pub(super) fn names(&mut self, body: &Body, what: &str, attributes: &[&str], blocks: &[&str]) {
        let known = || attributes.iter().chain(blocks).copied();
        for attribute in body.attributes() {
            let name = attribute.key.as_str();
            let place = self.source.place(&attribute.key);
            if blocks.contains(&name) && !attributes.contains(&name) {
                self.wrong(
                    place,
                    format!("`{name}` is a block: write `{name} {{ … }}` without `=`"),
                );
            } else if !attributes.contains(&name) {
                let message = format!(
                    "unknown argument `{name}` in {what}{}",
                    suggestion(name, known())
                );
                self.wrong(place, message);
            }
        }
        for block in body.blocks() {
            let name = block.ident.as_str();
            let place = self.source.place(&block.ident);
            if attributes.contains(&name) && !blocks.contains(&name) {
                self.wrong(
                    place,
                    format!("`{name}` is an argument: write `{name} = …`"),
                );
            } else if !blocks.contains(&name) {
                let message = format!(
                    "unknown block `{name}` in {what}{}",
                    suggestion(name, known())
                );
                self.wrong(place, message);
            }
        }
    }

    /// Reports a number of labels that the block cannot have.
    pub(super) fn labels(&mut self, block: &Block, least: usize, most: usize) -> bool {
        let (name, count) = (block.ident.as_str(), block.labels.len());
        let wanted = match (least, most) {
            (0, 0) => "no label".to_owned(),
            (1, 1) => "one label".to_owned(),
            (least, most) => format!("{least} or {most} labels"),
        };
        if !(least..=most).contains(&count) {
            let place = self.source.place(&block.ident);
            self.wrong(place, format!("`{name}` takes {wanted}, not {count}"));
        }
        (least..=most).contains(&count)
    }

    /// The only block of a kind; others of it are mistakes.
    pub(super) fn only<'b>(&mut self, body: &'b Body, kind: &str) -> Option<&'b Block> {
        let mut blocks = body.blocks().filter(|block| block.ident.as_str() == kind);
        let first = blocks.next();
        for block in blocks {
            let place = self.source.place(&block.ident);
            self.wrong(place, format!("there is a block `{kind}` already"));
        }
        first
    }

    /// The value of an expression that stands for itself, with functions.
    pub(super) fn value(&mut self, expression: &Expression) -> Option<Value> {
        let text = self.source.source(expression);
        match evaluate_condition(text, &BTreeMap::new()) {
            Ok(value) => Some(value),
            Err(error) => {
                let place = self.source.place(expression);
                self.wrong(place, format!("{error} (nothing can be referred to here)"));
                None
            }
        }
    }

    fn argument(&mut self, body: &Body, name: &str) -> Option<(Value, Place)> {
        let attribute = body.get_attribute(name)?;
        let place = self.source.place(&attribute.value);
        Some((self.value(&attribute.value)?, place))
    }

    pub(super) fn text(&mut self, body: &Body, name: &str) -> Option<(String, Place)> {
        let (value, place) = self.argument(body, name)?;
        match value {
            Value::String(text) => Some((text, place)),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                self.wrong(place, format!("`{name}` must be a string"));
                None
            }
        }
    }

    pub(super) fn flag(&mut self, body: &Body, name: &str) -> Option<(bool, Place)> {
        let (value, place) = self.argument(body, name)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong(place.clone(), format!("`{name}` must be true or false"));
        }
        Some((flag?, place))
    }

    pub(super) fn whole(&mut self, body: &Body, name: &str) -> Option<i64> {
        let (value, place) = self.argument(body, name)?;
        let number = value.as_i64();
        if number.is_none() {
            self.wrong(place, format!("`{name}` must be a whole number"));
        }
        number
    }

    pub(super) fn texts(&mut self, body: &Body, name: &str) -> Vec<String> {
        let Some((value, place)) = self.argument(body, name) else {
            return Vec::new();
        };
        let items = value.as_array().map(|items| {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>()
        });
        items.flatten().unwrap_or_else(|| {
            self.wrong(place, format!("`{name}` must be a list of strings"));
            Vec::new()
        })
    }

    pub(super) fn pattern(&mut self, body: &Body, name: &str) -> Option<Regex> {
        let (text, place) = self.text(body, name)?;
        let built = RegexBuilder::new(&text).size_limit(MAX_REGEX_BYTES).build();
        match built {
            Ok(regex) => Some(regex),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim().to_owned();
                self.wrong(
                    place,
                    format!("`{name}` is not a regular expression: {reason}"),
                );
                None
            }
        }
    }

    /// Names and values of an argument that is an object.
    pub(super) fn map(&mut self, body: &Body, name: &str) -> Vec<Given> {
        let Some(attribute) = body.get_attribute(name) else {
            return Vec::new();
        };
        match &attribute.value {
            Expression::Object(object) => {
                let entries = object.iter().filter_map(|(key, value)| {
                    Some(Given {
                        place: self.source.place(key),
                        name: self.key(key)?,
                        value: self.value(value.expr())?,
                    })
                });
                entries.collect()
            }
            _ => self.computed_map(attribute),
        }
    }

    /// An object that functions make; all of its names have the place of the argument.
    fn computed_map(&mut self, attribute: &Attribute) -> Vec<Given> {
        let place = self.source.place(&attribute.value);
        match self.value(&attribute.value) {
            Some(Value::Object(map)) => {
                let entries = map.into_iter().map(|(name, value)| Given {
                    name,
                    value,
                    place: place.clone(),
                });
                entries.collect()
            }
            Some(_) => {
                let name = attribute.key.as_str();
                self.wrong(
                    place,
                    format!("`{name}` must be an object: {name} = {{ NAME = VALUE }}"),
                );
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn key(&mut self, key: &ObjectKey) -> Option<String> {
        match key {
            ObjectKey::Ident(name) => Some(name.as_str().to_owned()),
            ObjectKey::Expression(Expression::Variable(name)) => Some(name.as_str().to_owned()),
            ObjectKey::Expression(expression) => {
                let place = self.source.place(expression);
                let value = self.value(expression)?;
                let text = outpost_language::primitive_text(&value);
                if text.is_none() {
                    self.wrong(place, "a name must be a string");
                }
                text
            }
        }
    }
}
