//! Rules about versions and sources of engines, providers and modules.

use std::{collections::BTreeMap, sync::LazyLock};

use hcl_edit::{
    Span,
    expr::{Expression, Object, ObjectKey},
    structure::Block,
};
use outpost_base::registry::ProviderAddr;
use outpost_language::Constraint;
use regex::Regex;

use super::{Check, Spot};
use crate::check::{
    model::{Instance, Model, label},
    place::Place,
    source::File,
};

/// A reference to a commit or a release, not to a branch that moves.
static PINNED_REF: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:[0-9a-f]{7,64}|[A-Za-z0-9_/.-]*v?\d+\.\d+[A-Za-z0-9_.+-]*|v\d+)$")
        .expect("is valid")
});

/// Sources that no lock can pin.
const ARCHIVES: [&str; 4] = ["http://", "https://", "s3::", "gcs::"];

/// An entry of `required_providers`.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    /// The entry as a whole.
    pub(super) place: Place,
    /// The text of `source`, and where it is.
    pub(super) source: Option<(&'a str, Place)>,
    /// The text of `version`, and where it is.
    pub(super) version: Option<(&'a str, Place)>,
}

pub(super) fn check(check: &mut Check<'_, '_>) {
    required_version(check);
    let mut seen = Vec::new();
    for index in 0..check.model.instances.len() {
        let instance = &check.model.instances[index];
        // Several calls of one module have the same files.
        if seen
            .iter()
            .any(|known| std::ptr::eq(*known, instance.source))
        {
            continue;
        }
        seen.push(instance.source);
        sources(check, index);
        provider_pins(check, index);
        module_pins(check, index);
    }
}

fn spot(instance: &Instance<'_>, place: Place) -> Spot {
    Spot {
        place,
        address: String::new(),
        module: instance.source.fetched.clone(),
    }
}

/// `terraform` blocks of a module.
fn settings<'a>(instance: &Instance<'a>) -> impl Iterator<Item = (&'a File, &'a Block)> + use<'a> {
    let files = instance.source.files.iter();
    files.flat_map(|file| {
        let blocks = file
            .body()
            .blocks()
            .filter(|block| block.ident.as_str() == "terraform");
        blocks.map(move |block| (file, block))
    })
}

fn required_version(check: &mut Check<'_, '_>) {
    let Some(engine) = check.options.engine.clone() else {
        return;
    };
    let mut found = Vec::new();
    for instance in &check.model.instances {
        for (file, block) in settings(instance) {
            let Some(attribute) = block.body.get_attribute("required_version") else {
                continue;
            };
            let Some(text) = attribute.value.as_str() else {
                continue;
            };
            let reason = match Constraint::parse(text) {
                Ok(constraint) if constraint.matches(&engine) => continue,
                Ok(_) => format!(
                    "the template requires version {text} of the engine, and the one at hand is {engine}"
                ),
                Err(error) => error.to_string(),
            };
            found.push((spot(instance, file.place_of(attribute)), reason));
        }
    }
    for (spot, reason) in found {
        let remedy = "install an engine of that version and name it with `--engine`, or change the constraint";
        check.report("required-version", spot, reason, remedy);
    }
}

/// The first `required_version` of a module.
pub(super) fn required_version_of(instance: &Instance<'_>) -> Option<Place> {
    settings(instance).find_map(|(file, block)| {
        let attribute = block.body.get_attribute("required_version")?;
        Some(file.place_of(attribute))
    })
}

/// Entries of a module's `required_providers`.
pub(super) fn entries<'a>(instance: &Instance<'a>) -> Vec<Entry<'a>> {
    let mut found = Vec::new();
    for (file, block) in settings(instance) {
        for block in block.body.get_blocks("required_providers") {
            for attribute in block.body.attributes() {
                let (source, version) = match &attribute.value {
                    Expression::Object(object) => (
                        member(file, object, "source"),
                        member(file, object, "version"),
                    ),
                    other => (
                        None,
                        other.as_str().map(|text| (text, file.place_of(attribute))),
                    ),
                };
                found.push(Entry {
                    name: attribute.key.as_str(),
                    place: file.place_of(attribute),
                    source,
                    version,
                });
            }
        }
    }
    found
}

/// A text of an object, and where key and text are.
fn member<'a>(file: &'a File, object: &'a Object, name: &str) -> Option<(&'a str, Place)> {
    let is_it = |key: &ObjectKey| {
        let ident = key.as_ident().map(hcl_edit::Ident::as_str);
        ident.or_else(|| key.as_expr().and_then(key_text)) == Some(name)
    };
    let (key, value) = object.iter().find(|(key, _)| is_it(key))?;
    let text = value.expr().as_str()?;
    let start = key.span().map_or(0, |span| span.start);
    let end = value.expr().span().map_or(start, |span| span.end);
    Some((text, file.place(&(start..end))))
}

