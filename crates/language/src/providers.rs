//! External needs of a module: providers and other modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use hcl_edit::expr::{Expression, Object};
use outpost_base::registry::ProviderAddr;

use super::{
    constraint::Constraint,
    diagnostic::{Diagnostic, LoadError},
    files::TemplateFiles,
    module::{Located, Module, SourceFile, load_below},
};

/// Maximum depth of calls of local modules.
const MAX_DEPTH: usize = 32;

/// A provider that a module uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredProvider {
    /// Local name by which the module refers to it.
    pub local_name: String,
    /// Source address of the provider.
    pub addr: ProviderAddr,
    /// Constraint for its version.
    pub constraint: Constraint,
    /// `true` if `required_providers` declares it. Otherwise a resource type implies it: `coder_agent` means
    /// `hashicorp/coder`, as in Terraform.
    pub is_declared: bool,
}

/// A call of another module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleCall {
    /// Name of the call.
    pub name: String,
    /// Source of the called module.
    pub source: String,
    /// Constraint for its version; `None` if the call has none.
    pub version: Option<String>,
}

impl ModuleCall {
    /// Returns whether the called module is part of the template.
    pub fn is_local(&self) -> bool {
        self.source.starts_with("./") || self.source.starts_with("../")
    }
}

/// Returns the providers that a module uses, sorted by local name.
///
/// `default_host` is the registry of addresses without a host; it depends on the engine.
///
/// # Errors
/// [`LoadError`] if an address or a constraint is not valid.
pub fn required_providers(
    module: &Module,
    default_host: &str,
) -> Result<Vec<RequiredProvider>, LoadError> {
    let (mut found, mut diagnostics) = (BTreeMap::new(), Vec::new());
    for located in module.blocks("terraform") {
        for block in located.block.body.get_blocks("required_providers") {
            for attribute in block.body.attributes() {
                let declared = declaration(
                    located.file,
                    attribute.key.as_str(),
                    &attribute.value,
                    default_host,
                );
                match declared {
                    Ok(provider) => drop(found.insert(provider.local_name.clone(), provider)),
                    Err(diagnostic) => diagnostics.push(diagnostic),
                }
            }
        }
    }
    LoadError::check(diagnostics)?;
    for name in used_names(module) {
        let Ok(addr) = ProviderAddr::implied(&name, default_host) else {
            continue;
        };
        found.entry(name.clone()).or_insert(RequiredProvider {
            local_name: name,
            addr,
            constraint: Constraint::default(),
            is_declared: false,
        });
    }
    add_old_constraints(module, &mut found)?;
    Ok(found.into_values().collect())
}

/// Parses `NAME = { source = …, version = … }`, or the older `NAME = VERSION`.
fn declaration(
    file: &SourceFile,
    name: &str,
    value: &Expression,
    default_host: &str,
) -> Result<RequiredProvider, Diagnostic> {
    let (source, version) = match value.as_object() {
        Some(object) => (member(object, "source"), member(object, "version")),
        None => (None, value.as_str()),
    };
    let addr = match source {
        Some(source) => ProviderAddr::parse(source, default_host),
        None => ProviderAddr::implied(name, default_host),
    };
    let addr = addr.map_err(|error| {
        file.error(value, "Invalid provider source string", format!("{error}."))
    })?;
    Ok(RequiredProvider {
        local_name: name.to_owned(),
        addr,
        constraint: constraint(file, value, version.unwrap_or_default())?,
        is_declared: true,
    })
}

fn constraint(file: &SourceFile, at: &Expression, text: &str) -> Result<Constraint, Diagnostic> {
    let parsed = Constraint::parse(text);
    parsed.map_err(|error| file.error(at, "Invalid version constraint", format!("{error}.")))
}

fn member<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    let is_it = |key: &hcl_edit::expr::ObjectKey| {
        let ident = key.as_ident().map(hcl_edit::Ident::as_str);
        ident.or_else(|| key.as_expr().and_then(Expression::as_str)) == Some(name)
    };
    let (_, value) = object.iter().find(|(key, _)| is_it(key))?;
    value.expr().as_str()
}

