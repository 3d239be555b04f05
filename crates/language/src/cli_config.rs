//! The CLI configuration of Terraform and OpenTofu: `~/.terraformrc`, `TF_CLI_CONFIG_FILE`.
//!
//! An operator's configuration stays in force when we add to it, so it is parsed into a tree, changed, and written
//! again. The language is the first version of HCL, or JSON in the corresponding structure. Comments are lost.

mod installation;
mod locate;
mod parser;

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

pub use self::{
    installation::{Installation, Method, MethodKind},
    locate::{Engine, Location, locate},
};
use super::quote;

/// A configuration. It may hold tokens, so its `Debug` form shows only names.
#[derive(Clone, Default, PartialEq)]
pub struct CliConfig {
    entries: Vec<Entry>,
}

/// An entry: `KEY… = VALUE` or `KEY… { … }`.
#[derive(Clone, PartialEq)]
struct Entry {
    keys: Vec<String>,
    /// `true` if an equals sign precedes the value.
    is_assigned: bool,
    value: Node,
}

#[derive(Clone, PartialEq)]
enum Node {
    Text(String),
    /// A number or a bool, as written.
    Bare(String),
    List(Vec<Node>),
    Block(Vec<Entry>),
}

impl Node {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bare(_) | Self::List(_) | Self::Block(_) => None,
        }
    }

    fn entries(&self) -> &[Entry] {
        match self {
            Self::Block(entries) => entries,
            Self::Text(_) | Self::Bare(_) | Self::List(_) => &[],
        }
    }
}

