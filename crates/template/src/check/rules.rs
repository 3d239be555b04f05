//! The rules that need no plan, and the pages that explain all of them.

mod agents;
mod apps;
mod catalogue;
mod deprecated;
mod lifetime;
mod locks;
mod metadata;
mod names;
mod parameters;
mod presets;
mod provider_checks;
mod providers;
mod replacement;
mod scripts;
mod secrets;
mod site;
pub(super) mod state;
mod variables;

use std::collections::BTreeSet;

use outpost_base::registry::Platform;
use semver::Version;

pub(super) use self::catalogue::id_of;
pub use self::catalogue::{Example, RULES, Rule, rule};
pub(super) use self::providers::required_providers;
pub use self::site::{Daemon, MissingItem, MissingKind};
use super::{
    finding::{Finding, Severity},
    model::{Argument, Decl, Model},
    place::Place,
    trace::{Traced, Tracer},
};
use crate::similar::nearest;

/// Options of a check beside its directory.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The engine at hand.
    pub engine: Option<Version>,
    /// The registry of addresses that name none.
    pub default_host: String,
    /// Values of the root module's variables.
    pub variables: Vec<(String, String)>,
    /// Platforms that the lock file must serve.
    pub platforms: Vec<Platform>,
    /// Tells whether every template must say what its workspaces cost.
    pub requires_cost: bool,
    /// Tells whether workspaces run where no public host can be reached.
    pub is_sealed: bool,
    /// Arguments whose change replaces a resource, beyond those that are known: `aws_instance.ami`.
    pub force_new: BTreeSet<String>,
    /// Things that the template needs and a site's mirror lacks.
    pub lacks: Vec<MissingItem>,
    /// Daemons of the server; `None` if no server was asked.
    pub daemons: Option<Vec<Daemon>>,
}

/// The place of a finding.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The part of a file.
    pub place: Place,
    /// The resource it is about; may be empty.
    pub address: String,
    /// The fetched module with the file; empty for the template's own.
    pub module: String,
}

/// The surroundings of a rule: the template, and its findings.
pub(super) struct Check<'a, 'm> {
    pub(super) model: &'m Model<'a>,
    pub(super) tracer: Tracer<'a, 'm>,
    pub(super) options: &'m Options,
    found: Vec<Finding>,
}

/// All that the rules find without a plan.
pub(super) fn run(model: &Model<'_>, options: &Options) -> Vec<Finding> {
    let mut check = Check {
        model,
        tracer: Tracer::new(model),
        options,
        found: Vec::new(),
    };
    providers::check(&mut check);
    locks::check(&mut check);
    variables::check(&mut check);
    parameters::check(&mut check);
    presets::check(&mut check);
    agents::check(&mut check);
    apps::check(&mut check);
    scripts::check(&mut check);
    metadata::check(&mut check);
    provider_checks::check(&mut check);
    lifetime::check(&mut check);
    replacement::check(&mut check);
    secrets::check(&mut check);
    deprecated::check(&mut check);
    state::check(&mut check);
    site::check(&mut check);
    check.found
}

impl<'a> Check<'a, '_> {
    /// Adds a finding. A rule that no page explains is a mistake of ours.
    pub(super) fn report(
        &mut self,
        id: &str,
        spot: Spot,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.found.push(finding(id, spot, message, remedy));
    }

    /// A place in a declaration's block.
    pub(super) fn spot(&self, decl: &Decl<'_>, place: Place) -> Spot {
        Spot {
            place,
            address: decl.address.clone(),
            module: self.model.module_of(decl).to_owned(),
        }
    }

    /// The words before a declaration's brace.
    pub(super) fn block(&self, decl: &Decl<'_>) -> Spot {
        self.spot(decl, decl.place())
    }

    /// Traces the value of a declaration's argument.
    pub(super) fn trace(&self, decl: &Decl<'_>, argument: Argument<'a>) -> Traced {
        self.tracer.in_decl(decl, &argument.attribute.value)
    }

    /// An argument of a declaration, or its block if it has no such argument.
    pub(super) fn argument_or_block(&self, decl: &Decl<'_>, name: &str) -> Spot {
        match decl.argument(name) {
            Some(argument) => self.spot(decl, argument.place()),
            None => self.block(decl),
        }
    }
}

/// A finding of a rule, with the severity of its page.
pub(super) fn finding(
    id: &str,
    spot: Spot,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    let rule = rule(id);
    debug_assert!(rule.is_some(), "no page explains {id}");
    Finding {
        rule: rule.map_or("invalid", |rule| rule.id).into(),
        severity: rule.map_or(Severity::Error, |rule| rule.severity),
        message: message.into(),
        remedy: remedy.into(),
        place: spot.place,
        address: spot.address,
        module: spot.module,
        source: String::new(),
    }
}
