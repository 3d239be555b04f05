//! Everything that a template needs, through all modules that it calls, wherever they come from.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use semver::Version;

use super::{Source, Tree, scan};
use crate::{
    language::{
        Constraint,
        lock::{self, Lock, LockedProvider},
    },
    registry::ProviderAddr,
};

/// Modules of one template, each version counted once. Whoever has more is a module that calls itself in ever new
/// ways.
const MAX_MODULES: usize = 1000;

/// Why a module is not there, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It cannot be got.
    Missing(String),
    /// There are other versions of it.
    Unsatisfied(String),
}

impl From<String> for Absent {
    fn from(why: String) -> Self {
        Self::Missing(why)
    }
}

/// Where modules come from: their origins, or a mirror.
#[async_trait]
pub trait Modules: Send + Sync {
    /// The newest acceptable version of a module. `path` is `NAMESPACE/NAME/SYSTEM`.
    ///
    /// # Errors
    /// Why there is none.
    async fn registry(
        &self,
        host: &str,
        path: &str,
        version: &Constraint,
    ) -> Result<(Version, Arc<Tree>), Absent>;

    /// A repository at a branch, tag or commit; at its head without one.
    ///
    /// # Errors
    /// The same.
    async fn git(&self, url: &str, reference: Option<&str>) -> Result<Arc<Tree>, Absent>;

    /// An archive by its address.
    ///
    /// # Errors
    /// The same.
    async fn archive(&self, url: &str) -> Result<Arc<Tree>, Absent>;
}

/// What a template needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// Which versions of providers are acceptable for all of its modules.
    pub providers: BTreeMap<ProviderAddr, Constraint>,
    /// What its lock file says.
    pub locked: BTreeMap<ProviderAddr, LockedProvider>,
    /// Modules from elsewhere that were found.
    pub modules: BTreeSet<FoundModule>,
    /// What is wrong or unclear.
    pub findings: Vec<Finding>,
}

/// A module that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundModule {
    /// Where it comes from, without the directory in it.
    pub source: String,
    /// Its version, if it comes from a registry.
    pub version: Option<Version>,
}

/// Something that keeps a closure from being complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which module or place.
    pub place: String,
    /// What it names.
    pub what: String,
    /// What about it.
    pub kind: FindingKind,
}

/// What about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// It could not be got or read, for this reason.
    Missing(String),
    /// There are other versions of it: these.
    Unsatisfied(String),
    /// No mirror can have it, for this reason.
    NotMirrorable(&'static str),
    /// Only an engine knows.
    Unclear(String),
}

impl From<Absent> for FindingKind {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Missing(why) => Self::Missing(why),
            Absent::Unsatisfied(why) => Self::Unsatisfied(why),
        }
    }
}

/// One that is to be looked at.
struct Pending {
    tree: Arc<Tree>,
    dir: String,
    address: String,
}

/// Follows everything that the template in a tree calls. `default_host` is the registry of what names none.
pub async fn close(tree: Arc<Tree>, default_host: &str, modules: &dyn Modules) -> Closure {
    let mut closure = Closure::default();
    closure.read_lock(&tree);
    let root = Pending {
        tree,
        dir: String::new(),
        address: String::new(),
    };
    let (mut queue, mut seen) = (VecDeque::from([root]), BTreeSet::new());
    while let Some(pending) = queue.pop_front() {
        let Pending { tree, dir, address } = pending;
        let found = match scan(&tree, &dir, &address, default_host) {
            Ok(found) => found,
            Err(error) => {
                closure.find(
                    &address,
                    "its files",
                    FindingKind::Unclear(error.to_string()),
                );
                continue;
            }
        };
        for (addr, constraint) in found.providers {
            let all = closure.providers.entry(addr).or_default();
            *all = all.and(&constraint);
        }
        for (place, what) in found.unclear {
            closure.find(&place, "", FindingKind::Unclear(what));
        }
        for call in found.calls {
            let text = call.source.to_string();
            let got = closure
                .get(&call.source, &call.version, default_host, modules)
                .await;
            let (module, tree, dir) = match got {
                Ok(got) => got,
                Err(kind) => {
                    closure.find(&call.address, &text, kind);
                    continue;
                }
            };
            if !tree.has_dir(&dir) {
                let kind = FindingKind::Missing(format!("it has no directory `{dir}`"));
                closure.find(&call.address, &text, kind);
            } else if seen.len() < MAX_MODULES && seen.insert((module.clone(), dir.clone())) {
                let address = call.address;
                queue.push_back(Pending { tree, dir, address });
            }
            closure.modules.insert(module);
        }
    }
    closure
}

impl Closure {
    fn read_lock(&mut self, tree: &Tree) {
        let Some(file) = tree.files.get(lock::FILE_NAME) else {
            return;
        };
        match Lock::parse(&String::from_utf8_lossy(&file.content)) {
            Ok(lock) => self.locked = lock.providers,
            Err(error) => {
                let kind = FindingKind::Missing(error.to_string());
                self.find(lock::FILE_NAME, "", kind);
            }
        }
    }

