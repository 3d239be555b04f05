//! Dependency graph of units, by which scripts coordinate their order. Pure: no socket, no clock.
//!
//! The first `start` or `want` registers a unit. A dependency may be registered later than its dependents and is not
//! satisfied until then. The graph lives as long as the agent: a completed unit may be started again, and then its
//! dependents are not ready again.
//!
//! # Source
//! coder `agent/unit/{graph,manager}.go`, words of errors included.

use std::collections::{BTreeMap, BTreeSet};

/// Units that one agent knows, those that are only waited for included.
const MAX_UNITS: usize = 10_000;
/// Dependencies of all units together.
const MAX_DEPENDENCIES: usize = 100_000;
/// Bytes of a unit's name.
const MAX_NAME_BYTES: usize = 4096;

/// Progress of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Status {
    /// Known only as a dependency of others, or not at all.
    #[default]
    NotRegistered,
    /// Declared and not yet started.
    Pending,
    /// Started and not yet completed.
    Started,
    /// Ended, whether its script succeeded or not.
    Completed,
}

impl Status {
    /// The word for it on the wire and in JSON; empty for a unit that is not registered.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::NotRegistered => "",
            Self::Pending => "pending",
            Self::Started => "started",
            Self::Completed => "completed",
        }
    }
}

/// A refusal to change a unit, in the words of the reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitError {
    /// An empty name; the field says whose.
    #[error("{0}: unit name is required")]
    NoName(&'static str),
    /// A name over the limit, with its bytes.
    #[error("unit name of {0} bytes is over the limit of {MAX_NAME_BYTES} bytes")]
    LongName(usize),
    /// A unit without any `start` or `want` so far.
    #[error("unit {0:?} must be registered first: unit not found")]
    NotFound(String),
    /// The unit has this status already.
    #[error("checking status for unit {0:?}: same status already set")]
    SameStatus(String),
    /// A dependency of the unit is not completed.
    #[error("unit not ready")]
    NotReady,
    /// Two units would wait for each other, directly or through others.
    #[error(
        "adding edge for unit {unit:?}: failed to add dependency\nadding edge ({unit} -> {wanted}): cycle detected"
    )]
    Cycle {
        /// The unit that waits.
        unit: String,
        /// The unit that it would wait for.
        wanted: String,
    },
    /// The limit of units or dependencies is reached.
    #[error(
        "too many units or dependencies: the limits are {MAX_UNITS} units and {MAX_DEPENDENCIES} dependencies"
    )]
    TooMany,
}

/// A unit that another one depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dependency {
    /// Name of the unit that is waited for.
    pub(super) unit: String,
    /// Current status; dependents wait for [`Status::Completed`].
    pub(super) status: Status,
}

impl Dependency {
    /// Returns whether dependents need not wait any longer.
    pub(super) fn is_satisfied(&self) -> bool {
        self.status == Status::Completed
    }
}

#[derive(Debug, Default)]
struct Unit {
    status: Status,
    wants: BTreeSet<String>,
}

/// All units of an agent.
#[derive(Debug, Default)]
pub(super) struct Units {
    all: BTreeMap<String, Unit>,
    dependencies: usize,
}

impl Units {
    /// Current status of a unit.
    ///
    /// # Errors
    /// [`UnitError::NoName`] or [`UnitError::LongName`].
    pub(super) fn status(&self, name: &str) -> Result<Status, UnitError> {
        named(name, "unit ID cannot be empty")?;
        Ok(self.peek(name))
    }

    /// Returns whether all dependencies of a unit are completed; `true` for an unknown unit.
    ///
    /// # Errors
    /// [`UnitError::NoName`] or [`UnitError::LongName`].
    pub(super) fn is_ready(&self, name: &str) -> Result<bool, UnitError> {
        named(name, "unit ID cannot be empty")?;
        let unit = self.all.get(name);
        Ok(unit.is_none_or(|unit| {
            unit.wants
                .iter()
                .all(|it| self.peek(it) == Status::Completed)
        }))
    }

