//! Values as JSON, the form of state files and `DynamicValue.json`.

mod write;

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{MAX_DEPTH, Object, Path, Type, TypeError, Value};

/// Returned if a JSON text is not a value of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind}", place(.path))]
pub struct JsonError {
    /// Path in the value.
    pub path: Path,
    kind: Kind,
}

fn place(path: &Path) -> String {
    match path.0.as_slice() {
        [] => String::new(),
        _ => format!("{path}: "),
    }
}

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("expected {0}")]
    Expected(&'static str),
    #[error("no such attribute")]
    Unexpected,
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("{0}")]
    Type(TypeError),
}

/// Treatment of attributes that the type does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnknownAttributes {
    Refuse,
    /// Ignores them, because states keep attributes that newer schemas have dropped.
    Drop,
}

impl Value {
    /// Parses a value of the type `of`. Missing attributes are null.
    ///
    /// # Errors
    /// [`JsonError`] with the place if the text is something else, has an attribute that the type lacks, or is
    /// nested too deep.
    pub fn from_json(of: &Type, json: &[u8]) -> Result<Self, JsonError> {
        read(of, json, UnknownAttributes::Refuse)
    }

    /// Does the same, but ignores attributes that the type lacks, for states written with older schemas.
    ///
    /// # Errors
    /// Those of [`Value::from_json`].
    pub fn from_state_json(of: &Type, json: &[u8]) -> Result<Self, JsonError> {
        read(of, json, UnknownAttributes::Drop)
    }

    /// Returns the value as JSON; unknown values become null.
    pub fn to_json(&self) -> Box<RawValue> {
        RawValue::from_string(self.to_string()).expect("the writer writes JSON")
    }
}

fn read(of: &Type, json: &[u8], strange: UnknownAttributes) -> Result<Value, JsonError> {
    let mut reader = Reader {
        path: Path::root(),
        strange,
    };
    let read = serde_json::from_slice(json)
        .map_err(|_| Kind::Expected("JSON"))
        .and_then(|json| reader.value(of, json, 0));
    read.map_err(|kind| JsonError {
        path: reader.path,
        kind,
    })
}

struct Reader {
    /// Path of the current value; after an error, that of the error.
    path: Path,
    strange: UnknownAttributes,
}

impl Reader {
    fn value(&mut self, of: &Type, json: &RawValue, depth: usize) -> Result<Value, Kind> {
        if depth > MAX_DEPTH {
            return Err(Kind::TooDeep);
        }
        if json.get() == "null" {
            return Ok(Value::Null);
        }
        match of {
            Type::Bool => Ok(Value::Bool(parse(json, "a boolean")?)),
            Type::Number => number(json),
            Type::String => text(json),
            Type::Dynamic => self.dynamic(json, depth),
            Type::List(of) => Ok(Value::List(self.elements(of, json, depth)?)),
            Type::Set(of) => Ok(Value::set(self.elements(of, json, depth)?)),
            Type::Tuple(types) => self.tuple(types, json, depth),
            Type::Map(of) => self.map(of, json, depth),
            Type::Object {
                attributes,
                optional: _,
            } => self.object(attributes, json, depth),
        }
    }

    fn dynamic(&mut self, json: &RawValue, depth: usize) -> Result<Value, Kind> {
        let pair: BTreeMap<String, &RawValue> = parse(json, "an object with `value` and `type`")?;
        let (Some(value), Some(of)) = (pair.get("value"), pair.get("type")) else {
            return Err(Kind::Expected("an object with `value` and `type`"));
        };
        let of = Type::from_json(of.get().as_bytes()).map_err(Kind::Type)?;
        let value = self.value(&of, value, depth + 1)?;
        Ok(Value::Dynamic(Box::new((of, value))))
    }

    fn elements(&mut self, of: &Type, json: &RawValue, depth: usize) -> Result<Vec<Value>, Kind> {
        let elements: Vec<&RawValue> = parse(json, "a list")?;
        let element = |(index, json)| {
            self.within(
                |path| path.index(index),
                |reader| reader.value(of, json, depth + 1),
            )
        };
        elements.into_iter().enumerate().map(element).collect()
    }

    fn tuple(&mut self, types: &[Type], json: &RawValue, depth: usize) -> Result<Value, Kind> {
        let elements: Vec<&RawValue> = parse(json, "a list")?;
        if elements.len() != types.len() {
            return Err(Kind::Expected("as many elements as the type has"));
        }
        let element = |(index, (of, json))| {
            self.within(
                |path: &Path| path.index(index),
                |reader| reader.value(of, json, depth + 1),
            )
        };
        let elements: Result<_, _> = types
            .iter()
            .zip(elements)
            .enumerate()
            .map(element)
            .collect();
        Ok(Value::List(elements?))
    }

