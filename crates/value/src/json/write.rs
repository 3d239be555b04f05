//! Serialization of values as JSON.

use std::fmt;

use serde_json::value::to_raw_value;

use crate::Value;

/// Writes the value as JSON; unknown values become null.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null | Self::Unknown => f.write_str("null"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::String(text) => f.write_str(&quoted(text)),
            Self::List(elements) | Self::Set(elements) => {
                write_all(f, ('[', ']'), elements, |f, element| write!(f, "{element}"))
            }
            Self::Map(elements) => write_all(f, ('{', '}'), elements, write_entry),
            Self::Object(object) => write_all(f, ('{', '}'), object.iter(), write_entry),
            Self::Dynamic(inner) => {
                write!(f, r#"{{"value":{},"type":{}}}"#, inner.1, inner.0.to_json())
            }
        }
    }
}

fn write_all<T>(
    f: &mut fmt::Formatter<'_>,
    (open, close): (char, char),
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    write!(f, "{open}")?;
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            write!(f, ",")?;
        }
        write(f, item)?;
    }
    write!(f, "{close}")
}

fn write_entry(
    f: &mut fmt::Formatter<'_>,
    (name, value): (impl AsRef<str>, &Value),
) -> fmt::Result {
    write!(f, "{}:{value}", quoted(name.as_ref()))
}

fn quoted(text: &str) -> String {
    to_raw_value(text)
        .map(|json| json.get().to_owned())
        .expect("a text is JSON")
}
