//! Rules about the site that runs a template: what its mirror has, and which daemons it has.

use std::collections::BTreeMap;

use outpost_base::registry::ProviderAddr;
use outpost_control::queue::Tags;

use super::{
    Check, Spot,
    providers::{Entry, entries, required_version_of, uses},
};
use crate::check::{
    model::{Instance, label},
    place::Place,
    source::File,
};

/// Item that a template needs and a site's mirror lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingItem {
    /// Kind of the item, with its name.
    pub kind: MissingKind,
    /// The reason in a few words: `not in the mirror`, `there is 1.0.0`.
    pub detail: String,
    /// Entry of a `mirror.toml` that makes `sync` fetch it; empty if no mirror can have it.
    pub entry: String,
}

/// Kinds of items that a mirror may lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissingKind {
    /// A provider, in a version that the template accepts.
    Provider(ProviderAddr),
    /// A module: the address of its call, and its source.
    Module {
        /// `module.machine.module.editor`.
        address: String,
        /// The source in the call.
        source: String,
    },
    /// An engine that satisfies `required_version`.
    Engine(String),
}

/// A daemon of the server, with what decides on its jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Name of the daemon.
    pub name: String,
    /// Its tags by name.
    pub tags: BTreeMap<String, String>,
}

pub(super) fn check(check: &mut Check<'_, '_>) {
    for lack in check.options.lacks.clone() {
        report_lack(check, &lack);
    }
    if let Some(daemons) = check.options.daemons.clone() {
        tags(check, &daemons);
    }
}

fn report_lack(check: &mut Check<'_, '_>, lack: &MissingItem) {
    let (spot, name) = match &lack.kind {
        MissingKind::Provider(addr) => (provider(check, addr), format!("the provider `{addr}`")),
        MissingKind::Module { address, source } => {
            (module(check, address), format!("the module `{source}`"))
        }
        MissingKind::Engine(name) => (engine(check), format!("a suitable engine `{name}`")),
    };
    let spot = spot.unwrap_or_else(|| top(check));
    let message = format!("the mirror does not have {name}: {}", lack.detail);
    let remedy = match lack.entry.as_str() {
        "" => "use a source that a mirror can have: a registry, a git repository or an archive"
            .to_owned(),
        entry => {
            format!("add {entry} to the mirror's `mirror.toml`, and run `outpost mirror sync`")
        }
    };
    check.report("not-in-mirror", spot, message, remedy);
}

/// The entry of `required_providers`, or else the first use, in the first module that has one.
fn provider(check: &Check<'_, '_>, addr: &ProviderAddr) -> Option<Spot> {
    let host = &check.options.default_host;
    let model = check.model;
    let is_it = |entry: &Entry<'_>| {
        let found = match &entry.source {
            Some((source, _)) => ProviderAddr::parse(source, host),
            None => ProviderAddr::implied(entry.name, host),
        };
        found.is_ok_and(|found| found == *addr)
    };
    let instances = || model.instances.iter().enumerate();
    let named = instances().find_map(|(_, instance)| {
        let entry = entries(instance).into_iter().find(is_it)?;
        Some(spot(instance, entry.place))
    });
    named.or_else(|| {
        instances().find_map(|(index, instance)| {
            let names = model.required_providers(index, host);
            let mut uses = uses(model, index).into_iter();
            let (_, (place, address)) =
                uses.find(|(name, _)| names.get(name).is_some_and(|(found, _)| found == addr))?;
            Some(Spot {
                address,
                ..spot(instance, place)
            })
        })
    })
}

/// The `source` of a call; that of the nearest caller whose files are at hand.
fn module(check: &Check<'_, '_>, address: &str) -> Option<Spot> {
    let names = address.split('.').skip(1).step_by(2);
    let (mut index, mut found) = (0, None);
    for name in names {
        let instance = &check.model.instances[index];
        let Some(place) = call(instance, name) else {
            break;
        };
        found = Some(Spot {
            address: format!("{}module.{name}", instance.prefix),
            ..spot(instance, place)
        });
        match instance.children.get(name) {
            Some(next) => index = *next,
            None => break,
        }
    }
    found
}

