//! The missing items of a template whose init failed, found as `outpost mirror doctor` finds them.

use std::{collections::BTreeSet, error::Error};

use outpost_base::registry::Platform;
use outpost_provision::UnmetTemplate;

use super::{Item, JobEngine, Served, closure, examine};
use crate::{
    Remote, Store,
    fetch::{Fetcher, blocking},
    scan::{Tree, closure::Closure},
    serve,
};

/// Maximum number of items of one template that are listed in its job and reported to its mirror.
const MAX_ITEMS: usize = 200;

type Failed = Box<dyn Error + Send + Sync>;

/// Returns what a mirror in a directory lacks.
///
/// # Errors
/// If the template or the mirror cannot be read.
pub(crate) async fn in_store(
    store: &Store,
    platform: &Platform,
    unmet: UnmetTemplate,
) -> Result<Vec<String>, Failed> {
    let tree = tree(&unmet).await?;
    let leased = store.clone();
    let (_lease, generation) = blocking(move || leased.lease_newest()).await?;
    let found = closure(store, &generation, tree, unmet.default_host).await;
    let found = of_mirror(found, &unmet);
    let items = examine(
        &found,
        &generation,
        std::slice::from_ref(platform),
        &engine(&unmet),
    );
    Ok(lacking(&items))
}

/// Returns what a served mirror lacks, and reports it to the mirror.
///
/// # Errors
/// If the template cannot be read, or a request to the mirror fails.
pub(crate) async fn at_server(
    remote: &Remote,
    fetcher: Fetcher,
    unmet: UnmetTemplate,
) -> Result<Vec<String>, Failed> {
    let tree = tree(&unmet).await?;
    let served = Served::new(remote, fetcher).await?;
    let found = served.closure(tree, unmet.default_host).await;
    let found = of_mirror(found, &unmet);
    let platforms = [Platform::current()];
    let generation = served.generation(&found, &platforms).await?;
    let items = examine(&found, &generation, &platforms, &engine(&unmet));
    remote.report(&missing(&items)).await?;
    Ok(lacking(&items))
}

/// Returns the entries for a mirror's list of misses, without duplicates.
pub fn missing<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<serve::Item> {
    let missing = items.into_iter().filter_map(|item| item.missing.clone());
    let missing: BTreeSet<_> = missing.collect();
    missing.into_iter().take(MAX_ITEMS).collect()
}

/// Returns one line for each item that a mirror lacks.
fn lacking(items: &[Item]) -> Vec<String> {
    let lacking = items.iter().filter(|item| item.missing.is_some());
    let line = |item: &Item| {
        let Item {
            item,
            wanted,
            detail,
            ..
        } = item;
        match wanted.as_str() {
            "" => format!("{item}: {detail}"),
            wanted => format!("{item} ({wanted}): {detail}"),
        }
    };
    lacking.take(MAX_ITEMS).map(line).collect()
}

async fn tree(unmet: &UnmetTemplate) -> Result<Tree, Failed> {
    let archive = unmet.archive.clone();
    let tree = blocking(move || Ok(Tree::of_tar(&*archive))).await?;
    Ok(tree?)
}

/// Removes what the mirror need not provide.
fn of_mirror(mut found: Closure, unmet: &UnmetTemplate) -> Closure {
    let is_supplied = |addr: &str| unmet.supplied.iter().any(|supplied| supplied == addr);
    found
        .providers
        .retain(|addr, _| !is_supplied(&addr.to_string()));
    found
}

fn engine(unmet: &UnmetTemplate) -> JobEngine {
    JobEngine {
        name: unmet.engine,
        versions: vec![unmet.version.clone()],
    }
}