impl CliConfig {
    /// Parses a configuration. One that begins with a brace is JSON.
    ///
    /// # Errors
    /// [`CliConfigError`] with a line; it shows nothing of the line's text.
    pub fn parse(text: &str) -> Result<Self, CliConfigError> {
        // Some editors for Windows begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let entries = match text.trim_start().starts_with('{') {
            true => from_json(text)?,
            false => parser::parse(text)?,
        };
        Ok(Self { entries })
    }

    /// Appends another configuration, as Terraform does with several files.
    pub fn append(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// Returns whether there is an argument or block of this name.
    pub fn has(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// Returns the labels of the blocks of this name, such as the hosts of `credentials`.
    pub fn labels(&self, name: &str) -> Vec<&str> {
        let labels = self.named(name).filter_map(|entry| entry.keys.get(1));
        labels.map(String::as_str).collect()
    }

    /// Returns the value of an argument, if it is a single string, number or bool. The last one counts.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.named(name)
            .last()
            .and_then(|entry| match &entry.value {
                Node::Text(text) | Node::Bare(text) => Some(text.as_str()),
                Node::List(_) | Node::Block(_) => None,
            })
    }

    /// Sets an argument to a string.
    pub fn set_text(&mut self, name: &str, value: &str) {
        self.set(name, Node::Text(value.to_owned()));
    }

    /// Sets an argument to a bool.
    pub fn set_bool(&mut self, name: &str, value: bool) {
        self.set(name, Node::Bare(value.to_string()));
    }

    /// Removes all arguments and blocks of this name.
    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|entry| entry.keys[0] != name);
    }

    /// Returns the installation methods of providers; `None` if the configuration leaves them to the engine.
    ///
    /// # Errors
    /// [`CliConfigError`] if a method is not valid, or if there are two such blocks: Terraform accepts one at most.
    pub fn installation(&self) -> Result<Option<Installation>, CliConfigError> {
        let mut blocks = self.named("provider_installation");
        let (first, second) = (blocks.next(), blocks.next());
        match (first, second) {
            (None, _) => Ok(None),
            (Some(entry), None) => Installation::read(&entry.value).map(Some),
            (Some(_), Some(_)) => Err(CliConfigError::Installation(
                "there is more than one provider_installation block".to_owned(),
            )),
        }
    }

    /// Replaces the installation methods of providers.
    pub fn set_installation(&mut self, installation: &Installation) {
        self.remove("provider_installation");
        self.entries.push(installation.write());
    }

    /// Sets the addresses of a host's services, such as `modules.v1`. Existing ones are kept; returns whether there
    /// were none.
    pub fn set_services(&mut self, host: &str, services: &BTreeMap<String, String>) -> bool {
        let labels = self.labels("host").into_iter();
        if labels
            .map(host_for_comparison)
            .any(|label| label == host_for_comparison(host))
        {
            return false;
        }
        let assigned = |name: &str, value: Node| Entry {
            keys: vec![name.to_owned()],
            is_assigned: true,
            value,
        };
        let services = services
            .iter()
            .map(|(name, url)| assigned(name, Node::Text(url.clone())));
        let services = Node::Block(services.collect());
        self.entries.push(Entry {
            keys: vec!["host".to_owned(), host.to_owned()],
            is_assigned: false,
            value: Node::Block(vec![assigned("services", services)]),
        });
        true
    }

    /// Returns the services of each host; values that are not strings are left out.
    pub fn services(&self) -> Vec<(&str, BTreeMap<&str, &str>)> {
        let mut all = Vec::new();
        for host in self.named("host") {
            let mut services = BTreeMap::new();
            let arguments = host.value.entries().iter();
            for block in arguments.filter(|entry| entry.keys[0] == "services") {
                for service in block.value.entries() {
                    let url = service.value.as_text();
                    services.extend(url.map(|url| (service.keys[0].as_str(), url)));
                }
            }
            all.extend(host.keys.get(1).map(|name| (name.as_str(), services)));
        }
        all
    }

    /// Sets or removes the token of a host, whatever its earlier entries are. An empty block prevents an engine from
    /// calling a `credentials_helper`.
    pub fn set_token(&mut self, host: &str, token: Option<&str>) {
        let name = host_for_comparison(host);
        let is_of_host = |entry: &Entry| {
            let label = entry.keys.get(1).map(|label| host_for_comparison(label));
            entry.keys[0] == "credentials" && label == Some(name.clone())
        };
        self.entries.retain(|entry| !is_of_host(entry));
        let token = token.map(|token| Entry {
            keys: vec!["token".to_owned()],
            is_assigned: true,
            value: Node::Text(token.to_owned()),
        });
        self.entries.push(Entry {
            keys: vec!["credentials".to_owned(), host.to_owned()],
            is_assigned: false,
            value: Node::Block(token.into_iter().collect()),
        });
    }

    fn named<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Entry> + use<'a, 'n> {
        self.entries
            .iter()
            .filter(move |entry| entry.keys[0] == name)
    }

    fn set(&mut self, name: &str, value: Node) {
        self.remove(name);
        self.entries.push(Entry {
            keys: vec![name.to_owned()],
            is_assigned: true,
            value,
        });
    }
}

/// Returns a host in the engine's normal form: in lower case, in ASCII (`xn--…`), without the default port. `None` if
/// the text is not a host.
pub fn host_for_comparison(host: &str) -> Option<String> {
    if host.contains(['/', '@', '?', '#', '\\']) {
        return None;
    }
    let url = url::Url::parse(&format!("https://{host}/")).ok()?;
    let name = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    })
}

/// Returns the number of labels of a block by its name; `None` for an argument.
fn json_labels(name: &str) -> Option<usize> {
    match name {
        "credentials" | "credentials_helper" | "host" => Some(1),
        "provider_installation" => Some(0),
        _ => None,
    }
}

fn from_json(text: &str) -> Result<Vec<Entry>, CliConfigError> {
    let invalid = |error: serde_json::Error| CliConfigError::Syntax {
        line: error.line(),
        reason: "invalid JSON",
    };
    let Value::Object(root) = serde_json::from_str(text).map_err(invalid)? else {
        return Err(CliConfigError::Syntax {
            line: 1,
            reason: "expected an object",
        });
    };
    let mut entries = Vec::new();
    for (name, value) in root {
        let labels = json_labels(&name);
        json_entries(vec![name], labels, value, &mut entries);
    }
    Ok(entries)
}

