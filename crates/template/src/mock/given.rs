//! Values that a scenario gives to mocks, by type or by address.

use std::collections::BTreeMap;

use outpost_value::{Number, Object, Type, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{
    fill::made_up,
    schema::{Attribute, Block},
};

/// Values for all resources of a type, or for one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// True for a data source, false for a resource.
    pub is_data: bool,
    /// Type, such as `aws_ami`.
    pub kind: String,
    /// The name in the configuration, or an address; `None` for the whole type.
    pub name: Option<String>,
    /// Values by attribute.
    pub values: BTreeMap<String, Json>,
}

/// A value that its attribute cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}must be {wanted}, not {found}", place(.path))]
pub struct Unfit {
    path: String,
    wanted: &'static str,
    found: &'static str,
}

fn place(path: &str) -> String {
    match path {
        "" => String::new(),
        path => format!("`{path}` "),
    }
}

/// A resource as its mock knows it.
pub(super) struct Identity<'a> {
    pub(super) is_data: bool,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) address: &'a str,
}

impl Values {
    /// How closely the values are for a resource; `None` if they are for others.
    fn nearness(&self, of: &Identity<'_>) -> Option<usize> {
        if self.is_data != of.is_data || self.kind != of.kind {
            return None;
        }
        let Some(wanted) = &self.name else {
            return Some(0);
        };
        let before = of.address.strip_suffix(wanted.as_str());
        match before.is_some_and(|before| before.is_empty() || before.ends_with('.')) {
            true => Some(2),
            false => (wanted == of.name).then_some(1),
        }
    }
}

/// The values for a resource: those by name before those by type.
pub(super) fn values_for(
    all: &[Values],
    block: &Block,
    of: &Identity<'_>,
    seed: &str,
) -> Result<Object, Unfit> {
    let mut fitting: Vec<_> = all
        .iter()
        .filter_map(|it| Some((it.nearness(of)?, it)))
        .collect();
    fitting.sort_by_key(|(nearness, _)| *nearness);
    let mut object = Object::new();
    for (name, json) in fitting.into_iter().flat_map(|(_, it)| &it.values) {
        if let Some(of) = type_in(block, name) {
            object.set(name.clone(), conform(&of, json, &format!("{seed}.{name}"))?);
        }
    }
    Ok(object)
}

/// The type of an attribute or of blocks.
pub(crate) fn type_in(block: &Block, name: &str) -> Option<Type> {
    let attribute = block.attributes.get(name).map(Attribute::value_type);
    attribute.or_else(|| Some(block.block_types.get(name)?.value_type()))
}

/// The value of a type that a scenario means; attributes that it leaves out follow from the seed.
pub(crate) fn conform(of: &Type, json: &Json, seed: &str) -> Result<Value, Unfit> {
    convert(of, json, seed, "")
}

