//! The providers and modules that a template's source names, found without an engine.
//!
//! [`scan`] examines one module and the modules beside it, [`closure::close`] follows all others. Expressions are
//! reported, never guessed.

pub mod closure;
pub mod landing;
mod source;
mod tree;

use std::collections::{BTreeSet, VecDeque};

use outpost_base::registry::ProviderAddr;
use outpost_language::{Constraint, LoadError, Located, Module, module_calls, required_providers};

pub use self::{
    source::{Source, is_archive, repository},
    tree::{Tree, TreeFile, join},
};

/// Maximum number of modules in one tree that call each other; a larger number is an attack.
const MAX_MODULES: usize = 10_000;

/// Requirements of one module and the modules beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Providers with their constraints; one entry for each module that names a provider.
    pub providers: Vec<(ProviderAddr, Constraint)>,
    /// Calls of modules that are not in the same tree.
    pub calls: Vec<Call>,
    /// Places and reasons of what every engine refuses.
    pub invalid: Vec<(String, String)>,
    /// Places and reasons of what could not be determined.
    pub(crate) unclear: Vec<(String, String)>,
    /// Acceptable versions of the engine: the address of the module, and its constraint.
    pub engines: Vec<(String, Constraint)>,
}

/// A call of a module that comes from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Address of the call: `module.a.module.b`.
    pub address: String,
    /// Source of the module.
    pub source: Source,
    /// Acceptable versions, if the module comes from a registry.
    pub version: Constraint,
}

/// Examines the module in `dir` of a tree and the modules of that tree that it calls. `address` is its own.
///
/// # Errors
/// [`LoadError`] of the first module that cannot be read.
pub fn scan(tree: &Tree, dir: &str, address: &str, default_host: &str) -> Result<Scan, LoadError> {
    let mut found = Scan::default();
    let mut seen = BTreeSet::from([dir.to_owned()]);
    let mut queue = VecDeque::from([(dir.to_owned(), address.to_owned())]);
    while let Some((dir, address)) = queue.pop_front() {
        let module = tree.module(&dir)?;
        for provider in required_providers(&module, default_host)? {
            if !provider.addr.is_builtin() {
                found.providers.push((provider.addr, provider.constraint));
            }
        }
        found.expressions(&module, &address);
        found.engines(&module, &address);
        for call in module_calls(&module) {
            let own = match address.is_empty() {
                true => format!("module.{}", call.name),
                false => format!("{address}.module.{}", call.name),
            };
            match Source::parse(&call.source) {
                Source::Local(path) => match join(&dir, &path).filter(|dir| tree.has_dir(dir)) {
                    Some(child) if seen.len() < MAX_MODULES => {
                        if seen.insert(child.clone()) {
                            queue.push_back((child, own));
                        }
                    }
                    _ => found
                        .invalid
                        .push((own, format!("`{path}` does not exist"))),
                },
                source => {
                    let version = call.version.as_deref().unwrap_or_default();
                    match Constraint::parse(version) {
                        Ok(version) => found.calls.push(Call {
                            address: own,
                            source,
                            version,
                        }),
                        Err(error) => found.invalid.push((own, error.to_string())),
                    }
                }
            }
        }
    }
    Ok(found)
}

impl Scan {
    /// Reads `required_version` of all `terraform` blocks.
    fn engines(&mut self, module: &Module, address: &str) {
        for located in module.blocks("terraform") {
            let Some(attribute) = located.block.body.get_attribute("required_version") else {
                continue;
            };
            let parsed = attribute.value.as_str().map(Constraint::parse);
            match parsed {
                Some(Ok(constraint)) => self.engines.push((address.to_owned(), constraint)),
                Some(Err(error)) => {
                    let what = format!("required_version: {error}");
                    self.invalid.push((place(&located, address), what));
                }
                None => {
                    let what = "required_version is an expression".to_owned();
                    self.invalid.push((place(&located, address), what));
                }
            }
        }
    }

    /// Reports calls whose source or version only an engine could evaluate.
    fn expressions(&mut self, module: &Module, address: &str) {
        for located in module.blocks("module") {
            for name in ["source", "version"] {
                let attribute = located.block.body.get_attribute(name);
                let is_expression = attribute.is_some_and(|found| found.value.as_str().is_none());
                if is_expression {
                    let label = located.label(0);
                    let what = format!("the {name} of module `{label}` is an expression");
                    self.unclear.push((place(&located, address), what));
                }
            }
        }
    }
}