    /// Marks a unit as started.
    ///
    /// # Errors
    /// [`UnitError::NotReady`] while it has to wait, [`UnitError::SameStatus`] if it has begun.
    pub(super) fn start(&mut self, name: &str) -> Result<(), UnitError> {
        self.register(name)?;
        if !self.is_ready(name)? {
            return Err(UnitError::NotReady);
        }
        self.update(name, Status::Started)
    }

    /// Marks a unit as completed, which lets its dependents start.
    ///
    /// # Errors
    /// [`UnitError::NotFound`] if nobody has declared it, [`UnitError::SameStatus`] if it has ended.
    pub(super) fn complete(&mut self, name: &str) -> Result<(), UnitError> {
        named(name, "updating status for unit \"\"")?;
        self.update(name, Status::Completed)
    }

    /// Adds a dependency; adding it twice changes nothing.
    ///
    /// # Errors
    /// [`UnitError::Cycle`] if `wanted` depends on `name`; the unit is registered nevertheless.
    pub(super) fn want(&mut self, name: &str, wanted: &str) -> Result<(), UnitError> {
        self.register(name)?;
        named(wanted, "dependency name cannot be empty")?;
        if self.waits_for(wanted, name) {
            return Err(UnitError::Cycle {
                unit: name.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
        let is_new = !self.all.contains_key(wanted);
        if self.dependencies >= MAX_DEPENDENCIES || (is_new && self.all.len() >= MAX_UNITS) {
            return Err(UnitError::TooMany);
        }
        self.all.entry(wanted.to_owned()).or_default();
        let unit = self.all.entry(name.to_owned()).or_default();
        self.dependencies += usize::from(unit.wants.insert(wanted.to_owned()));
        Ok(())
    }

    /// Dependencies of a unit, satisfied ones included, sorted by name.
    pub(super) fn dependencies(&self, name: &str) -> Vec<Dependency> {
        let wants = self.all.get(name).into_iter().flat_map(|unit| &unit.wants);
        let one = |wanted: &String| Dependency {
            unit: wanted.clone(),
            status: self.peek(wanted),
        };
        wants.map(one).collect()
    }

    /// Registered units, sorted by name.
    pub(super) fn registered(&self) -> impl Iterator<Item = &str> {
        let all = self.all.iter();
        all.filter(|(_, unit)| unit.status != Status::NotRegistered)
            .map(|(name, _)| name.as_str())
    }

    fn peek(&self, name: &str) -> Status {
        self.all
            .get(name)
            .map(|unit| unit.status)
            .unwrap_or_default()
    }

    fn register(&mut self, name: &str) -> Result<(), UnitError> {
        named(name, "registering unit \"\"")?;
        if !self.all.contains_key(name) && self.all.len() >= MAX_UNITS {
            return Err(UnitError::TooMany);
        }
        let unit = self.all.entry(name.to_owned()).or_default();
        if unit.status == Status::NotRegistered {
            unit.status = Status::Pending;
        }
        Ok(())
    }

    fn update(&mut self, name: &str, status: Status) -> Result<(), UnitError> {
        let unit = self.all.get_mut(name);
        let unit = unit.filter(|unit| unit.status != Status::NotRegistered);
        let unit = unit.ok_or_else(|| UnitError::NotFound(name.to_owned()))?;
        if unit.status == status {
            return Err(UnitError::SameStatus(name.to_owned()));
        }
        unit.status = status;
        Ok(())
    }

    /// Returns whether `name` is `other`, or waits for it, directly or through others.
    fn waits_for(&self, name: &str, other: &str) -> bool {
        let (mut to_see, mut seen) = (vec![name], BTreeSet::from([name]));
        while let Some(name) = to_see.pop() {
            if name == other {
                return true;
            }
            let wants = self.all.get(name).into_iter().flat_map(|unit| &unit.wants);
            to_see.extend(wants.map(String::as_str).filter(|it| seen.insert(it)));
        }
        false
    }
}

fn named(name: &str, place: &'static str) -> Result<(), UnitError> {
    match name.len() {
        0 => Err(UnitError::NoName(place)),
        length if length > MAX_NAME_BYTES => Err(UnitError::LongName(length)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<T: std::fmt::Debug>(result: Result<T, UnitError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_unit_waits_for_every_unit_that_it_wants_also_before_they_are_declared() {
        let mut units = Units::default();
        units.want("c", "a").unwrap();
        units.want("c", "b").unwrap();

        assert_eq!(units.status("c"), Ok(Status::Pending));
        assert_eq!(units.status("a"), Ok(Status::NotRegistered));
        assert_eq!(units.start("c"), Err(UnitError::NotReady));

        units.start("a").unwrap();
        units.complete("a").unwrap();
        assert_eq!(units.is_ready("c"), Ok(false));
        units.start("b").unwrap();
        assert_eq!(units.is_ready("c"), Ok(false), "begun is not done");
        units.complete("b").unwrap();

        assert_eq!(units.start("c"), Ok(()));
        let states: Vec<_> = units.dependencies("c");
        assert!(states.iter().all(Dependency::is_satisfied), "{states:?}");
    }

    #[test]
    fn only_what_was_declared_is_listed() {
        let mut units = Units::default();
        units.want("b", "z").unwrap();
        units.start("a").unwrap();

        assert_eq!(units.registered().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_unit_that_starts_again_holds_up_its_dependents_again() {
        let mut units = Units::default();
        units.want("b", "a").unwrap();
        units.start("a").unwrap();
        units.complete("a").unwrap();
        assert_eq!(units.is_ready("b"), Ok(true));

        units.start("a").unwrap();

        assert_eq!(units.is_ready("b"), Ok(false));
    }

    #[test]
    fn a_circle_is_refused_and_changes_nothing() {
        let mut units = Units::default();
        units.want("b", "a").unwrap();
        units.want("c", "b").unwrap();

        assert_eq!(
            words(units.want("a", "c")),
            "adding edge for unit \"a\": failed to add dependency\nadding edge (a -> c): cycle detected"
        );
        assert!(words(units.want("a", "a")).ends_with("adding edge (a -> a): cycle detected"));
        assert_eq!(units.want("c", "a"), Ok(()), "a shortcut is no circle");
        assert_eq!(units.want("c", "a"), Ok(()), "said twice");
        assert_eq!(units.is_ready("a"), Ok(true));
    }

    #[test]
    fn errors_have_the_reference_s_words() {
        let mut units = Units::default();
        units.start("a").unwrap();

        assert_eq!(
            words(units.start("a")),
            "checking status for unit \"a\": same status already set"
        );
        assert_eq!(
            words(units.complete("b")),
            "unit \"b\" must be registered first: unit not found"
        );
        assert_eq!(
            words(units.start("")),
            "registering unit \"\": unit name is required"
        );
        assert_eq!(
            words(units.want("a", "")),
            "dependency name cannot be empty: unit name is required"
        );
        assert_eq!(
            words(units.is_ready("")),
            "unit ID cannot be empty: unit name is required"
        );
        assert_eq!(
            words(units.start(&"a".repeat(5000))),
            "unit name of 5000 bytes is over the limit of 4096 bytes"
        );
    }

    #[test]
    fn an_agent_keeps_so_many_units_and_no_more() {
        let mut units = Units::default();
        for number in 0..MAX_UNITS {
            units.start(&number.to_string()).unwrap();
        }

        assert_eq!(units.start("one more"), Err(UnitError::TooMany));
        assert_eq!(units.want("1", "one more"), Err(UnitError::TooMany));
        assert_eq!(units.want("1", "2"), Ok(()));
    }
}
