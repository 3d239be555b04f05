//! Types of Terraform values, and their notation in JSON: `"string"`, `["list","bool"]`, `["object",{"a":"number"}]`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::MAX_DEPTH;

/// The type of a value in a schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// A boolean, `true` or `false`.
    Bool,
    /// A decimal number of any precision.
    Number,
    /// A string of Unicode text.
    String,
    /// An open type: values bring their own.
    Dynamic,
    /// Elements of one type, in order.
    List(Box<Type>),
    /// Elements of one type, without order.
    Set(Box<Type>),
    /// Elements of one type, by key.
    Map(Box<Type>),
    /// Elements of different types, in order.
    Tuple(Vec<Type>),
    /// Attributes with a name and a type each.
    Object {
        /// Types of attributes by name.
        attributes: BTreeMap<String, Type>,
        /// Names of attributes that may be missing.
        optional: BTreeSet<String>,
    },
}

/// Reason why a text is not a type.
#[derive(Debug, thiserror::Error)]
pub enum TypeError {
    /// The text is not JSON.
    #[error("type is not valid JSON")]
    Json(#[from] serde_json::Error),
    /// The JSON is not the notation of a type.
    #[error("`{0}` is not a type")]
    Unknown(String),
    /// The type is nested too deep.
    #[error("type is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

impl Type {
    /// Returns the type of a list of `element`.
    pub fn list(element: Type) -> Self {
        Self::List(Box::new(element))
    }

    /// Returns the type of a set of `element`.
    pub fn set(element: Type) -> Self {
        Self::Set(Box::new(element))
    }

    /// Returns the type of a map of `element`.
    pub fn map(element: Type) -> Self {
        Self::Map(Box::new(element))
    }

    /// Returns the type of an object with all of these attributes.
    pub fn object<N: Into<String>>(attributes: impl IntoIterator<Item = (N, Type)>) -> Self {
        let attributes = attributes.into_iter();
        Self::Object {
            attributes: attributes.map(|(name, of)| (name.into(), of)).collect(),
            optional: BTreeSet::new(),
        }
    }

    /// Parses the JSON notation.
    ///
    /// # Errors
    /// [`TypeError`] if it is not valid, or nested deeper than [`MAX_DEPTH`].
    pub fn from_json(json: &[u8]) -> Result<Self, TypeError> {
        from_json(&serde_json::from_slice(json)?, 0)
    }

    /// Returns the JSON notation, which schemas contain in protobuf messages.
    pub fn to_json(&self) -> Json {
        let pair = |kind: &str, of: Json| Json::Array(vec![kind.into(), of]);
        match self {
            Self::Bool => "bool".into(),
            Self::Number => "number".into(),
            Self::String => "string".into(),
            Self::Dynamic => "dynamic".into(),
            Self::List(of) => pair("list", of.to_json()),
            Self::Set(of) => pair("set", of.to_json()),
            Self::Map(of) => pair("map", of.to_json()),
            Self::Tuple(of) => pair("tuple", of.iter().map(Self::to_json).collect()),
            Self::Object {
                attributes,
                optional,
            } => object_json(attributes, optional),
        }
    }
}

fn object_json(attributes: &BTreeMap<String, Type>, optional: &BTreeSet<String>) -> Json {
    let types: Map<_, _> = attributes
        .iter()
        .map(|(name, of)| (name.clone(), of.to_json()))
        .collect();
    let mut parts = vec!["object".into(), Json::Object(types)];
    if !optional.is_empty() {
        parts.push(optional.iter().cloned().map(Json::String).collect());
    }
    Json::Array(parts)
}

fn from_json(json: &Json, depth: usize) -> Result<Type, TypeError> {
    if depth > MAX_DEPTH {
        return Err(TypeError::TooDeep);
    }
    let unknown = || TypeError::Unknown(json.to_string().chars().take(100).collect());
    let parts: &[Json] = json.as_array().map_or(&[], Vec::as_slice);
    let kind = json
        .as_str()
        .or_else(|| parts.first()?.as_str())
        .ok_or_else(unknown)?;
    let inner = |of: &Json| from_json(of, depth + 1).map(Box::new);
    match (kind, parts.get(1..).unwrap_or_default()) {
        ("bool", []) => Ok(Type::Bool),
        ("number", []) => Ok(Type::Number),
        ("string", []) => Ok(Type::String),
        ("dynamic", []) => Ok(Type::Dynamic),
        ("list", [of]) => Ok(Type::List(inner(of)?)),
        ("set", [of]) => Ok(Type::Set(inner(of)?)),
        ("map", [of]) => Ok(Type::Map(inner(of)?)),
        ("tuple", [Json::Array(of)]) => {
            let types: Result<_, _> = of.iter().map(|of| from_json(of, depth + 1)).collect();
            Ok(Type::Tuple(types?))
        }
        ("object", [Json::Object(of)]) => object_from_json(of, &[], depth),
        ("object", [Json::Object(of), Json::Array(optional)]) => {
            object_from_json(of, optional, depth)
        }
        _ => Err(unknown()),
    }
}

fn object_from_json(
    attributes: &Map<String, Json>,
    optional: &[Json],
    depth: usize,
) -> Result<Type, TypeError> {
    let attributes: Result<_, TypeError> = attributes
        .iter()
        .map(|(name, of)| Ok((name.clone(), from_json(of, depth + 1)?)))
        .collect();
    let optional = optional.iter().filter_map(Json::as_str).map(str::to_owned);
    Ok(Type::Object {
        attributes: attributes?,
        optional: optional.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads_back_from_its_notation() {
        for notation in [
            r#""bool""#,
            r#""dynamic""#,
            r#"["list",["object",{"name":"string","org_id":"number"}]]"#,
            r#"["map",["set","string"]]"#,
            r#"["tuple",["bool","number"]]"#,
            r#"["object",{"a":"bool","b":"string"},["b"]]"#,
        ] {
            let read = Type::from_json(notation.as_bytes()).unwrap();
            assert_eq!(read.to_json().to_string(), notation);
        }
    }

    #[test]
    fn what_is_no_type_is_refused_by_name() {
        let error = |notation: &str| {
            Type::from_json(notation.as_bytes())
                .unwrap_err()
                .to_string()
        };

        assert_eq!(error(r#""text""#), "`\"text\"` is not a type");
        assert_eq!(error(r#"["list"]"#), "`[\"list\"]` is not a type");
        assert_eq!(error("["), "type is not valid JSON");
        let deep = format!("{}\"bool\"{}", r#"["list","#.repeat(65), "]".repeat(65));
        assert_eq!(error(&deep), "type is nested deeper than 64 levels");
    }
}
