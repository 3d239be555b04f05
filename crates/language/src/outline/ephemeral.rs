//! References that fail in the plan of a stopped workspace: by index, to resources that exist only in a started one.

use std::{collections::BTreeMap, fmt};

use hcl_edit::{
    expr::{Conditional, Expression, FuncCall, Traversal, TraversalOperator},
    structure::Body,
    visit::{self, Visit},
};

use super::{
    Count,
    resolve::{Resolver, Tree},
};
use crate::{
    diagnostic::LoadError,
    files::TemplateFiles,
    module::{Located, Module, load},
};

/// A reference to an instance that does not exist in a stopped workspace, in a block that does exist there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EphemeralReference {
    /// Address of the block with the reference: `module.ide`, `docker_container.a`, `local.agent`, `output.url`.
    pub owner: String,
    /// File of the block, relative to its module.
    pub file: String,
    /// Number of the line where the block begins, counted from 1.
    pub line: usize,
    /// Address of the target, without an index: `coder_agent.dev`.
    pub target: String,
    /// The target's `count` or `for_each` in its source text; empty in JSON.
    pub count: String,
}

impl fmt::Display for EphemeralReference {
    /// Writes the problem and a remedy in one sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, target, .. } = self;
        write!(
            f,
            "`{owner}` ({}:{}) refers to an instance of `{target}` that a stopped workspace does not have: ",
            self.file, self.line
        )?;
        let is_value = owner.starts_with("local.") || owner.starts_with("output.");
        match self.count.as_str() {
            _ if is_value => write!(f, "use `one({target}[*])`, which is null then"),
            "" => write!(f, "give it the same `count`"),
            count => write!(f, "give it the same `count`, such as `count = {count}`"),
        }
    }
}

/// Returns the references in a template's own modules that fail once a workspace is stopped. Those inside of `try`,
/// `can` or a condition are assumed to be guarded.
///
/// # Errors
/// [`LoadError`] of the first module that cannot be read.
pub fn ephemeral_references<F: TemplateFiles + ?Sized>(
    files: &F,
) -> Result<Vec<EphemeralReference>, LoadError> {
    let tree = Tree::load(load(files)?, Some(files))?;
    Ok(of_tree(&tree))
}

fn of_tree(tree: &Tree) -> Vec<EphemeralReference> {
    let resolver = Resolver::new(tree);
    let mut found = Vec::new();
    for (index, node) in tree.nodes.iter().enumerate() {
        // In a module that has no instances nothing can fail.
        let is_ephemeral = node
            .parent
            .is_some_and(|parent| tree.count(&resolver, parent, &node.call) == Count::Transition);
        if !is_ephemeral {
            let targets = targets(&resolver, index, &node.module);
            let module = Owners {
                resolver: &resolver,
                node: index,
                prefix: &node.prefix,
                targets,
            };
            found.extend(module.references(&node.module));
        }
    }
    found
}

/// Returns the blocks of a module that exist only in a started workspace, by address, with their `count` or
/// `for_each`.
fn targets(resolver: &Resolver<'_>, node: usize, module: &Module) -> BTreeMap<String, String> {
    let ephemeral = |located: Located<'_>, address: String| {
        let expr = repetition(&located.block.body)?;
        let is_ephemeral = resolver.references(node, expr).has_transition;
        is_ephemeral.then(|| (address, located.file.source(expr).trim().to_owned()))
    };
    let resources = module.blocks("resource").filter_map(|located| {
        let address = format!("{}.{}", located.label(0), located.label(1));
        ephemeral(located, address)
    });
    let modules = module.blocks("module").filter_map(|located| {
        let address = format!("module.{}", located.label(0));
        ephemeral(located, address)
    });
    resources.chain(modules).collect()
}

fn repetition(body: &Body) -> Option<&Expression> {
    let attribute = ["count", "for_each"]
        .into_iter()
        .find_map(|name| body.get_attribute(name))?;
    Some(&attribute.value)
}

/// Collects references from the blocks of one module.
struct Owners<'a> {
    resolver: &'a Resolver<'a>,
    node: usize,
    prefix: &'a str,
    targets: BTreeMap<String, String>,
}

