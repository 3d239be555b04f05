//! Facts about resources: a `coder_metadata` belongs to the nearest resource that it depends on.

use std::collections::BTreeMap;

use outpost_base::job::ResourceMetadata;

use super::{
    ConvertError,
    decode::{Attributes, decode},
    index::Index,
};
use crate::{
    graph::{Direction, Graph},
    plan::ResourceValues,
};

/// Contents of a `coder_metadata`.
#[derive(Clone, Default)]
pub(super) struct Facts {
    pub(super) hide: bool,
    pub(super) icon: String,
    pub(super) daily_cost: i32,
    pub(super) items: Vec<ResourceMetadata>,
}

/// Returns facts by the place of their resource. Those without a resource are dropped.
pub(super) fn collect<'a>(
    index: &Index<'a>,
    graph: &'a Graph,
) -> Result<BTreeMap<&'a str, Facts>, ConvertError> {
    let mut claims = Vec::new();
    for resource in index.of_type("coder_metadata") {
        let (facts, id) = read(resource)?;
        let node = graph.node_with_label(&index.label(&resource.address));
        let nearest = |node| {
            graph.nearest(node, Direction::Dependencies, |label| {
                index.is_target(label)
            })
        };
        if let Some(target) = node.and_then(nearest) {
            let places = index.places(target, &resource.address, &id);
            claims.push((places, facts));
        }
    }
    // Before an apply ids are unknown, so a `coder_metadata` with several candidates gets what others leave.
    claims.sort_by_key(|(places, _)| places.len());
    let mut all = BTreeMap::new();
    for (places, facts) in claims {
        let free = places.iter().find(|place| !all.contains_key(*place));
        match (free, places.first()) {
            (Some(place), _) => drop(all.insert(*place, facts)),
            (None, Some(taken)) => {
                return Err(ConvertError::DuplicateMetadata((*taken).to_owned()));
            }
            (None, None) => {}
        }
    }
    Ok(all)
}

/// Returns only the cost, in whole units a day.
pub(super) fn daily_cost(resource: &ResourceValues) -> Result<i32, ConvertError> {
    Ok(read(resource)?.0.daily_cost)
}

/// Reads the facts, and the id of their resource; empty if it is not known.
fn read(resource: &ResourceValues) -> Result<(Facts, String), ConvertError> {
    let read = decode("decode metadata attributes", &resource.values, |values| {
        let item = |item: &Attributes<'_>| ResourceMetadata {
            key: item.string("key"),
            value: item.string("value"),
            sensitive: item.bool("sensitive"),
            is_null: item.bool("is_null"),
        };
        let id = values.string("resource_id");
        let facts = Facts {
            hide: values.bool("hide"),
            icon: values.string("icon"),
            daily_cost: values.i32("daily_cost"),
            items: values.objects("item").iter().map(item).collect(),
        };
        (facts, id)
    })?;
    Ok(read)
}
