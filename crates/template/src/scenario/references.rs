//! References in a condition: what they are rooted in, and where each of their steps is.

use hcl_edit::{
    Span,
    expr::{Expression, ForExpr, Traversal, TraversalOperator},
    template::ForDirective,
    visit::{Visit, visit_expr, visit_traversal},
};

use super::{
    fields::{self, ROOTS},
    place::{Place, Problem, Source},
};
use crate::similar::suggestion;

/// A reference in a condition, such as `agent.main.os`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The reference as its author wrote it.
    pub source: String,
    /// The first name and its place.
    pub root: (String, Place),
    /// Names that follow and their places, up to one that has to be evaluated.
    pub path: Vec<(String, Place)>,
}

/// The references of an expression in its order, each once, and those whose root does not exist.
pub(super) fn references(
    source: &Source<'_>,
    expression: &Expression,
) -> (Vec<Reference>, Vec<Problem>) {
    let mut collector = Collector {
        source,
        bound: Vec::new(),
        found: Vec::new(),
        problems: Vec::new(),
    };
    collector.visit_expr(expression);
    (collector.found, collector.problems)
}

struct Collector<'s, 'a> {
    source: &'s Source<'a>,
    /// Names that `for` binds around here.
    bound: Vec<String>,
    found: Vec<Reference>,
    problems: Vec<Problem>,
}

impl Collector<'_, '_> {
    fn add(&mut self, name: &str, root: &impl Span, source: &str, path: Vec<(String, Place)>) {
        if self.bound.iter().any(|bound| bound == name) {
            return;
        }
        let place = self.source.place(root);
        if !ROOTS.contains(&name) {
            let near = suggestion(name, ROOTS);
            self.problems
                .push(Problem::new(place, format!("unknown name `{name}`{near}")));
            return;
        }
        let reference = Reference {
            source: source.to_owned(),
            root: (name.to_owned(), place),
            path,
        };
        if let Some((wrong, place, known)) = fields::wrong(&reference) {
            let near = suggestion(&wrong, known.iter().copied());
            self.problems
                .push(Problem::new(place, format!("unknown name `{wrong}`{near}")));
            return;
        }
        if self
            .found
            .iter()
            .all(|known| known.source != reference.source)
        {
            self.found.push(reference);
        }
    }

    fn path(&self, traversal: &Traversal) -> Vec<(String, Place)> {
        let steps = traversal.operators.iter().map_while(|operator| {
            let name = match operator.value() {
                TraversalOperator::GetAttr(name) => name.as_str().to_owned(),
                TraversalOperator::Index(Expression::String(key)) => key.value().clone(),
                _ => return None,
            };
            Some((name, self.source.place(operator)))
        });
        steps.collect()
    }
}

impl Visit for Collector<'_, '_> {
    fn visit_expr(&mut self, node: &Expression) {
        if let Expression::Variable(name) = node {
            let source = self.source.source(node);
            self.add(name.as_str(), node, source, Vec::new());
        }
        visit_expr(self, node);
    }

    fn visit_traversal(&mut self, node: &Traversal) {
        let Expression::Variable(name) = &node.expr else {
            return visit_traversal(self, node);
        };
        let start = node.expr.span().map_or(0, |span| span.start);
        let end = node
            .operators
            .iter()
            .filter_map(|it| it.span().map(|span| span.end))
            .max();
        let source = self.source.slice(start..end.unwrap_or(start)).trim_end();
        let path = self.path(node);
        self.add(name.as_str(), &node.expr, source, path);
        for operator in &node.operators {
            self.visit_traversal_operator(operator);
        }
    }

    fn visit_for_expr(&mut self, node: &ForExpr) {
        let before = self.bound.len();
        self.visit_expr(&node.intro.collection_expr);
        let names = node.intro.key_var.iter().chain([&node.intro.value_var]);
        self.bound
            .extend(names.map(|name| name.as_str().to_owned()));
        if let Some(key) = &node.key_expr {
            self.visit_expr(key);
        }
        self.visit_expr(&node.value_expr);
        if let Some(condition) = &node.cond {
            self.visit_for_cond(condition);
        }
        self.bound.truncate(before);
    }

    fn visit_for_directive(&mut self, node: &ForDirective) {
        let before = self.bound.len();
        let intro = &node.for_expr;
        self.visit_expr(&intro.collection_expr);
        let names = intro.key_var.iter().chain([&intro.value_var]);
        self.bound
            .extend(names.map(|name| name.as_str().to_owned()));
        self.visit_template(&intro.template);
        self.bound.truncate(before);
    }
}
