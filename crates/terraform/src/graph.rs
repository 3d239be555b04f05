//! The graph in the output of `terraform graph`: a subset of DOT. Pure, modules included.

mod dot;

use std::collections::{HashMap, HashSet};

pub use self::dot::GraphError;

/// Dependencies between nodes. An edge leads from the dependant to its dependency.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    by_id: HashMap<String, usize>,
    /// Index of the first node with each label.
    by_label: HashMap<String, usize>,
    edges: HashSet<(usize, usize)>,
}

#[derive(Debug, Default)]
struct Node {
    id: String,
    label: Option<String>,
    dependencies: Vec<usize>,
    dependants: Vec<usize>,
}

/// Direction in which edges are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a node to its dependencies.
    Dependencies,
    /// From a node to its dependants.
    Dependants,
}

impl Graph {
    /// Parses a graph in the DOT language.
    ///
    /// # Errors
    /// [`GraphError`] if it is malformed or too large.
    pub fn parse(text: &str) -> Result<Self, GraphError> {
        let mut graph = dot::parse(text)?;
        for (node, label) in graph.nodes.iter().map(|node| &node.label).enumerate() {
            if let Some(label) = label {
                graph.by_label.entry(label.clone()).or_insert(node);
            }
        }
        Ok(graph)
    }

    /// Returns the node with this label; the first if there are several.
    pub(crate) fn node_with_label(&self, label: &str) -> Option<usize> {
        self.by_label.get(label).copied()
    }

    /// Returns the labels of all nodes.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|node| node.label.as_deref())
    }

    /// Returns the labels at the smallest distance from `start` at which `accepts` accepts any, and of these the
    /// smallest.
    ///
    /// Nodes of all kinds count as steps. Each node is visited once, so that diamonds do not multiply the work.
    pub fn nearest(
        &self,
        start: usize,
        direction: Direction,
        accepts: impl Fn(&str) -> bool,
    ) -> Option<&str> {
        let mut seen = vec![false; self.nodes.len()];
        seen[start] = true;
        let mut level = vec![start];
        while !level.is_empty() {
            let mut next = Vec::new();
            for neighbour in level
                .iter()
                .flat_map(|node| self.neighbours(*node, direction))
            {
                if !std::mem::replace(&mut seen[*neighbour], true) {
                    next.push(*neighbour);
                }
            }
            let labels = next
                .iter()
                .filter_map(|node| self.nodes[*node].label.as_deref());
            if let Some(nearest) = labels.filter(|label| accepts(label)).min() {
                return Some(nearest);
            }
            level = next;
        }
        None
    }

    /// Returns both ends of every edge, as ids.
    pub fn edges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.edges
            .iter()
            .map(|(from, to)| (self.nodes[*from].id.as_str(), self.nodes[*to].id.as_str()))
    }

    /// Returns the ids of the direct dependencies of the node with this id.
    pub(super) fn dependencies_of(&self, id: &str) -> impl Iterator<Item = &str> {
        let node = self.by_id.get(id).map(|node| &self.nodes[*node]);
        let dependencies = node.into_iter().flat_map(|node| &node.dependencies);
        dependencies.map(|node| self.nodes[*node].id.as_str())
    }

    fn neighbours(&self, node: usize, direction: Direction) -> &[usize] {
        match direction {
            Direction::Dependencies => &self.nodes[node].dependencies,
            Direction::Dependants => &self.nodes[node].dependants,
        }
    }

    fn node(&mut self, id: &str) -> usize {
        if let Some(index) = self.by_id.get(id) {
            return *index;
        }
        let index = self.nodes.len();
        self.nodes.push(Node {
            id: id.to_owned(),
            ..Node::default()
        });
        self.by_id.insert(id.to_owned(), index);
        index
    }

    fn connect(&mut self, from: usize, to: usize) {
        if self.edges.insert((from, to)) {
            self.nodes[from].dependencies.push(to);
            self.nodes[to].dependants.push(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIAMOND: &str = r#"digraph {
        compound = "true"
        newrank = "true"
        subgraph "root" {
            "[root] a.top (expand)" [label = "a.top", shape = "box"]
            "[root] b.left (expand)" [label = "b.left", shape = "box"]
            "[root] b.right (expand)" [label = "b.right", shape = "box"]
            "[root] c.bottom (expand)" [label = "c.bottom", shape = "box"]
            "[root] a.top (expand)" -> "[root] b.left (expand)"
            "[root] a.top (expand)" -> "[root] b.right (expand)"
            "[root] b.left (expand)" -> "[root] c.bottom (expand)"
            "[root] b.right (expand)" -> "[root] c.bottom (expand)"
        }
    }"#;

    #[test]
    fn the_nearest_is_the_smallest_label_at_the_smallest_distance() {
        let graph = Graph::parse(DIAMOND).unwrap();
        let bottom = graph.node_with_label("c.bottom").unwrap();
        let top = graph.node_with_label("a.top").unwrap();

        assert_eq!(
            graph.nearest(bottom, Direction::Dependants, |_| true),
            Some("b.left")
        );
        assert_eq!(
            graph.nearest(bottom, Direction::Dependants, |label| label == "a.top"),
            Some("a.top")
        );
        assert_eq!(
            graph.nearest(top, Direction::Dependencies, |label| label > "b"),
            Some("b.left")
        );
        assert_eq!(graph.nearest(top, Direction::Dependencies, |_| false), None);
    }

    #[test]
    fn a_node_that_only_edges_name_has_no_label() {
        let graph = Graph::parse(r#"digraph { "a" -> "b" -> "c" }"#).unwrap();

        assert_eq!(
            (graph.nodes.len(), graph.edges.len(), graph.labels().count()),
            (3, 2, 0)
        );
    }

    #[test]
    fn an_empty_graph_is_a_graph() {
        assert_eq!(Graph::parse("digraph {}").unwrap().nodes.len(), 0);
    }

    #[test]
    fn a_malformed_graph_is_refused_with_its_line() {
        let error = Graph::parse("digraph {\n  \"a\" -> \n}").unwrap_err();

        assert_eq!(
            error.to_string(),
            "parse graph: expected a node after `->` in line 3"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[\"a-z{}\\[\\]=;,> \n\\\\-]{0,80}") {
            let _ = Graph::parse(&text);
            let _ = Graph::parse(&format!("digraph {{ {text} }}"));
        }
    }
}