fn call(instance: &Instance<'_>, name: &str) -> Option<Place> {
    let of = |file: &File| {
        let mut blocks = file.body().get_blocks("module");
        let block = blocks.find(|block| label(block, 0) == name)?;
        let source = block.body.get_attribute("source");
        Some(source.map_or_else(|| file.header(block), |source| file.place_of(source)))
    };
    instance.source.files.iter().find_map(of)
}

fn engine(check: &Check<'_, '_>) -> Option<Spot> {
    let mut instances = check.model.instances.iter();
    instances.find_map(|instance| Some(spot(instance, required_version_of(instance)?)))
}

/// The first line of the template.
fn top(check: &Check<'_, '_>) -> Spot {
    let root = &check.model.instances[0];
    let place = root.source.files.first().map(|file| file.line_place(1));
    let place = place.unwrap_or_else(|| Place {
        file: "main.tf".to_owned(),
        line: 1,
        column: 1,
        end_line: 1,
        end_column: 1,
    });
    spot(root, place)
}

fn spot(instance: &Instance<'_>, place: Place) -> Spot {
    Spot {
        place,
        address: String::new(),
        module: instance.source.fetched.clone(),
    }
}

/// Finds a daemon for the tags that a workspace of the template has before anybody answered a question.
fn tags(check: &mut Check<'_, '_>, daemons: &[Daemon]) {
    let model = check.model;
    let mut wanted = BTreeMap::new();
    let mut place = None;
    for decl in model.of_kind("data.coder_workspace_tags") {
        let (Some(argument), Some(scope)) =
            (decl.argument("tags"), model.scopes(decl).into_iter().next())
        else {
            continue;
        };
        // What is not known without a plan is not judged.
        let Some(serde_json::Value::Object(tags)) = model.value(&scope, argument) else {
            return;
        };
        let texts = tags
            .into_iter()
            .filter_map(|(name, value)| Some((name, outpost_language::primitive_text(&value)?)));
        wanted.extend(texts);
        place.get_or_insert_with(|| check.block(decl));
    }
    let Some(place) = place else {
        return;
    };
    let Ok(job) = Tags::from_given(None, wanted) else {
        return;
    };
    let offers = |daemon: &Daemon| {
        Tags::from_given(None, daemon.tags.clone()).is_ok_and(|tags| tags.satisfy(&job))
    };
    if daemons.iter().any(offers) {
        return;
    }
    let reasons: Vec<_> = daemons
        .iter()
        .map(|daemon| excluded(daemon, &job))
        .collect();
    let message = match reasons.is_empty() {
        true => format!("no daemon takes jobs with the tags {job}: the server has none"),
        false => format!(
            "no daemon takes jobs with the tags {job}: {}",
            reasons.join("; ")
        ),
    };
    let remedy = "start a daemon with these tags (`--tag NAME=VALUE`), or change the tags";
    check.report("tags-no-daemon", place, message, remedy);
}

/// The reason why a daemon does not take a job.
fn excluded(daemon: &Daemon, job: &Tags) -> String {
    let name = &daemon.name;
    if job.are_plain() {
        return format!("`{name}` has tags, and jobs without tags go to daemons without tags");
    }
    let differs = |(key, value): (&String, &String)| match daemon.tags.get(key) {
        Some(theirs) if theirs == value => None,
        Some(theirs) => Some(format!("`{key}` is `{theirs}` there")),
        None if value.is_empty() => None,
        None => Some(format!("there is no `{key}`")),
    };
    let differences: Vec<_> = job.as_map().iter().filter_map(differs).collect();
    format!("at `{name}` {}", differences.join(" and "))
}