fn convert(of: &Type, json: &Json, seed: &str, path: &str) -> Result<Value, Unfit> {
    let unfit = |wanted: &'static str| Unfit {
        path: path.to_owned(),
        wanted,
        found: kind_of(json),
    };
    if json.is_null() {
        return Ok(Value::Null);
    }
    let inside = |of: &Type, json: &Json, key: &str| {
        let path = if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        };
        convert(of, json, &format!("{seed}.{key}"), &path)
    };
    let elements = |of: &Type, wanted: &'static str| {
        let items = json.as_array().ok_or_else(|| unfit(wanted))?.iter();
        let items = items
            .enumerate()
            .map(|(index, item)| inside(of, item, &index.to_string()));
        items.collect::<Result<Vec<_>, _>>()
    };
    Ok(match of {
        Type::String => text(json)
            .map(Value::from)
            .ok_or_else(|| unfit("a string"))?,
        Type::Number => number(json)
            .map(Value::from)
            .ok_or_else(|| unfit("a number"))?,
        Type::Bool => match (json, json.as_str()) {
            (Json::Bool(value), _) => Value::from(*value),
            (_, Some("true")) => Value::from(true),
            (_, Some("false")) => Value::from(false),
            _ => return Err(unfit("a bool")),
        },
        Type::Dynamic => {
            let of = natural(json);
            let value = convert(&of, json, seed, path)?;
            Value::Dynamic(Box::new((of, value)))
        }
        Type::List(of) => Value::List(elements(of, "a list")?),
        Type::Set(of) => Value::set(elements(of, "a set")?),
        Type::Map(of) => {
            let members = json.as_object().ok_or_else(|| unfit("a map"))?.iter();
            let members = members.map(|(key, item)| Ok((key.clone(), inside(of, item, key)?)));
            Value::Map(members.collect::<Result<_, _>>()?)
        }
        Type::Tuple(of) => {
            let items = json.as_array().filter(|items| items.len() == of.len());
            let items = items
                .ok_or_else(|| unfit("a tuple"))?
                .iter()
                .zip(of)
                .enumerate();
            let items = items.map(|(index, (item, of))| inside(of, item, &index.to_string()));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Type::Object { attributes, .. } => {
            let members = json.as_object().ok_or_else(|| unfit("an object"))?;
            if let Some(name) = members.keys().find(|name| !attributes.contains_key(*name)) {
                return Err(Unfit {
                    path: if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    },
                    wanted: "an attribute of the type",
                    found: "an unknown one",
                });
            }
            let mut object = Object::new();
            for (name, of) in attributes {
                let value = match members.get(name) {
                    Some(item) => inside(of, item, name)?,
                    None => made_up(of, &format!("{seed}.{name}"), 0),
                };
                object.set(name.clone(), value);
            }
            Value::Object(object)
        }
    })
}

fn text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn number(json: &Json) -> Option<Number> {
    match json {
        Json::Number(number) => number.to_string().parse().ok(),
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The type that a value has by itself.
fn natural(json: &Json) -> Type {
    match json {
        Json::Null | Json::String(_) => Type::String,
        Json::Bool(_) => Type::Bool,
        Json::Number(_) => Type::Number,
        Json::Array(items) => Type::Tuple(items.iter().map(natural).collect()),
        Json::Object(members) => {
            Type::object(members.iter().map(|(name, it)| (name.clone(), natural(it))))
        }
    }
}

fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a bool",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_converted_as_terraform_does_or_told_apart() {
        let ports = Type::list(Type::object([
            ("port", Type::Number),
            ("name", Type::String),
        ]));

        let made = conform(&ports, &json!([{"port": "80"}]), "x").unwrap();

        let port = made.elements()[0].as_object().unwrap();
        assert_eq!(port.get("port"), &Value::from(80));
        assert_eq!(port.text("name").unwrap().len(), 8);
        let wrong = conform(&ports, &json!([{"port": [1]}]), "x").unwrap_err();
        assert_eq!(wrong.to_string(), "`0.port` must be a number, not a list");
        let unknown = conform(&ports, &json!([{"prot": 1}]), "x").unwrap_err();
        assert!(unknown.to_string().contains("`0.prot`"), "{unknown}");
    }

    #[test]
    fn the_nearest_values_win() {
        let of = |name: Option<&str>, id: &str| Values {
            kind: "aws_vm".to_owned(),
            name: name.map(str::to_owned),
            values: [("id".to_owned(), json!(id))].into(),
            ..Values::default()
        };
        let all = [of(Some("vm[1]"), "c"), of(Some("vm"), "b"), of(None, "a")];
        let mut block = Block::default();
        block.attributes.insert(
            "id".to_owned(),
            Attribute {
                kind: json!("string"),
                ..Attribute::default()
            },
        );
        let id = |name: &str, address: &str| {
            let of = Identity {
                is_data: false,
                kind: "aws_vm",
                name,
                address,
            };
            values_for(&all, &block, &of, "")
                .unwrap()
                .text("id")
                .unwrap()
                .to_owned()
        };

        assert_eq!(id("other", "aws_vm.other"), "a");
        assert_eq!(id("vm", "module.m.aws_vm.vm[0]"), "b");
        assert_eq!(id("vm", "aws_vm.vm[1]"), "c");
    }
}