impl Owners<'_> {
    fn references(&self, module: &Module) -> Vec<EphemeralReference> {
        let mut found = Vec::new();
        for kind in ["resource", "data", "module"] {
            for located in module.blocks(kind) {
                let (first, second) = (located.label(0), located.label(1));
                let name = match kind {
                    "resource" => format!("{first}.{second}"),
                    "data" => format!("data.{first}.{second}"),
                    _ => format!("module.{first}"),
                };
                if !self.follows_a_target(&located.block.body) {
                    let mut indexed = Indexed::default();
                    indexed.visit_body(&located.block.body);
                    found.extend(self.reported(&name, &located, indexed));
                }
            }
        }
        for kind in ["locals", "output"] {
            for located in module.blocks(kind) {
                for attribute in located.block.body.attributes() {
                    let name = match kind {
                        "locals" => format!("local.{}", attribute.key.as_str()),
                        _ => format!("output.{}", located.label(0)),
                    };
                    let mut indexed = Indexed::default();
                    indexed.visit_expr(&attribute.value);
                    found.extend(self.reported(&name, &located, indexed));
                }
            }
        }
        found
    }

    /// Returns whether a block's repetition depends on the transition, or on an ephemeral resource.
    fn follows_a_target(&self, body: &Body) -> bool {
        repetition(body).is_some_and(|expr| {
            let references = self.resolver.references(self.node, expr);
            let is_target = |address: &String| {
                let local = address.strip_prefix(self.prefix);
                local.is_some_and(|local| self.targets.contains_key(local))
            };
            references.has_transition || references.addresses.iter().any(is_target)
        })
    }

    fn reported(
        &self,
        name: &str,
        located: &Located<'_>,
        indexed: Indexed,
    ) -> Option<EphemeralReference> {
        let mut targets = indexed.0.iter();
        let (target, count) = targets.find_map(|address| self.targets.get_key_value(address))?;
        Some(EphemeralReference {
            owner: format!("{}{name}", self.prefix),
            file: located.file.name.clone(),
            line: located.line,
            target: format!("{}{target}", self.prefix),
            count: count.clone(),
        })
    }
}

/// Addresses of references with an index and without a guard.
#[derive(Default)]
struct Indexed(Vec<String>);

impl Visit for Indexed {
    fn visit_traversal(&mut self, traversal: &Traversal) {
        let mut operators = traversal.operators.iter().map(|operator| operator.value());
        if let (Some(root), Some(TraversalOperator::GetAttr(name)), Some(index)) = (
            traversal.expr.as_variable(),
            operators.next(),
            operators.next(),
        ) && matches!(
            index,
            TraversalOperator::Index(_) | TraversalOperator::LegacyIndex(_)
        ) {
            self.0.push(format!("{}.{}", root.as_str(), name.as_str()));
        }
        visit::visit_traversal(self, traversal);
    }

    fn visit_func_call(&mut self, call: &FuncCall) {
        if !matches!(call.name.name.as_str(), "try" | "can") {
            visit::visit_func_call(self, call);
        }
    }

    fn visit_conditional(&mut self, _: &Conditional) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = r#"
data "coder_workspace" "me" {}
resource "coder_agent" "dev" {
  count = data.coder_workspace.me.start_count
  os    = "linux"
  arch  = "amd64"
}
"#;

    fn said(more: &str) -> Vec<String> {
        let module = Module::parse([("agent.tf", AGENT), ("main.tf", more)]).unwrap();
        let tree = Tree::load::<std::path::Path>(module, None).unwrap();
        of_tree(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_module_that_outlives_the_agent_it_is_given_is_told_the_count_that_it_lacks() {
        let said =
            said("module \"ide\" {\n source = \"./ide\"\n agent_id = coder_agent.dev[0].id\n}\n");

        let expected = "`module.ide` (main.tf:1) refers to an instance of `coder_agent.dev` that a stopped workspace \
            does not have: give it the same `count`, such as `count = data.coder_workspace.me.start_count`";
        assert_eq!(said, [expected]);
    }

    #[test]
    fn values_cannot_be_counted_so_they_get_another_remedy() {
        let said = said("\nlocals {\n token = coder_agent.dev[0].token\n}\n");

        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("`local.token` (main.tf:2)"), "{said:?}");
        assert!(said[0].contains("`one(coder_agent.dev[*])`"), "{said:?}");
    }

    #[test]
    fn what_is_counted_alike_or_guarded_is_fine() {
        let texts = [
            "module \"a\" {\n count = data.coder_workspace.me.start_count\n x = coder_agent.dev[0].id\n}",
            "module \"a\" {\n count = length(coder_agent.dev)\n x = coder_agent.dev[count.index].id\n}",
            "module \"a\" {\n x = try(coder_agent.dev[0].id, null)\n}",
            "module \"a\" {\n x = local.on ? coder_agent.dev[0].id : null\n}",
            "module \"a\" {\n x = one(coder_agent.dev[*].id)\n}",
            "output \"a\" {\n value = coder_agent.dev\n}",
            "resource \"x_y\" \"b\" {\n count = 2\n}\noutput \"c\" {\n value = x_y.b[0].id\n}",
        ];
        for text in texts {
            assert_eq!(said(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn instances_of_counted_modules_are_targets_too() {
        let said = said(
            "module \"a\" {\n count = data.coder_workspace.me.start_count\n}\n\
             resource \"coder_app\" \"b\" {\n url = module.a[0].url\n}\n",
        );

        assert!(said[0].starts_with("`coder_app.b` (main.tf:4)"), "{said:?}");
        assert!(said[0].contains("`module.a`"), "{said:?}");
    }
}