/// Adds the constraints in `provider` blocks of old templates.
fn add_old_constraints(
    module: &Module,
    found: &mut BTreeMap<String, RequiredProvider>,
) -> Result<(), LoadError> {
    let mut diagnostics = Vec::new();
    for located in module.blocks("provider") {
        let version = located.block.body.get_attribute("version");
        let text = version.and_then(|attribute| attribute.value.as_str());
        let (Some(attribute), Some(text)) = (version, text) else {
            continue;
        };
        match constraint(located.file, &attribute.value, text) {
            Ok(more) => {
                if let Some(provider) = found.get_mut(located.label(0)) {
                    provider.constraint = provider.constraint.and(&more);
                }
            }
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    LoadError::check(diagnostics)
}

/// Returns local names of providers that blocks refer to: by `provider = NAME`, else by the beginning of a type.
fn used_names(module: &Module) -> BTreeSet<String> {
    let of_block = |located: Located<'_>| {
        let chosen = located.block.body.get_attribute("provider");
        match chosen.map(|attribute| root_name(&attribute.value)) {
            Some(name) => name,
            None => located.label(0).split('_').next().map(str::to_owned),
        }
    };
    let resources = module.blocks("resource").chain(module.blocks("data"));
    let configured = module
        .blocks("provider")
        .map(|located| located.label(0).to_owned());
    let mut names: BTreeSet<String> = resources.filter_map(of_block).collect();
    names.extend(configured);
    names.remove("");
    names
}

/// Returns the first name of `aws.west`, which may also be a string.
fn root_name(expr: &Expression) -> Option<String> {
    if let Some(traversal) = expr.as_traversal() {
        return root_name(&traversal.expr);
    }
    let name = expr.as_variable().map(hcl_edit::Ident::as_str);
    let name = name.or_else(|| expr.as_str()?.split('.').next());
    name.map(str::to_owned)
}

/// Returns the calls of other modules, in the order of files and lines. A call without a source is left out.
pub fn module_calls(module: &Module) -> Vec<ModuleCall> {
    let call = |located: Located<'_>| {
        let text = |name: &str| {
            let attribute = located.block.body.get_attribute(name)?;
            attribute.value.as_str().map(str::to_owned)
        };
        Some(ModuleCall {
            name: located.label(0).to_owned(),
            source: text("source")?,
            version: text("version"),
        })
    };
    module.blocks("module").filter_map(call).collect()
}

/// Returns the providers of the module in a directory and of all local modules that it calls, with their constraints
/// combined. Modules that would have to be fetched are not read.
///
/// # Errors
/// [`LoadError`] of the first module that cannot be read. A missing local module is skipped, because init reports it
/// better.
pub fn required_providers_of_tree<F: TemplateFiles + ?Sized>(
    files: &F,
    default_host: &str,
) -> Result<BTreeMap<ProviderAddr, Constraint>, LoadError> {
    let mut tree = Tree {
        files,
        default_host,
        seen: BTreeSet::new(),
        found: BTreeMap::new(),
    };
    tree.visit(PathBuf::new(), 0)?;
    Ok(tree.found)
}

struct Tree<'a, F: ?Sized> {
    files: &'a F,
    default_host: &'a str,
    seen: BTreeSet<PathBuf>,
    found: BTreeMap<ProviderAddr, Constraint>,
}

