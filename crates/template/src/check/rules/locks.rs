//! Rules about the lock file.

use std::{collections::BTreeMap, ops::Range};

use outpost_base::registry::{Hash, ProviderAddr};
use outpost_language::{
    Constraint,
    lock::{FILE_NAME, Lock},
};

use super::{
    Check, Spot,
    providers::{Entry, entries},
};
use crate::check::{place::Place, source::TextFile};

/// The template's demands on one provider.
#[derive(Default)]
struct Asked {
    constraint: Constraint,
    place: Option<Place>,
}

pub(super) fn check(check: &mut Check<'_, '_>) {
    let asked = asked(check);
    if asked.is_empty() {
        return;
    }
    let Some(file) = &check.model.sources.lock else {
        return missing(check);
    };
    let lock = match Lock::parse(&file.text) {
        Ok(lock) => lock,
        Err(error) => {
            let place = file.place(&(0..first_line(&file.text)));
            let message = format!("the lock file cannot be read: {error}");
            return check.report(
                "lock-stale",
                root(place),
                message,
                "delete it, and run `terraform init` again",
            );
        }
    };
    for (addr, wanted) in asked {
        let Some(locked) = lock.providers.get(&addr) else {
            let Some(place) = wanted.place else { continue };
            let message = format!("the lock file has no version of `{}`", addr.short());
            let remedy = "run `terraform init` and commit the lock file";
            check.report("lock-missing", root(place), message, remedy);
            continue;
        };
        let place = file.place(&entry(file, &addr));
        if !wanted.constraint.matches(&locked.version) {
            let message = format!(
                "the lock file has version {} of `{}`, which the template's constraints refuse: {}",
                locked.version,
                addr.short(),
                wanted.constraint
            );
            let remedy =
                "run `terraform init -upgrade` and commit the lock file, or change the constraint";
            check.report("lock-stale", root(place.clone()), message, remedy);
        }
        platforms(check, &addr, &locked.hashes, place);
    }
}

fn root(place: Place) -> Spot {
    Spot {
        place,
        address: String::new(),
        module: String::new(),
    }
}

fn first_line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// Providers of all modules, by address. Those without an entry have rules of their own.
fn asked(check: &Check<'_, '_>) -> BTreeMap<ProviderAddr, Asked> {
    let mut asked: BTreeMap<ProviderAddr, Asked> = BTreeMap::new();
    for (index, instance) in check.model.instances.iter().enumerate() {
        for entry in entries(instance) {
            let Some(addr) = address(&entry, &check.options.default_host) else {
                continue;
            };
            let one = asked.entry(addr).or_default();
            let text = entry.version.as_ref().map_or("", |(text, _)| text);
            one.constraint = one
                .constraint
                .and(&Constraint::parse(text).unwrap_or_default());
            if index == 0 {
                one.place = Some(entry.place);
            }
        }
    }
    asked
}

fn address(entry: &Entry<'_>, host: &str) -> Option<ProviderAddr> {
    let addr = match &entry.source {
        Some((source, _)) => ProviderAddr::parse(source, host),
        None => ProviderAddr::implied(entry.name, host),
    };
    addr.ok().filter(|addr| !addr.is_builtin())
}

/// A template without a lock file: said once, at the first block that names providers.
fn missing(check: &mut Check<'_, '_>) {
    let root_files = check.model.instances[0].source.files.iter();
    let mut blocks = root_files.flat_map(|file| {
        let settings = file
            .body()
            .blocks()
            .filter(|block| block.ident.as_str() == "terraform");
        let required = settings.flat_map(|block| block.body.get_blocks("required_providers"));
        required.map(move |block| file.header(block))
    });
    let Some(place) = blocks.next() else {
        return;
    };
    let message = format!(
        "the template has no `{FILE_NAME}`, so each import may get other versions of providers"
    );
    let remedy = "run `terraform init`, or `terraform providers lock -platform=…` for each platform, and commit the file";
    check.report("lock-missing", root(place), message, remedy);
}

/// The header of a provider's block in the lock file.
fn entry(file: &TextFile, addr: &ProviderAddr) -> Range<usize> {
    let header = format!("provider \"{addr}\"");
    match file.text.find(&header) {
        Some(start) => start..start + header.len(),
        None => 0..first_line(&file.text),
    }
}

/// A lock file has one `h1:` checksum for each platform that somebody asked for.
fn platforms(check: &mut Check<'_, '_>, addr: &ProviderAddr, hashes: &[Hash], place: Place) {
    let wanted = check.options.platforms.len();
    let unpacked = hashes
        .iter()
        .filter(|hash| hash.to_string().starts_with("h1:"))
        .count();
    if unpacked >= wanted {
        return;
    }
    let names: Vec<_> = check
        .options
        .platforms
        .iter()
        .map(ToString::to_string)
        .collect();
    let message = format!(
        "the lock file has checksums of `{}` for {unpacked} platforms, and {wanted} are asked for: {}",
        addr.short(),
        names.join(", ")
    );
    let flags: Vec<_> = names
        .iter()
        .map(|name| format!("-platform={name}"))
        .collect();
    let remedy = format!(
        "run `terraform providers lock {}` and commit the file",
        flags.join(" ")
    );
    check.report("lock-platform-missing", root(place), message, remedy);
}
