//! Resources as a drawing shows them: many instances of one block that look alike are one box.

use std::collections::HashMap;

use outpost_terraform::resources::without_keys;

use super::picture::{Picture, Resource};

/// Fewer instances than this are drawn one by one.
const MIN_INSTANCES: usize = 4;

/// A box of a drawing.
#[derive(Debug, PartialEq)]
pub(super) struct Group<'a> {
    /// The address of the resource, or of the block that all instances come from.
    pub(super) name: String,
    /// Number of resources that it represents.
    pub(super) count: usize,
    /// The first of them; the others differ in nothing but their keys.
    pub(super) resource: &'a Resource,
}

impl Group<'_> {
    /// `2000 instances`; empty for a single resource.
    pub(super) fn instances(&self) -> String {
        match self.count {
            1 => String::new(),
            count => format!("{count} instances"),
        }
    }
}

/// All resources in the order of their addresses, instances that look alike where the first of them is.
pub(super) fn groups(picture: &Picture) -> Vec<Group<'_>> {
    let mut alike: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, resource) in picture.resources.iter().enumerate() {
        alike.entry(look(resource)).or_default().push(index);
    }
    let mut groups = Vec::new();
    for (index, resource) in picture.resources.iter().enumerate() {
        let others = alike.get(&look(resource)).map_or(&[][..], Vec::as_slice);
        let is_grouped = others.len() >= MIN_INSTANCES;
        if is_grouped && others.first() != Some(&index) {
            continue;
        }
        groups.push(match is_grouped {
            true => Group {
                name: without_keys(&resource.address).into_owned(),
                count: others.len(),
                resource,
            },
            false => Group {
                name: resource.address.clone(),
                count: 1,
                resource,
            },
        });
    }
    groups
}

/// Everything that a drawing shows of a resource but its keys.
fn look(resource: &Resource) -> impl std::hash::Hash + Eq + '_ {
    (
        without_keys(&resource.address),
        resource.class.as_str(),
        resource.persistence.map(|known| known.as_str()),
        &resource.agents,
        &resource.instance_type,
        resource.daily_cost,
    )
}

#[cfg(test)]
mod tests {
    use outpost_base::job;
    use outpost_provision::GraphComplete;

    use super::*;
    use crate::{mermaid, picture::Basis, svg};

    fn picture(addresses: impl Iterator<Item = String>, cost_of_last: i32) -> Picture {
        let resource = |address: String| job::Resource {
            address,
            ..job::Resource::default()
        };
        let mut resources: Vec<_> = addresses.map(resource).collect();
        resources.last_mut().unwrap().daily_cost = cost_of_last;
        let graph = GraphComplete {
            resources,
            ..GraphComplete::default()
        };
        Picture::of_one(Basis::Plan, &graph)
    }

    fn shown(picture: &Picture) -> Vec<(String, usize)> {
        let groups = groups(picture).into_iter();
        groups.map(|group| (group.name, group.count)).collect()
    }

    #[test]
    fn instances_that_look_alike_are_one_box_of_every_drawing() {
        let many = (0..2000).map(|key| format!("module.m[{key}].a.b[\"x\"]"));
        let picture = picture(many, 7);

        let expected = [
            ("module.m.a.b".to_owned(), 1999),
            ("module.m[1999].a.b[\"x\"]".to_owned(), 1),
        ];
        assert_eq!(shown(&picture), expected);
        for drawn in [svg(&picture), mermaid(&picture)] {
            assert!(drawn.contains("1999 instances"), "{drawn}");
            assert!(drawn.len() < 4096, "{}", drawn.len());
        }
    }

    #[test]
    fn few_instances_and_different_blocks_stand_by_themselves() {
        let three = (0..3).map(|key| format!("a.b[{key}]"));
        let others = (0..9).map(|block| format!("a.c{block}"));
        let picture = picture(three.chain(others), 0);

        assert_eq!(shown(&picture).len(), 12);
        assert!(shown(&picture).iter().all(|(_, count)| *count == 1));
    }
}
