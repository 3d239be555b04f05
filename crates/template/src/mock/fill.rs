//! Values of what a provider would compute: unknown in a plan, made up where they must be known.
//!
//! # Source
//! Terraform's documentation of `mock_provider`: texts of 8 characters, zero, false, empty collections, objects by attribute.
//! Ours are the same on every machine: they follow from a seed.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use outpost_value::{Object, Type, Value};
use sha2::{Digest, Sha256};

use super::schema::{Attribute, Block};

/// Characters of a text that is made up.
const LENGTH: usize = 8;

/// The proposed value of a new resource, where what only the provider can set is unknown.
pub(super) fn planned(block: &Block, proposed: &Object) -> Object {
    each(
        block,
        proposed,
        &mut |_, attribute, value| match attribute.computed && value.is_null() {
            true => Value::Unknown,
            false => value.clone(),
        },
    )
}

/// The value with everything that is unknown, or that only a provider can set, as it is given, or else made up.
pub(super) fn known(block: &Block, value: &Object, given: &Object, seed: &str) -> Object {
    let mut made = each(block, value, &mut |name, attribute, value| {
        let is_missing = value.is_unknown() || attribute.computed && value.is_null();
        match is_missing {
            true => missing(attribute, &format!("{seed}.{name}")),
            false => value.clone(),
        }
    });
    for (name, one) in given.iter() {
        let planned = value.get(name);
        let has_no_block = block.block_types.contains_key(name) && planned.elements().is_empty();
        if planned.is_unknown() || planned.is_null() || has_no_block {
            made.set(name, one.clone());
        }
    }
    made
}

fn missing(attribute: &Attribute, seed: &str) -> Value {
    let of = attribute.made_up_type();
    let made = made_up(&of, seed, attribute.items);
    match attribute.value_type() {
        Type::Dynamic => Value::Dynamic(Box::new((of, made))),
        _ => made,
    }
}

type Change<'c> = dyn FnMut(&str, &Attribute, &Value) -> Value + 'c;

/// Changes all attributes, also those in blocks.
fn each(block: &Block, object: &Object, change: &mut Change<'_>) -> Object {
    let mut made = Object::new();
    for (name, attribute) in &block.attributes {
        made.set(name.clone(), change(name, attribute, object.get(name)));
    }
    for (name, nested) in &block.block_types {
        made.set(
            name.clone(),
            blocks(&nested.block, object.get(name), change),
        );
    }
    made
}

/// Changes the blocks of one name: one, or a collection of them.
fn blocks(block: &Block, value: &Value, change: &mut Change<'_>) -> Value {
    match value {
        Value::Object(object) => Value::Object(each(block, object, change)),
        Value::List(items) | Value::Set(items) => {
            let mut made = Vec::with_capacity(items.len());
            for item in items {
                made.push(blocks(block, item, change));
            }
            match value {
                Value::Set(_) => Value::set(made),
                _ => Value::List(made),
            }
        }
        Value::Map(items) => {
            let mut made = BTreeMap::new();
            for (key, item) in items {
                made.insert(key.clone(), blocks(block, item, change));
            }
            Value::Map(made)
        }
        other => other.clone(),
    }
}

/// A value of a type, which follows from a seed.
pub(super) fn made_up(of: &Type, seed: &str, items: usize) -> Value {
    match of {
        Type::Bool => Value::from(false),
        Type::Number => Value::from(0),
        Type::String => Value::from(text(seed)),
        Type::Dynamic => Value::Dynamic(Box::new((Type::String, Value::from(text(seed))))),
        Type::List(of) => Value::List(
            (0..items)
                .map(|index| made_up(of, &format!("{seed}.{index}"), items))
                .collect(),
        ),
        Type::Set(_) => Value::Set(Vec::new()),
        Type::Map(_) => Value::Map(Default::default()),
        Type::Tuple(of) => Value::List(of.iter().map(|of| made_up(of, seed, 0)).collect()),
        Type::Object { attributes, .. } => {
            let made = attributes.iter();
            Value::Object(
                made.map(|(name, of)| {
                    (name.clone(), made_up(of, &format!("{seed}.{name}"), items))
                })
                .collect(),
            )
        }
    }
}

/// Eight letters and digits, the first of which is a letter. Templates decode certificates and keys that they read, so the
/// text is also the base64 form of one: of six lower-case letters.
fn text(seed: &str) -> String {
    let digest = Sha256::digest(seed);
    let letters = digest
        .iter()
        .take(LENGTH / 4 * 3)
        .map(|byte| b'a' + byte % 26);
    BASE64_STANDARD.encode(letters.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_made_up_by_type_and_always_the_same() {
        let object = Type::object([
            ("a", Type::String),
            ("n", Type::Number),
            ("l", Type::list(Type::Bool)),
        ]);

        let made = made_up(&object, "aws_ami.x", 0);

        assert_eq!(made, made_up(&object, "aws_ami.x", 0));
        assert_eq!(made.get("a").as_str().unwrap().len(), 8);
        assert_eq!(
            (made.get("n"), made.get("l")),
            (&Value::from(0), &Value::List(Vec::new()))
        );
        assert_ne!(made, made_up(&object, "aws_ami.y", 0));
    }

    #[test]
    fn texts_are_plain_and_can_be_decoded() {
        for seed in 0..200 {
            let text = text(&format!("aws_ami.x{seed}"));

            let is_plain = |it: char| it.is_ascii_alphanumeric();
            assert!(text.len() == 8 && text.chars().all(is_plain), "{text}");
            let decoded = BASE64_STANDARD.decode(&text).unwrap();
            assert!(decoded.iter().all(u8::is_ascii_lowercase), "{text}");
        }
    }
}