fn key_text(expr: &Expression) -> Option<&str> {
    expr.as_str()
        .or_else(|| expr.as_variable().map(hcl_edit::Ident::as_str))
}

/// Local names of an instance's providers, with their addresses and what is accepted of them.
pub(in crate::check) fn required_providers(
    model: &Model<'_>,
    index: usize,
    default_host: &str,
) -> BTreeMap<String, (ProviderAddr, Constraint)> {
    let mut found = BTreeMap::new();
    for entry in entries(&model.instances[index]) {
        let addr = match &entry.source {
            Some((source, _)) => ProviderAddr::parse(source, default_host),
            None => ProviderAddr::implied(entry.name, default_host),
        };
        let constraint = entry.version.as_ref().map_or("", |(text, _)| text);
        if let (Ok(addr), Ok(constraint)) = (addr, Constraint::parse(constraint)) {
            found.insert(entry.name.to_owned(), (addr, constraint));
        }
    }
    for name in uses(model, index).into_keys() {
        if let Ok(addr) = ProviderAddr::implied(&name, default_host) {
            found.entry(name).or_insert((addr, Constraint::default()));
        }
    }
    found
}

/// Local names of providers and their first uses in a module.
pub(super) fn uses(model: &Model<'_>, index: usize) -> BTreeMap<String, (Place, String)> {
    let mut uses = BTreeMap::new();
    for decl in model.decls.iter().filter(|decl| decl.instance == index) {
        let chosen = decl
            .argument("provider")
            .and_then(|it| root_name(&it.attribute.value));
        let name = chosen.or_else(|| decl.kind.split('_').next().map(str::to_owned));
        if let Some(name) = name.filter(|name| name != "terraform") {
            uses.entry(name)
                .or_insert_with(|| (decl.place(), decl.address.clone()));
        }
    }
    for file in &model.instances[index].source.files {
        for block in file
            .body()
            .blocks()
            .filter(|block| block.ident.as_str() == "provider")
        {
            uses.entry(label(block, 0).to_owned())
                .or_insert_with(|| (file.header(block), String::new()));
        }
    }
    uses
}

/// The first name of `aws.west`.
fn root_name(expr: &Expression) -> Option<String> {
    match expr {
        Expression::Traversal(traversal) => root_name(&traversal.expr),
        Expression::Variable(name) => Some(name.as_str().to_owned()),
        other => other.as_str()?.split('.').next().map(str::to_owned),
    }
}

fn sources(check: &mut Check<'_, '_>, index: usize) {
    let instance = &check.model.instances[index];
    let entries = entries(instance);
    let mut found = Vec::new();
    for (name, (place, address)) in uses(check.model, index) {
        let entry = entries.iter().find(|entry| entry.name == name);
        let source = entry
            .and_then(|entry| entry.source.as_ref())
            .map(|(text, _)| *text);
        let host = &check.options.default_host;
        let is_coder = |text: &str| {
            ProviderAddr::parse(text, host).is_ok_and(|addr| addr.short().ends_with("coder/coder"))
        };
        match source {
            None if name == "coder" => found.push((
                "coder-provider-missing",
                place,
                address,
                "the template uses the `coder` provider without its source, so `hashicorp/coder` is meant, which does not exist".to_owned(),
                "add `coder = { source = \"coder/coder\" }` to `required_providers`".to_owned(),
            )),
            Some(text) if name == "coder" && !is_coder(text) => found.push((
                "coder-provider-missing",
                place,
                address,
                format!("`coder` is the provider `{text}` here, and not `coder/coder`"),
                "set its `source` in `required_providers` to `coder/coder`".to_owned(),
            )),
            None => found.push((
                "no-provider-source",
                place,
                address,
                format!("nothing says where the provider `{name}` comes from, so `hashicorp/{name}` is meant"),
                format!("add `{name} = {{ source = \"NAMESPACE/{name}\" }}` to `required_providers`"),
            )),
            Some(_) => {}
        }
    }
    let module = instance.source.fetched.clone();
    for (rule, place, address, message, remedy) in found {
        let module = module.clone();
        check.report(
            rule,
            Spot {
                place,
                address,
                module,
            },
            message,
            remedy,
        );
    }
}