/// Converts a JSON value to entries; lists of objects become repeated blocks.
fn json_entries(keys: Vec<String>, labels: Option<usize>, value: Value, entries: &mut Vec<Entry>) {
    match (labels, value) {
        (Some(_), Value::Array(items)) => {
            for item in items {
                json_entries(keys.clone(), labels, item, entries);
            }
        }
        (Some(more), Value::Object(object)) if more > 0 => {
            for (label, value) in object {
                let keys = [keys.as_slice(), &[label]].concat();
                json_entries(keys, Some(more - 1), value, entries);
            }
        }
        (Some(0), Value::Object(object)) => {
            let is_installation = keys[0] == "provider_installation";
            let mut inner = Vec::new();
            for (name, value) in object {
                // Installation methods are blocks as well; everything else below is an argument.
                let labels = (is_installation && keys.len() == 1).then_some(0);
                json_methods(vec![name], labels, value, &mut inner);
            }
            entries.push(Entry {
                keys,
                is_assigned: false,
                value: Node::Block(inner),
            });
        }
        (_, value) => entries.push(Entry {
            keys,
            is_assigned: true,
            value: json_node(value),
        }),
    }
}

fn json_methods(keys: Vec<String>, labels: Option<usize>, value: Value, entries: &mut Vec<Entry>) {
    match (labels, value) {
        (Some(_), Value::Array(items)) => {
            for item in items {
                json_methods(keys.clone(), labels, item, entries);
            }
        }
        (labels, value) => entries.push(Entry {
            keys,
            is_assigned: labels.is_none(),
            value: json_node(value),
        }),
    }
}

fn json_node(value: Value) -> Node {
    match value {
        Value::String(text) => Node::Text(text),
        Value::Array(items) => Node::List(items.into_iter().map(json_node).collect()),
        Value::Object(object) => {
            let entry = |(name, value)| Entry {
                keys: vec![name],
                is_assigned: true,
                value: json_node(value),
            };
            Node::Block(object.into_iter().map(entry).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Node::Bare(value.to_string()),
    }
}

impl fmt::Display for CliConfig {
    /// Writes the native syntax, which all versions of both engines can read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_entries(f, &self.entries, 0)
    }
}

fn write_entries(f: &mut fmt::Formatter<'_>, entries: &[Entry], depth: usize) -> fmt::Result {
    for entry in entries {
        write!(f, "{:width$}", "", width = depth * 2)?;
        for (index, key) in entry.keys.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            match index == 0 && !key.is_empty() && key.bytes().all(is_word) {
                true => f.write_str(key)?,
                false => f.write_str(&quote::first_version(key))?,
            }
        }
        f.write_str(if entry.is_assigned { " = " } else { " " })?;
        write_node(f, &entry.value, depth)?;
        f.write_str("\n")?;
    }
    Ok(())
}

fn write_node(f: &mut fmt::Formatter<'_>, node: &Node, depth: usize) -> fmt::Result {
    match node {
        Node::Text(text) => f.write_str(&quote::first_version(text)),
        Node::Bare(text) => f.write_str(text),
        Node::List(items) => {
            f.write_str("[")?;
            for (index, item) in items.iter().enumerate() {
                f.write_str(if index > 0 { ", " } else { "" })?;
                write_node(f, item, depth)?;
            }
            f.write_str("]")
        }
        Node::Block(entries) => {
            f.write_str("{\n")?;
            write_entries(f, entries, depth + 1)?;
            write!(f, "{:width$}}}", "", width = depth * 2)
        }
    }
}

impl fmt::Debug for CliConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.entries.iter().map(|entry| &entry.keys[0]);
        f.debug_list().entries(names).finish()
    }
}

/// Reason why a configuration cannot be used. It shows no values, because they may be tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CliConfigError {
    /// The text is not valid in the configuration's language.
    #[error("invalid syntax in line {line}: {reason}")]
    Syntax {
        /// Number of the line, counted from 1.
        line: usize,
        /// Problem in this line.
        reason: &'static str,
    },
    /// The block of installation methods is not valid.
    #[error("invalid provider_installation: {0}")]
    Installation(String),
}

#[cfg(test)]
mod tests;