/// Returns the position of a block, for messages.
fn place(located: &Located<'_>, address: &str) -> String {
    let place = format!("{}:{}", located.file.name, located.line);
    match address.is_empty() {
        true => place,
        false => format!("{address} {place}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use outpost_base::registry::DEFAULT_HOST;

    use super::*;

    pub(crate) fn tree(files: &[(&str, &str)]) -> Tree {
        let file = |(name, text): &(&str, &str)| {
            let content = text.as_bytes().to_vec();
            (
                (*name).to_owned(),
                TreeFile {
                    is_executable: false,
                    content,
                },
            )
        };
        Tree {
            files: files.iter().map(file).collect(),
        }
    }

    #[test]
    fn a_template_needs_what_its_own_modules_need() {
        let tree = tree(&[
            (
                "main.tf",
                r#"
                terraform {
                  required_providers {
                    coder = { source = "coder/coder", version = "~> 2.0" }
                  }
                }
                resource "null_resource" "a" {}
                module "agent" { source = "./modules/agent" }
                module "vpc" {
                  source  = "terraform-aws-modules/vpc/aws"
                  version = ">= 5.0"
                }
                "#,
            ),
            (
                "modules/agent/main.tf",
                r#"
                terraform {
                  required_providers {
                    coder = { source = "coder/coder", version = ">= 2.1" }
                  }
                }
                module "ide" { source = "../ide" }
                module "root" { source = "../.." }
                "#,
            ),
            (
                "modules/ide/main.tf.json",
                r#"{"module": {"code": {"source": "registry.coder.com/coder/code-server/coder"}}}"#,
            ),
        ]);

        let scan = scan(&tree, "", "", DEFAULT_HOST).unwrap();

        let providers: Vec<_> = scan
            .providers
            .iter()
            .map(|(a, c)| format!("{} {c}", a.short()))
            .collect();
        assert_eq!(
            providers,
            [
                "coder/coder ~> 2.0",
                "hashicorp/null ",
                "coder/coder >= 2.1.0"
            ]
        );
        let calls: Vec<_> = scan
            .calls
            .iter()
            .map(|call| format!("{} {} {}", call.address, call.source, call.version))
            .collect();
        assert_eq!(
            calls,
            [
                "module.vpc registry.terraform.io/terraform-aws-modules/vpc/aws >= 5.0.0",
                "module.agent.module.ide.module.code registry.coder.com/coder/code-server/coder ",
            ]
        );
        assert!(scan.unclear.is_empty(), "{:?}", scan.unclear);
        assert!(scan.invalid.is_empty(), "{:?}", scan.invalid);
    }

    #[test]
    fn the_engine_that_each_module_accepts_is_read() {
        let tree = tree(&[
            (
                "main.tf",
                "terraform {\n  required_version = \">= 1.3\"\n}\nmodule \"a\" { source = \"./a\" }\n",
            ),
            (
                "a/main.tf",
                "terraform {\n  required_version = \"~> 1.9.0\"\n}\n",
            ),
            (
                "a/more.tf",
                "terraform {\n  required_version = \"newest\"\n}\n",
            ),
        ]);

        let scan = scan(&tree, "", "", DEFAULT_HOST).unwrap();

        let read: Vec<_> = scan
            .engines
            .iter()
            .map(|(address, constraint)| format!("{address}: {constraint}"))
            .collect();
        assert_eq!(read, [": >= 1.3.0", "module.a: ~> 1.9.0"]);
        let (place, what) = &scan.invalid[0];
        assert_eq!(place, "module.a more.tf:1");
        assert!(what.contains("newest"), "{what}");
    }

    #[test]
    fn expressions_and_modules_that_are_not_there_are_told_and_not_guessed() {
        let tree = tree(&[(
            "main.tf",
            "module \"a\" {\n  source = var.source\n}\n\
             module \"b\" {\n  source  = \"a/b/c\"\n  version = \"${var.v}\"\n}\n\
             module \"c\" {\n  source = \"../outside\"\n}\n\
             module \"d\" {\n  source  = \"a/b/c\"\n  version = \"=> 1\"\n}\n",
        )]);

        let scan = scan(&tree, "", "", DEFAULT_HOST).unwrap();

        let told: Vec<_> = scan
            .unclear
            .iter()
            .chain(&scan.invalid)
            .map(|(place, what)| format!("{place} {what}"))
            .collect();
        assert!(
            told.iter()
                .any(|t| t == "main.tf:1 the source of module `a` is an expression"),
            "{told:?}"
        );
        assert!(
            told.iter()
                .any(|t| t == "main.tf:4 the version of module `b` is an expression"),
            "{told:?}"
        );
        assert!(
            told.iter()
                .any(|t| t == "module.c `../outside` does not exist"),
            "{told:?}"
        );
        assert!(told.iter().any(|t| t.contains("=> 1")), "{told:?}");
    }
}
