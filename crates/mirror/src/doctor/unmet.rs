//! What a template lacks whose init failed, found out as `outpost mirror doctor` does it.

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

/// Items of one template that its job names, and that its mirror is told.
const MAX_ITEMS: usize = 200;

type Failed = Box<dyn Error + Send + Sync>;

/// What a mirror in a directory lacks.
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

/// What a served mirror lacks, which it is told.
///
/// # Errors
/// If the template cannot be read, or the mirror cannot be asked or told.
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

/// What a mirror lacks for these items, each thing once, as its list of misses names it.
pub fn missing<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<serve::Item> {
    let missing = items.into_iter().filter_map(|item| item.missing.clone());
    let missing: BTreeSet<_> = missing.collect();
    missing.into_iter().take(MAX_ITEMS).collect()
}

/// One line for each item that a mirror lacks.
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

/// Without what is not the mirror's affair.
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
