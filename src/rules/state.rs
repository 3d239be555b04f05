//! What a Terraform state says about itself: which line of states it belongs to, how new it is, what is in it.
//!
//! # Source
//! terraform `internal/states/statefile/version4.go`.

use std::collections::BTreeSet;

use serde::Deserialize;

/// The parts of a state that tell states apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Made with the first state of a workspace, and kept ever after.
    pub lineage: String,
    /// Grows with each change.
    pub serial: u64,
    /// Addresses of all managed instances.
    pub addresses: BTreeSet<String>,
}

/// How a state relates to the one that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It is newer, or the server has none.
    Newer,
    /// It is the same, or older.
    NotNewer,
    /// It tells of other infrastructure.
    Unrelated,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    lineage: String,
    #[serde(default)]
    serial: u64,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    module: String,
    #[serde(default)]
    mode: String,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    instances: Vec<Instance>,
}

#[derive(Deserialize)]
struct Instance {
    #[serde(default)]
    index_key: Option<serde_json::Value>,
}

impl Outline {
    /// Reads a state; `None` if it is none.
    pub fn read(state: &[u8]) -> Option<Self> {
        let state: State = serde_json::from_slice(state).ok()?;
        let managed = state.resources.iter().filter(|it| it.mode != "data");
        let addresses = managed.flat_map(|resource| {
            let module = match resource.module.as_str() {
                "" => String::new(),
                module => format!("{module}."),
            };
            let base = format!("{module}{}.{}", resource.kind, resource.name);
            resource
                .instances
                .iter()
                .map(move |instance| match &instance.index_key {
                    None | Some(serde_json::Value::Null) => base.clone(),
                    Some(key) => format!("{base}[{key}]"),
                })
        });
        Some(Self {
            lineage: state.lineage,
            serial: state.serial,
            addresses: addresses.collect(),
        })
    }

    /// How this state relates to `known`, the bytes that a server has; empty if it has none.
    pub fn relation(&self, known: &[u8]) -> Relation {
        if known.trim_ascii().is_empty() {
            return Relation::Newer;
        }
        match Self::read(known) {
            Some(known) if known.lineage == self.lineage => match self.serial > known.serial {
                true => Relation::Newer,
                false => Relation::NotNewer,
            },
            Some(_) | None => Relation::Unrelated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &[u8] = br#"{"version":4,"lineage":"a","serial":3,"resources":[
        {"mode":"managed","type":"x","name":"one","instances":[{"attributes":{}}]},
        {"mode":"data","type":"x","name":"read","instances":[{}]},
        {"module":"module.m","mode":"managed","type":"x","name":"many","instances":[{"index_key":0},{"index_key":"k"}]}]}"#;

    #[test]
    fn a_state_tells_its_line_its_age_and_its_managed_instances() {
        let outline = Outline::read(STATE).unwrap();

        assert_eq!((outline.lineage.as_str(), outline.serial), ("a", 3));
        let addresses: Vec<_> = outline.addresses.iter().map(String::as_str).collect();
        let expected = ["module.m.x.many[\"k\"]", "module.m.x.many[0]", "x.one"];
        assert_eq!(addresses, expected);
        assert_eq!(Outline::read(b"{\"serial\":"), None);
    }

    #[test]
    fn only_a_higher_serial_of_the_same_line_is_newer() {
        let outline = Outline::read(STATE).unwrap();

        assert_eq!(outline.relation(b""), Relation::Newer);
        assert_eq!(
            outline.relation(br#"{"lineage":"a","serial":2}"#),
            Relation::Newer
        );
        assert_eq!(outline.relation(STATE), Relation::NotNewer);
        assert_eq!(
            outline.relation(br#"{"lineage":"b","serial":1}"#),
            Relation::Unrelated
        );
        assert_eq!(outline.relation(b"garbage"), Relation::Unrelated);
    }
}