impl<F: TemplateFiles + ?Sized> Tree<'_, F> {
    /// Reads a module. `path` is relative to the template's directory and contains no `.` or `..`.
    fn visit(&mut self, path: PathBuf, depth: usize) -> Result<(), LoadError> {
        if depth > MAX_DEPTH || !self.files.is_dir(&path) || !self.seen.insert(path.clone()) {
            return Ok(());
        }
        let module = load_below(self.files, &path)?;
        for provider in required_providers(&module, self.default_host)? {
            let constraint = self.found.entry(provider.addr).or_default();
            *constraint = constraint.and(&provider.constraint);
        }
        for call in module_calls(&module).iter().filter(|call| call.is_local()) {
            if let Some(child) = child_path(&path, &call.source) {
                self.visit(child, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Returns the path of a local module; `None` if it is outside of the template.
fn child_path(parent: &Path, source: &str) -> Option<PathBuf> {
    let mut path = parent.to_owned();
    for component in Path::new(source).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use outpost_base::registry::{DEFAULT_HOST, OPENTOFU_HOST};

    use super::*;

    fn read(text: &str) -> Result<Vec<RequiredProvider>, LoadError> {
        required_providers(&Module::parse([("main.tf", text)])?, DEFAULT_HOST)
    }

    fn addresses(providers: &[RequiredProvider]) -> Vec<String> {
        providers
            .iter()
            .map(|provider| format!("{}={}", provider.local_name, provider.addr.short()))
            .collect()
    }

    #[test]
    fn declared_providers_have_their_source_and_constraint() {
        let text = "terraform {\n required_providers {\n coder = {\n source = \"coder/coder\"\n version = \"~> 2.1\"\n configuration_aliases = [coder.x]\n }\n old = \">= 1.0\"\n }\n}\n";

        let providers = read(text).unwrap();

        assert_eq!(
            addresses(&providers),
            ["coder=coder/coder", "old=hashicorp/old"]
        );
        assert_eq!(providers[0].constraint.to_string(), "~> 2.1");
        assert_eq!(providers[1].constraint.to_string(), ">= 1.0.0");
        assert!(providers[0].is_declared);
    }

    #[test]
    fn undeclared_providers_are_implied_by_types() {
        let text = "resource \"coder_agent\" \"a\" {}\ndata \"aws_ami\" \"b\" {\n provider = other.west\n}\nresource \"terraform_data\" \"c\" {}\nprovider \"google\" {\n version = \"~> 1.0\"\n}\n";

        let providers = read(text).unwrap();

        let expected = [
            "coder=hashicorp/coder",
            "google=hashicorp/google",
            "other=hashicorp/other",
            "terraform=terraform.io/builtin/terraform",
        ];
        assert_eq!(addresses(&providers), expected);
        assert_eq!(providers[1].constraint.to_string(), "~> 1.0");
        assert!(!providers[0].is_declared && providers[3].addr.is_builtin());
    }

    #[test]
    fn the_default_registry_depends_on_the_engine() {
        let module = Module::parse([("main.tf", "resource \"aws_x\" \"a\" {}")]).unwrap();

        let providers = required_providers(&module, OPENTOFU_HOST).unwrap();

        assert_eq!(providers[0].addr.host(), OPENTOFU_HOST);
    }

    #[test]
    fn a_wrong_source_or_constraint_is_named_with_its_line() {
        let error = read(
            "terraform {\n required_providers {\n a = {\n source = \"a/b/c/d\"\n }\n b = \"nope\"\n }\n}\n",
        );

        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("Invalid provider source string (main.tf:3)"),
            "{error}"
        );
        assert!(
            error.contains("Invalid version constraint (main.tf:6)"),
            "{error}"
        );
    }

    #[test]
    fn json_declares_providers_too() {
        let text = r#"{"terraform": {"required_providers": {"coder": {"source": "coder/coder", "version": "2.1.0"}}}, "resource": {"null_resource": {"a": {}}}}"#;
        let module = Module::parse([("main.tf.json", text)]).unwrap();

        let providers = required_providers(&module, DEFAULT_HOST).unwrap();

        assert_eq!(
            addresses(&providers),
            ["coder=coder/coder", "null=hashicorp/null"]
        );
    }

    #[test]
    fn calls_of_modules_are_found() {
        let text = "module \"a\" {\n source = \"./a\"\n}\nmodule \"b\" {\n source = \"registry.example.com/x/y/z\"\n version = \"1.0\"\n}\nmodule \"c\" {}\n";

        let calls = module_calls(&Module::parse([("main.tf", text)]).unwrap());

        assert_eq!(calls.len(), 2);
        assert!(calls[0].is_local() && !calls[1].is_local());
        assert_eq!(calls[1].version.as_deref(), Some("1.0"));
    }

    #[test]
    fn local_modules_add_their_constraints() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, source: &str, version: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = format!(
                "terraform {{\n required_providers {{\n coder = {{\n source = \"coder/coder\"\n version = \"{version}\"\n }}\n }}\n}}\nmodule \"m\" {{\n source = \"{source}\"\n}}\n"
            );
            std::fs::write(path, text).unwrap();
        };
        write("main.tf", "./a", ">= 2.0");
        write("a/main.tf", "./b", "< 3.0");
        // Calls of the root, of a path outside of the template, and of a missing one: none of them is followed.
        write("a/b/main.tf", "../..", "!= 2.2.0");

        let found = required_providers_of_tree(dir.path(), DEFAULT_HOST).unwrap();

        let coder = &found[&"coder/coder".parse().unwrap()];
        assert_eq!(coder.to_string(), ">= 2.0.0, != 2.2.0, < 3.0.0");
        assert_eq!(child_path(Path::new("a"), "../../x"), None);
    }
}
