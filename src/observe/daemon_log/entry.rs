//! One event, in each of the three forms.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::{
    Level, Metadata,
    field::{Field, Visit},
};

use crate::error_chain::error_chain;

/// Fields of an event or a span, and the message.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    message: String,
    values: Vec<(&'static str, Value)>,
}

/// Everything that is written of one event.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    time: Timestamp,
    pub(super) level: Level,
    /// Modules of the event, outermost first; empty for the commands themselves.
    pub(super) names: Vec<&'static str>,
    pub(super) message: String,
    place: Place,
    fields: Vec<(&'static str, Value)>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    file: &'static str,
    line: u32,
    module: &'static str,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        match self
            .values
            .iter_mut()
            .find(|(name, _)| *name == field.name())
        {
            Some((_, old)) => *old = value,
            None => self.values.push((field.name(), value)),
        }
    }

    fn set_text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
            return;
        }
        // A map, such as tags, stays one.
        let map = text
            .starts_with('{')
            .then(|| serde_json::from_str::<Map<String, Value>>(&text));
        let value = match map {
            Some(Ok(map)) => Value::Object(map),
            Some(Err(_)) | None => Value::String(text),
        };
        self.set(field, value);
    }

    /// Adds the fields that a span has and the event has not.
    pub(super) fn append(&mut self, more: &Self) {
        for (name, value) in &more.values {
            if !self.values.iter().any(|(known, _)| known == name) {
                self.values.push((name, value.clone()));
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field, value.to_owned());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        self.set_text(field, error_chain(error));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field, format!("{value:?}"));
    }
}

impl Entry {
    pub(super) fn new(metadata: &'static Metadata<'static>, fields: Fields) -> Self {
        let module = metadata.target();
        // Modules in crates of their own, such as `outpost_daemon::runner`, get the names that they have in this
        // package.
        let inner = module
            .strip_prefix("outpost::")
            .or_else(|| module.strip_prefix("outpost_"));
        let names: Vec<&str> = match inner {
            Some(inner) if inner == "cli" || inner.starts_with("cli::") => Vec::new(),
            Some(inner) => inner.split("::").collect(),
            None => module.split("::").collect(),
        };
        Self {
            time: Timestamp::now(),
            level: *metadata.level(),
            names,
            message: fields.message,
            place: Place {
                file: metadata.file().unwrap_or_default(),
                line: metadata.line().unwrap_or_default(),
                module,
            },
            fields: fields.values,
        }
    }

    /// Formats the entry for people: `2006-01-02 15:04:05.000 [info]  module: message  key=value`.
    pub(super) fn human(&self, coloured: bool) -> String {
        let (level, colour) = match self.level {
            Level::ERROR => ("erro", 31),
            Level::WARN => ("warn", 33),
            Level::INFO => ("info", 34),
            _ => ("debu", 90),
        };
        let time = self.time.strftime("%Y-%m-%d %H:%M:%S%.3f");
        let mut line = if coloured {
            format!("{time} \u{1b}[{colour}m[{level}]\u{1b}[0m  ")
        } else {
            format!("{time} [{level}]  ")
        };
        if !self.names.is_empty() {
            line.push_str(&self.names.join("."));
            line.push_str(": ");
        }
        // The text of an event must not be able to look like a second event.
        for character in self.message.trim().chars() {
            match character.is_control() {
                true => line.extend(character.escape_default()),
                false => line.push(character),
            }
        }
        for (name, value) in &self.fields {
            // Writing into a string cannot fail.
            let _ = match value {
                Value::String(text) => write!(line, "  {name}={}", quoted(text)),
                value => write!(line, "  {name}={value}"),
            };
        }
        line.push('\n');
        line
    }

    /// Formats the entry as one JSON object, its keys in the reference's order.
    pub(super) fn json(&self) -> String {
        let level = match self.level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            _ => "DEBUG",
        };
        let mut object = Map::new();
        object.insert("ts".into(), self.time.to_string().into());
        object.insert("level".into(), level.into());
        object.insert("msg".into(), self.message.clone().into());
        let Place { file, line, module } = self.place;
        object.insert("caller".into(), format!("{file}:{line}").into());
        object.insert("func".into(), module.into());
        if !self.names.is_empty() {
            object.insert("logger_names".into(), json!(self.names));
        }
        if !self.fields.is_empty() {
            object.insert("fields".into(), Value::Object(self.fields()));
        }
        format!("{}\n", Value::Object(object))
    }

    /// Formats the entry for Google's agents; fields are at the top level.
    pub(super) fn stackdriver(&self) -> String {
        let severity = match self.level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            _ => "DEBUG",
        };
        let Place { file, line, module } = self.place;
        let mut object = Map::new();
        object.insert("logging.googleapis.com/severity".into(), severity.into());
        object.insert("severity".into(), severity.into());
        object.insert("message".into(), self.message.clone().into());
        object.insert("timestampSeconds".into(), self.time.as_second().into());
        object.insert(
            "timestampNanos".into(),
            self.time.subsec_nanosecond().into(),
        );
        let source = json!({ "file": file, "line": line, "function": module });
        object.insert("logging.googleapis.com/sourceLocation".into(), source);
        if !self.names.is_empty() {
            let operation = json!({ "producer": self.names.join(".") });
            object.insert("logging.googleapis.com/operation".into(), operation);
        }
        for (name, value) in self.fields() {
            object.entry(name).or_insert(value);
        }
        format!("{}\n", Value::Object(object))
    }

    fn fields(&self) -> Map<String, Value> {
        let fields = self.fields.iter();
        fields
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }
}

/// Quotes a text unless it is a single word.
fn quoted(text: &str) -> String {
    let escaped = format!("{text:?}");
    let is_plain =
        !text.is_empty() && !text.contains(char::is_whitespace) && escaped.len() == text.len() + 2;
    if is_plain { text.to_owned() } else { escaped }
}
