//! Properties of a Terraform state: its lineage, its serial and its instances.
//!
//! # Source
//! terraform `internal/states/statefile/version4.go`.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use serde::Deserialize;

/// The parts of a state that distinguish it from other states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Identifier generated with the first state of a workspace, and kept ever after.
    pub lineage: String,
    /// Number that grows with each change.
    pub serial: u64,
    /// Addresses of all managed instances.
    pub addresses: BTreeSet<String>,
    /// Ids that the provider gave to managed instances, by address; instances without an id are left out.
    ids: BTreeMap<String, String>,
}

/// Relation of a state to the one that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The state is newer, or the server has none.
    Newer,
    /// The state is the same, or older.
    NotNewer,
    /// The state describes other infrastructure.
    Unrelated,
}

/// Relation of a state that a daemon kept to the one that a job of its workspace brings along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptState {
    /// The job must use the kept state: it is newer, or the only one with any infrastructure.
    Newer,
    /// The job's state contains all instances of the kept one.
    Known,
    /// The job's state is newer and lacks these instances of the kept one: they were destroyed meanwhile, or are
    /// forgotten.
    Overtaken(Vec<String>),
    /// Each state describes infrastructure that the other one lacks.
    Conflict,
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
    #[serde(default)]
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct Attributes {
    #[serde(default)]
    id: serde_json::Value,
}

impl Outline {
    /// Parses a state; `None` if the bytes are not a state.
    pub fn read(state: &[u8]) -> Option<Self> {
        let state: State = serde_json::from_slice(state).ok()?;
        let mut outline = Self {
            lineage: state.lineage,
            serial: state.serial,
            ..Self::default()
        };
        for resource in state.resources.iter().filter(|it| it.mode != "data") {
            let module = match resource.module.as_str() {
                "" => String::new(),
                module => format!("{module}."),
            };
            let base = format!("{module}{}.{}", resource.kind, resource.name);
            for instance in &resource.instances {
                let address = match &instance.index_key {
                    None | Some(serde_json::Value::Null) => base.clone(),
                    Some(key) => format!("{base}[{key}]"),
                };
                let id = instance.attributes.as_ref().and_then(|it| it.id.as_str());
                if let Some(id) = id {
                    outline.ids.insert(address.clone(), id.to_owned());
                }
                outline.addresses.insert(address);
            }
        }
        Some(outline)
    }

    /// Returns the relation of this state to `known`, the bytes that a server has; empty if it has none.
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

    /// Returns the relation of this state, which a daemon kept, to `given`, the bytes that a job of its workspace
    /// brings along. `base` is the serial of the state that the kept one is based on, if it is known.
    ///
    /// Two states of one lineage may have diverged because another daemon has built on an older one. So the state
    /// with the higher serial need not contain everything that is in the other one.
    pub fn kept_state(&self, given: &[u8], base: Option<u64>) -> KeptState {
        let given = match given.trim_ascii() {
            b"" => Self::default(),
            given => match Self::read(given) {
                Some(given) => given,
                None => return KeptState::Conflict,
            },
        };
        let missing = self.missing_from(&given);
        let is_same_line = self.lineage == given.lineage;
        let has_parted =
            base.is_some_and(|base| given.serial > base) && !given.missing_from(self).is_empty();
        match self.serial.cmp(&given.serial) {
            _ if given == *self => KeptState::Known,
            Ordering::Greater if is_same_line && has_parted => KeptState::Conflict,
            Ordering::Greater if is_same_line => KeptState::Newer,
            Ordering::Less if is_same_line && !missing.is_empty() => KeptState::Overtaken(missing),
            _ if missing.is_empty() => KeptState::Known,
            _ if given.addresses.is_empty() => KeptState::Newer,
            _ => KeptState::Conflict,
        }
    }

    /// Returns addresses of instances that are missing from `other`, or are another object there.
    fn missing_from(&self, other: &Self) -> Vec<String> {
        let is_missing = |address: &&String| {
            let (ours, theirs) = (self.ids.get(*address), other.ids.get(*address));
            !other.addresses.contains(*address) || ours != theirs
        };
        self.addresses.iter().filter(is_missing).cloned().collect()
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

    fn state(lineage: &str, serial: u64, ids: &[&str]) -> String {
        let instance = |id: &&str| {
            format!(
                r#"{{"mode":"managed","type":"x","name":"{id}","instances":[{{"attributes":{{"id":"{id}"}}}}]}}"#
            )
        };
        let resources: Vec<_> = ids.iter().map(instance).collect();
        let resources = resources.join(",");
        format!(r#"{{"lineage":"{lineage}","serial":{serial},"resources":[{resources}]}}"#)
    }

    #[test]
    fn a_kept_state_is_used_known_overtaken_or_in_conflict() {
        let missing = |address: &str| KeptState::Overtaken(vec![address.to_owned()]);
        let kept = state("l", 4, &["a", "b"]);
        let cases = [
            (String::new(), KeptState::Newer),
            (state("l", 1, &["a", "c"]), KeptState::Newer),
            (state("l", 3, &["a"]), KeptState::Newer),
            (state("l", 3, &["a", "c"]), KeptState::Conflict),
            (state("l", 3, &[]), KeptState::Newer),
            (state("other", 9, &[]), KeptState::Newer),
            (kept.clone(), KeptState::Known),
            (state("l", 7, &["a", "b", "c"]), KeptState::Known),
            (state("l", 7, &["a"]), missing("x.b")),
            (state("l", 4, &["a", "c"]), KeptState::Conflict),
            (state("other", 9, &["a"]), KeptState::Conflict),
            ("garbage".to_owned(), KeptState::Conflict),
        ];
        let kept = Outline::read(kept.as_bytes()).unwrap();
        for (given, expected) in cases {
            assert_eq!(
                kept.kept_state(given.as_bytes(), Some(1)),
                expected,
                "{given}"
            );
        }
    }

    #[test]
    fn an_object_of_the_same_address_and_another_id_is_another_one() {
        let kept = Outline::read(state("l", 4, &["a"]).as_bytes()).unwrap();
        let rebuilt = state("l", 7, &["a"]).replace(r#""id":"a""#, r#""id":"new""#);

        let kept_state = kept.kept_state(rebuilt.as_bytes(), None);

        assert_eq!(kept_state, KeptState::Overtaken(vec!["x.a".to_owned()]));
    }

    #[test]
    fn a_kept_state_of_nothing_is_in_nobodys_way() {
        let kept = Outline::read(state("l", 4, &[]).as_bytes()).unwrap();

        let other = state("other", 9, &["a"]);
        assert_eq!(kept.kept_state(b"", None), KeptState::Known);
        assert_eq!(kept.kept_state(other.as_bytes(), None), KeptState::Known);
        let older = state("l", 3, &["a"]);
        assert_eq!(kept.kept_state(older.as_bytes(), None), KeptState::Newer);
    }
}