    fn map(&mut self, of: &Type, json: &RawValue, depth: usize) -> Result<Value, Kind> {
        let entries: BTreeMap<String, &RawValue> = parse(json, "a map")?;
        let mut map = BTreeMap::new();
        for (key, json) in entries {
            let value = self.within(
                |path| path.key(&key),
                |reader| reader.value(of, json, depth + 1),
            )?;
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }

    fn object(
        &mut self,
        attributes: &BTreeMap<String, Type>,
        json: &RawValue,
        depth: usize,
    ) -> Result<Value, Kind> {
        let mut entries: BTreeMap<String, &RawValue> = parse(json, "an object")?;
        let mut object = Object::new();
        for (name, of) in attributes {
            let value = match entries.remove(name) {
                Some(json) => self.within(
                    |path| path.attribute(name),
                    |reader| reader.value(of, json, depth + 1),
                )?,
                None => Value::Null,
            };
            object.set(name, value);
        }
        match entries.into_keys().next() {
            Some(name) if self.strange == UnknownAttributes::Refuse => {
                self.within(|path| path.attribute(name), |_| Err(Kind::Unexpected))
            }
            _ => Ok(Value::Object(object)),
        }
    }

    /// Reads something one step below; the path is restored only on success, so that an error keeps its path.
    fn within<T>(
        &mut self,
        step: impl FnOnce(&Path) -> Path,
        read: impl FnOnce(&mut Self) -> Result<T, Kind>,
    ) -> Result<T, Kind> {
        let below = step(&self.path);
        let here = std::mem::replace(&mut self.path, below);
        let value = read(self)?;
        self.path = here;
        Ok(value)
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(
    json: &'a RawValue,
    expected: &'static str,
) -> Result<T, Kind> {
    serde_json::from_str(json.get()).map_err(|_| Kind::Expected(expected))
}

/// Parses a number, which is a string in old states.
fn number(json: &RawValue) -> Result<Value, Kind> {
    let text = json.get().trim_matches('"');
    text.parse()
        .map(Value::Number)
        .map_err(|_| Kind::Expected("a number"))
}

/// Parses a string, which is a number or boolean in old states.
fn text(json: &RawValue) -> Result<Value, Kind> {
    match json.get().as_bytes().first() {
        Some(b'"') => Ok(Value::String(parse(json, "a string")?)),
        Some(b'{' | b'[') | None => Err(Kind::Expected("a string")),
        Some(_) => Ok(Value::from(json.get())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of() -> Type {
        Type::object([
            ("env", Type::map(Type::String)),
            ("n", Type::Number),
            ("open", Type::Dynamic),
            ("set", Type::set(Type::object([("on", Type::Bool)]))),
        ])
    }

    const SAMPLE: &str = r#"{"env":{"a\"":"ä"},"n":123456789012345678901234567890.5,"open":{"value":["x"],"type":["list","string"]},"set":[{"on":false},{"on":true}]}"#;

    #[test]
    fn a_value_of_every_kind_reads_back_with_every_digit() {
        let value = Value::from_json(&of(), SAMPLE.as_bytes()).unwrap();

        assert_eq!(value.to_json().get(), SAMPLE);
    }

    #[test]
    fn what_is_missing_is_null_and_what_is_strange_has_a_place() {
        let missing = Value::from_json(&of(), b"{}").unwrap();
        let strange = br#"{"set":[{"on":true,"off":1}]}"#;

        assert_eq!(
            missing.to_string(),
            r#"{"env":null,"n":null,"open":null,"set":null}"#
        );
        let error = Value::from_json(&of(), strange).unwrap_err();
        assert_eq!(error.to_string(), "set[0].off: no such attribute");
        let state = Value::from_state_json(&of(), strange).unwrap();
        assert_eq!(state.get("set").to_string(), r#"[{"on":true}]"#);
    }

    #[test]
    fn errors_say_where_and_what() {
        let error = |json: &str| {
            Value::from_json(&of(), json.as_bytes())
                .unwrap_err()
                .to_string()
        };

        assert_eq!(error("["), "expected JSON");
        assert_eq!(error("[]"), "expected an object");
        assert_eq!(error(r#"{"n":true}"#), "n: expected a number");
        assert_eq!(
            error(r#"{"env":{"k":[]}}"#),
            "env[\"k\"]: expected a string"
        );
        assert_eq!(
            error(r#"{"set":[{"on":"x"}]}"#),
            "set[0].on: expected a boolean"
        );
        assert_eq!(
            error(r#"{"open":1}"#),
            "open: expected an object with `value` and `type`"
        );
    }
}