    async fn get(
        &self,
        source: &Source,
        version: &Constraint,
        default_host: &str,
        modules: &dyn Modules,
    ) -> Result<(FoundModule, Arc<Tree>, String), FindingKind> {
        let unversioned = |source: String| FoundModule {
            source,
            version: None,
        };
        match source {
            Source::Registry { host, path, dir } => {
                let host = host.as_deref().unwrap_or(default_host);
                let found = modules.registry(host, path, version).await;
                let (version, tree) = found?;
                let module = FoundModule {
                    source: format!("{host}/{path}"),
                    version: Some(version),
                };
                Ok((module, tree, dir.clone()))
            }
            Source::Git {
                url,
                reference,
                dir,
            } => {
                let tree = modules.git(url, reference.as_deref()).await;
                let tree = tree?;
                let without_dir = Source::Git {
                    url: url.clone(),
                    reference: reference.clone(),
                    dir: String::new(),
                };
                Ok((unversioned(without_dir.to_string()), tree, dir.clone()))
            }
            Source::Archive { url, dir } => {
                let tree = modules.archive(url).await?;
                // A `*` in it is resolved here, so that the rest finds its files.
                let below = Arc::new(tree.below(dir));
                let without_dir = Source::Archive {
                    url: url.clone(),
                    dir: String::new(),
                };
                match dir.contains('*') {
                    true => Ok((unversioned(source.to_string()), below, String::new())),
                    false => Ok((unversioned(without_dir.to_string()), tree, dir.clone())),
                }
            }
            Source::Foreign { why, .. } => Err(FindingKind::NotMirrorable(why)),
            // `scan` has followed them.
            Source::Local(path) => Err(FindingKind::Unclear(format!("`{path}` is not there"))),
        }
    }

    fn find(&mut self, place: &str, what: &str, kind: FindingKind) {
        let place = match place {
            "" => "the template",
            place => place,
        };
        self.findings.push(Finding {
            place: place.to_owned(),
            what: what.to_owned(),
            kind,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::TreeFile, *};
    use crate::registry::DEFAULT_HOST;

    fn tree(text: &str) -> Arc<Tree> {
        let file = TreeFile {
            is_executable: false,
            content: text.as_bytes().to_vec(),
        };
        Arc::new(Tree {
            files: BTreeMap::from([("main.tf".to_owned(), file)]),
        })
    }

    /// Modules that call each other in a circle.
    struct Circle;

    #[async_trait]
    impl Modules for Circle {
        async fn registry(
            &self,
            _: &str,
            path: &str,
            version: &Constraint,
        ) -> Result<(Version, Arc<Tree>), Absent> {
            let (known, text) = match path {
                "acme/a/x" => (
                    Version::new(1, 2, 0),
                    "module \"b\" { source = \"git::https://git.example/b\" }",
                ),
                _ => return Err("nobody knows it".to_owned().into()),
            };
            match version.matches(&known) {
                true => Ok((known, tree(text))),
                false => Err(Absent::Unsatisfied("no such version".to_owned())),
            }
        }

        async fn git(&self, _: &str, _: Option<&str>) -> Result<Arc<Tree>, Absent> {
            Ok(tree(
                "terraform {\n  required_providers {\n    coder = { source = \"coder/coder\", version = \"< 3\" }\n  }\n}\n\
                 module \"a\" {\n  source = \"acme/a/x\"\n  version = \"~> 1.0\"\n}",
            ))
        }

        async fn archive(&self, _: &str) -> Result<Arc<Tree>, Absent> {
            Err("it cannot be reached".to_owned().into())
        }
    }

    #[tokio::test]
    async fn modules_that_call_each_other_are_followed_once_and_their_wishes_add_up() {
        let root = tree(
            "terraform {\n  required_providers {\n    coder = { source = \"coder/coder\", version = \">= 2\" }\n  }\n}\n\
             module \"a\" { source = \"acme/a/x\" }",
        );

        let closure = close(root, DEFAULT_HOST, &Circle).await;

        assert_eq!(closure.findings, []);
        let modules: Vec<_> = closure
            .modules
            .iter()
            .map(|module| module.source.as_str())
            .collect();
        assert_eq!(
            modules,
            [
                "git::https://git.example/b",
                "registry.terraform.io/acme/a/x"
            ]
        );
        let constraints: Vec<_> = closure
            .providers
            .values()
            .map(ToString::to_string)
            .collect();
        assert_eq!(constraints, [">= 2.0.0, < 3.0.0"]);
    }

    #[tokio::test]
    async fn what_cannot_be_got_is_named_with_its_caller_and_the_rest_goes_on() {
        let root = tree(
            "module \"s3\" { source = \"s3::https://bucket.example/x.zip\" }\n\
             module \"zip\" { source = \"https://files.example/x.zip\" }\n\
             module \"old\" {\n  source = \"acme/a/x\"\n  version = \"~> 0.1\"\n}\n\
             module \"a\" { source = \"acme/a/x//gone\" }",
        );

        let closure = close(root, DEFAULT_HOST, &Circle).await;

        let found: Vec<_> = closure
            .findings
            .iter()
            .map(|f| (f.place.as_str(), &f.kind))
            .collect();
        let missing = |text: &str| FindingKind::Missing(text.to_owned());
        assert_eq!(
            found,
            [
                (
                    "module.s3",
                    &FindingKind::NotMirrorable("it is in a bucket")
                ),
                ("module.zip", &missing("it cannot be reached")),
                (
                    "module.old",
                    &FindingKind::Unsatisfied("no such version".to_owned())
                ),
                ("module.a", &missing("it has no directory `gone`")),
            ]
        );
    }
}