fn provider_pins(check: &mut Check<'_, '_>, index: usize) {
    let instance = &check.model.instances[index];
    // A module for others names lower bounds only, so that its callers can decide.
    if !instance.source.fetched.is_empty() {
        return;
    }
    let mut found = Vec::new();
    for entry in entries(instance) {
        let (place, message) = match (&entry.version, &entry.source) {
            (Some((text, place)), _) if is_open(text) => (
                place.clone(),
                format!(
                    "the constraint `{text}` of the provider `{}` accepts every newer version",
                    entry.name
                ),
            ),
            (Some(_), _) => continue,
            (None, Some((_, place))) => (
                place.clone(),
                format!("the provider `{}` has no version", entry.name),
            ),
            (None, None) => (
                entry.place.clone(),
                format!("the provider `{}` has no version", entry.name),
            ),
        };
        found.push((spot(instance, place), message));
    }
    for (spot, message) in found {
        let remedy = "name an upper bound, such as `version = \"~> 2.1\"`: a release of others cannot break the template then";
        check.report("provider-unpinned", spot, message, remedy);
    }
}

/// Tells whether a constraint has lower bounds and exclusions only.
fn is_open(constraint: &str) -> bool {
    constraint
        .split(',')
        .map(str::trim)
        .all(|term| term.is_empty() || term.starts_with('>') || term.starts_with("!="))
}

fn module_pins(check: &mut Check<'_, '_>, index: usize) {
    let instance = &check.model.instances[index];
    let mut found = Vec::new();
    for file in &instance.source.files {
        for block in file
            .body()
            .blocks()
            .filter(|block| block.ident.as_str() == "module")
        {
            let Some(source) = block.body.get_attribute("source") else {
                continue;
            };
            let version = block.body.get_attribute("version");
            let text = version.and_then(|version| version.value.as_str());
            if let Some(reason) = source
                .value
                .as_str()
                .and_then(|source| unpinned(source, text))
            {
                let at = version.unwrap_or(source);
                let address = format!("{}module.{}", instance.prefix, label(block, 0));
                found.push((
                    Spot {
                        address,
                        ..spot(instance, file.place_of(at))
                    },
                    reason,
                ));
            }
        }
    }
    for (spot, reason) in found {
        let remedy = "name a version, as in `version = \"1.2.3\"`; for a repository a tag or a commit, as in `?ref=v1.2.3`";
        check.report("module-unpinned", spot, reason, remedy);
    }
}

/// The reason why a module may be another one tomorrow.
fn unpinned(source: &str, version: Option<&str>) -> Option<String> {
    let is_local = source.starts_with("./") || source.starts_with("../") || source.starts_with('/');
    if is_local {
        return None;
    }
    let is_git = source.starts_with("git::")
        || source.starts_with("git@")
        || ["github.com/", "bitbucket.org/", "hg::"]
            .iter()
            .any(|host| source.starts_with(host));
    if is_git {
        let query = source.split_once('?').map_or("", |(_, query)| query);
        let reference = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("ref=").or(pair.strip_prefix("rev=")));
        return match reference {
            None => {
                Some("the module has no `ref`, so it is whatever the default branch has".to_owned())
            }
            Some(reference) if !PINNED_REF.is_match(reference) => Some(format!(
                "the module's `ref` `{reference}` looks like a branch, which moves"
            )),
            Some(_) => None,
        };
    }
    if ARCHIVES.iter().any(|scheme| source.starts_with(scheme)) {
        return None;
    }
    match version {
        None => Some("the module has no `version`, so it is always the newest one".to_owned()),
        Some(text) if is_open(text) => Some(format!(
            "the constraint `{text}` of the module accepts every newer version"
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_and_commits_pin_a_module_and_branches_do_not() {
        let pinned = |source: &str, version: Option<&str>| unpinned(source, version).is_none();

        assert!(
            pinned("./m", None)
                && pinned("a/b/c", Some("1.0.2"))
                && pinned("a/b/c", Some("~> 1.0"))
        );
        assert!(!pinned("a/b/c", None) && !pinned("a/b/c", Some(">= 1.0")));
        for (reference, is_pinned) in [
            ("v1.2.3", true),
            ("module/v1.2.3", true),
            ("0123abcd", true),
            ("main", false),
            ("release", false),
        ] {
            let source = format!("git::https://git.example/m.git?ref={reference}");
            assert_eq!(pinned(&source, None), is_pinned, "{reference}");
        }
        assert!(!pinned("github.com/a/b", None) && pinned("https://a.example/m.zip", None));
    }
}
