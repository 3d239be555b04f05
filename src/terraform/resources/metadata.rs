//! Facts about resources: `coder_metadata` belongs to the resource nearest among those that it depends on.

use std::collections::BTreeMap;

use super::{
    ConvertError,
    decode::{Attributes, decode},
    index,
    index::Index,
};
use crate::{
    job::ResourceMetadata,
    terraform::{
        graph::{Direction, Graph},
        plan::ResourceValues,
    },
};

/// What a `coder_metadata` says about a resource.
#[derive(Clone, Default)]
pub(super) struct Facts {
    pub(super) hide: bool,
    pub(super) icon: String,
    pub(super) daily_cost: i32,
    pub(super) items: Vec<ResourceMetadata>,
}

/// Facts by the label of the resource they are about. One without a resource is dropped.
pub(super) fn collect<'a>(
    index: &Index<'_>,
    graph: &'a Graph,
) -> Result<BTreeMap<&'a str, Facts>, ConvertError> {
    let mut all = BTreeMap::new();
    for resource in index.of_type("coder_metadata") {
        let facts = read(resource)?;
        let node = graph.node_with_label(index::label(&resource.address));
        let nearest = |node| {
            graph.nearest(node, Direction::Dependencies, |label| {
                index.is_target(label)
            })
        };
        let Some(target) = node.and_then(nearest) else {
            continue;
        };
        if all.insert(target, facts).is_some() {
            return Err(ConvertError::DuplicateMetadata(target.to_owned()));
        }
    }
    Ok(all)
}

/// The cost alone, in whole units a day.
pub(super) fn daily_cost(resource: &ResourceValues) -> Result<i32, ConvertError> {
    Ok(read(resource)?.daily_cost)
}

fn read(resource: &ResourceValues) -> Result<Facts, ConvertError> {
    let facts = decode("decode metadata attributes", &resource.values, |values| {
        let item = |item: &Attributes<'_>| ResourceMetadata {
            key: item.string("key"),
            value: item.string("value"),
            sensitive: item.bool("sensitive"),
            is_null: item.bool("is_null"),
        };
        // The graph tells what the facts are about; of this only the type matters.
        values.string("resource_id");
        Facts {
            hide: values.bool("hide"),
            icon: values.string("icon"),
            daily_cost: values.i32("daily_cost"),
            items: values.objects("item").iter().map(item).collect(),
        }
    })?;
    Ok(facts)
}
