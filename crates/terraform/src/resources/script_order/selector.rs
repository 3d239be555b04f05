//! Selectors of scripts: their syntax, and the instances that they select.

use std::collections::{BTreeMap, BTreeSet};

use super::{Script, shown};
use crate::{
    address::{self, Instance, Key},
    configuration::Configuration,
    plan::ResourceValues,
};

/// Maximum number of scripts that all selectors together may select; a script counts once for each selector.
const MAX_EXPANDED: usize = 100_000;

/// Target of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A script of the module: all its instances, or the one with the key.
    Script { name: String, key: Option<Key> },
    /// All scripts of a child module and of its own children.
    Module { name: String },
}

/// Reason why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorProblem {
    /// The text does not have the form of an address.
    #[error("parse script order selector {}: it is not an address such as `coder_script.name`", shown(.0))]
    Malformed(String),
    /// The text names something in another module, or a part of a module.
    #[error(
        "script order selector {} must reference a coder_script in the declaring module or an entire direct child \
         module call",
        shown(.0)
    )]
    Elsewhere(String),
    /// The text names one instance of a module.
    #[error("module selector {} must select all module instances", shown(.0))]
    OneInstance(String),
    /// The text names a resource of another type.
    #[error("script order selector {} must select a coder_script or module", shown(.0))]
    OtherType(String),
}

/// Parses a selector, relative to its module.
pub(super) fn parse(text: &str) -> Result<Wanted, SelectorProblem> {
    let own = || text.to_owned();
    let steps = address::steps(text).ok_or_else(|| SelectorProblem::Malformed(own()))?;
    let [first, second] = steps.as_slice() else {
        return Err(SelectorProblem::Elsewhere(own()));
    };
    if first.key.is_some() {
        return Err(SelectorProblem::Elsewhere(own()));
    }
    match (first.name, &second.key) {
        ("coder_script", key) => Ok(Wanted::Script {
            name: second.name.to_owned(),
            key: key.clone(),
        }),
        ("module", None) => Ok(Wanted::Module {
            name: second.name.to_owned(),
        }),
        ("module", Some(_)) => Err(SelectorProblem::OneInstance(own())),
        (_, _) => Err(SelectorProblem::OtherType(own())),
    }
}

/// Scripts, indexed for selectors.
pub(super) struct Expanded<'a> {
    scripts: &'a [Script<'a>],
    configuration: Option<&'a Configuration>,
    /// Scripts by their module's address and their name.
    by_name: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    /// Scripts by the calling module's address and the name of the call.
    by_call: BTreeMap<(&'a str, &'a str), Vec<usize>>,
}

/// Number of scripts that may still be selected.
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(MAX_EXPANDED)
    }
}

/// Result of expanding a selector.
pub(super) enum Meaning {
    /// These scripts, sorted by address; none if the declaration has no instance.
    Scripts(Vec<usize>),
    /// The template declares no such script or module.
    Undeclared,
    /// The limit of all selectors is exceeded.
    TooMany(usize),
}

impl<'a> Expanded<'a> {
    pub(super) fn new(scripts: &'a [Script<'a>], configuration: Option<&'a Configuration>) -> Self {
        let (mut by_name, mut by_call) = (BTreeMap::new(), BTreeMap::new());
        for (at, script) in scripts.iter().enumerate() {
            let instance = &script.instance;
            let mut around = "";
            for step in &instance.modules {
                let call: &mut Vec<_> = by_call.entry((around, step.name)).or_default();
                call.push(at);
                around = &script.resource.address[..step.end];
            }
            let named: &mut Vec<_> = by_name.entry((around, instance.name)).or_default();
            named.push(at);
        }
        Self {
            scripts,
            configuration,
            by_name,
            by_call,
        }
    }

    /// Expands a selector in the module that declares a data source.
    pub(super) fn meaning(
        &self,
        wanted: &Wanted,
        source: &ResourceValues,
        budget: &mut Budget,
    ) -> Meaning {
        let Some(source) = Instance::parse(&source.address) else {
            return Meaning::Undeclared;
        };
        let module = source.module();
        let found: BTreeSet<usize> = match wanted {
            Wanted::Module { name } => self.listed(&self.by_call, module, name).collect(),
            Wanted::Script { name, key } => {
                let named = self.listed(&self.by_name, module, name);
                let is_wanted =
                    |at: &usize| key.is_none() || self.scripts[*at].instance.key == *key;
                named.filter(is_wanted).collect()
            }
        };
        if !self.is_declared(wanted, &source, !found.is_empty()) {
            return Meaning::Undeclared;
        }
        match budget.0.checked_sub(found.len()) {
            Some(left) => budget.0 = left,
            None => return Meaning::TooMany(MAX_EXPANDED),
        }
        Meaning::Scripts(found.into_iter().collect())
    }

    fn listed<'s>(
        &'s self,
        map: &'s BTreeMap<(&'a str, &'a str), Vec<usize>>,
        module: &'s str,
        name: &'s str,
    ) -> impl Iterator<Item = usize> + 's {
        map.get(&(module, name)).into_iter().flatten().copied()
    }

    /// Returns whether the target is declared. A module must be called, even if a state still contains it; a script
    /// that exists counts as declared.
    fn is_declared(&self, wanted: &Wanted, source: &Instance<'_>, is_there: bool) -> bool {
        let Some(configuration) = self.configuration else {
            return true;
        };
        let module = configuration.module_of(source);
        match wanted {
            Wanted::Script { key: Some(_), .. } => true,
            Wanted::Script { name, key: None } => {
                let block = || module?.block("managed", "coder_script", name);
                is_there || block().is_some()
            }
            Wanted::Module { name } => module.is_some_and(|module| module.calls(name)),
        }
    }
}
