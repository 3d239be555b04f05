//! The complete needs of a template, through all modules that it calls, wherever they come from.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use outpost_base::registry::ProviderAddr;
use outpost_language::{
    Constraint,
    lock::{self, Lock, LockedProvider},
};
use semver::Version;
use url::Url;

use super::{Call, Source, Tree, is_archive, scan};

/// Maximum number of modules of one template, each version counted once. More are the sign of a module that calls
/// itself with ever new sources.
const MAX_MODULES: usize = 1000;

/// Maximum number of servers that refer to each other.
const MAX_HOPS: usize = 10;

/// Reason why a module is absent, as text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The module cannot be fetched.
    Missing(String),
    /// Only other versions of the module exist.
    Unsatisfied(String),
}

impl From<String> for Absent {
    fn from(why: String) -> Self {
        Self::Missing(why)
    }
}

/// The files of a module's package, and the directory of the module in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// All files of the package.
    pub tree: Arc<Tree>,
    /// Directory of the module; empty for the package's top.
    pub dir: String,
}

impl Package {
    /// Returns the directory `inner` of the module, relative to the package's top.
    fn dir(&self, inner: &str) -> String {
        match (self.dir.as_str(), inner) {
            ("", inner) => inner.to_owned(),
            (dir, "") => dir.to_owned(),
            (dir, inner) => format!("{dir}/{inner}"),
        }
    }
}

/// Source of modules: their origins, or a mirror.
#[async_trait]
pub trait Modules: Send + Sync {
    /// Returns the newest acceptable version of a module, its package, and its directory there. `path` is
    /// `NAMESPACE/NAME/SYSTEM`.
    ///
    /// # Errors
    /// The reason why there is none.
    async fn registry(
        &self,
        host: &str,
        path: &str,
        version: &Constraint,
    ) -> Result<(Version, Package), Absent>;

    /// Returns a repository at a branch, tag or commit; without one, at its head.
    ///
    /// # Errors
    /// The reason why there is none.
    async fn git(&self, url: &str, reference: Option<&str>) -> Result<Arc<Tree>, Absent>;

    /// Returns an archive by its address.
    ///
    /// # Errors
    /// The reason why there is none.
    async fn archive(&self, url: &str) -> Result<Arc<Tree>, Absent>;

    /// Returns the module address that the server at `url` announces, in the form of a `module` block, if `url` is
    /// not that of an archive.
    ///
    /// # Errors
    /// The reason why there is none.
    async fn landing(&self, url: &str) -> Result<String, Absent>;
}

/// Returns the package at an address, following the referrals of its server.
async fn package(url: &str, modules: &dyn Modules) -> Result<Arc<Tree>, FindingKind> {
    let mut source = Source::Archive {
        url: url.to_owned(),
        dir: String::new(),
    };
    // If a server names a directory, the package consists of that directory alone.
    let mut dirs = Vec::new();
    for _ in 0..MAX_HOPS {
        let mut tree = match &source {
            Source::Archive { url, .. } if !names_archive(url) => {
                source = Source::parse(&modules.landing(url).await?);
                if let Source::Archive { dir, .. } | Source::Git { dir, .. } = &source {
                    dirs.push(dir.clone());
                }
                continue;
            }
            Source::Archive { url, .. } => modules.archive(url).await?,
            Source::Git { url, reference, .. } => modules.git(url, reference.as_deref()).await?,
            Source::Foreign { why, .. } => return Err(FindingKind::NotMirrorable(why)),
            Source::Registry { .. } | Source::Local(_) => {
                let why = format!("its server redirects to {source}, which is not a module source");
                return Err(FindingKind::Missing(why));
            }
        };
        for dir in dirs.iter().rev().filter(|dir| !dir.is_empty()) {
            let missing = || FindingKind::Missing(format!("{source} has no directory `{dir}`"));
            let dir = tree.directory(dir).ok_or_else(missing)?;
            tree = Arc::new(tree.below(&dir));
        }
        return Ok(tree);
    }
    let why = format!("more than {MAX_HOPS} redirects from server to server");
    Err(FindingKind::Missing(why))
}

fn names_archive(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| is_archive(&url))
}

/// Everything that a template needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// Constraints that the versions of providers must satisfy for all modules.
    pub providers: BTreeMap<ProviderAddr, Constraint>,
    /// Versions of the engine that the modules accept: the module, and its constraint.
    pub engines: Vec<(String, Constraint)>,
    /// Contents of the template's lock file.
    pub locked: BTreeMap<ProviderAddr, LockedProvider>,
    /// Modules from elsewhere that were found.
    pub modules: BTreeSet<FoundModule>,
    /// Problems, and what could not be determined.
    pub findings: Vec<Finding>,
}

/// A module that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundModule {
    /// Source of the module, without the directory in it.
    pub source: String,
    /// Version, if the module comes from a registry.
    pub version: Option<Version>,
}

/// Something that keeps a closure from being complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Module or position that the finding is about.
    pub place: String,
    /// Source or expression that it names.
    pub what: String,
    /// Kind of the finding.
    pub kind: FindingKind,
    /// The call, if it names a module from elsewhere; the host of its registry is filled in.
    pub call: Option<Call>,
}

/// Kind of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// The module could not be fetched or read, for this reason.
    Missing(String),
    /// Only other versions exist: these.
    Unsatisfied(String),
    /// No mirror can contain the module, for this reason.
    NotMirrorable(&'static str),
    /// Every engine refuses the module, for this reason.
    Invalid(String),
    /// Only an engine can determine it.
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

/// A module that is still to be examined.
struct Pending {
    tree: Arc<Tree>,
    dir: String,
    address: String,
}

/// Follows all modules that the template in a tree calls. `default_host` is the registry of addresses without a host.
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
                    FindingKind::Invalid(error.to_string()),
                );
                continue;
            }
        };
        for (addr, constraint) in found.providers {
            let all = closure.providers.entry(addr).or_default();
            *all = all.and(&constraint);
        }
        let of_engine = found.engines.into_iter();
        closure.engines.extend(of_engine.map(|(place, version)| {
            let place = match place.is_empty() {
                true => "the template".to_owned(),
                false => place,
            };
            (place, version)
        }));
        for (place, what) in found.invalid {
            closure.find(&place, "", FindingKind::Invalid(what));
        }
        for (place, what) in found.unclear {
            closure.find(&place, "", FindingKind::Unclear(what));
        }
        for call in found.calls {
            let got = closure
                .get(&call.source, &call.version, default_host, modules)
                .await;
            let (module, tree, dir) = match got {
                Ok(got) => got,
                Err(kind) => {
                    closure.find_call(call, default_host, kind);
                    continue;
                }
            };
            if !tree.has_dir(&dir) {
                let kind = FindingKind::Missing(format!("it has no directory `{dir}`"));
                closure.find_call(call, default_host, kind);
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
                let kind = FindingKind::Invalid(error.to_string());
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
                let (version, package) = found?;
                let module = FoundModule {
                    source: format!("{host}/{path}"),
                    version: Some(version),
                };
                let dir = package.dir(dir);
                Ok((module, package.tree, dir))
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
                let tree = package(url, modules).await?;
                let without_dir = Source::Archive {
                    url: url.clone(),
                    dir: String::new(),
                };
                // If there is none, the caller reports it.
                let dir = tree.directory(dir).unwrap_or_else(|| dir.clone());
                Ok((unversioned(without_dir.to_string()), tree, dir))
            }
            Source::Foreign { why, .. } => Err(FindingKind::NotMirrorable(why)),
            // `scan` has already followed the existing ones.
            Source::Local(path) => Err(FindingKind::Invalid(format!("`{path}` does not exist"))),
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
            call: None,
        });
    }

    fn find_call(&mut self, mut call: Call, default_host: &str, kind: FindingKind) {
        let what = call.source.to_string();
        if let Source::Registry { host, .. } = &mut call.source {
            host.get_or_insert_with(|| default_host.to_owned());
        }
        self.findings.push(Finding {
            place: call.address.clone(),
            what,
            kind,
            call: Some(call),
        });
    }
}

#[cfg(test)]
mod tests {
    use outpost_base::registry::DEFAULT_HOST;

    use super::{super::TreeFile, *};

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
        ) -> Result<(Version, Package), Absent> {
            let (known, text) = match path {
                "acme/a/x" => (
                    Version::new(1, 2, 0),
                    "module \"b\" { source = \"git::https://git.example/b\" }",
                ),
                _ => return Err("nobody knows it".to_owned().into()),
            };
            match version.matches(&known) {
                true => Ok((
                    known,
                    Package {
                        tree: tree(text),
                        dir: String::new(),
                    },
                )),
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

        async fn landing(&self, url: &str) -> Result<String, Absent> {
            Ok(match url {
                "https://modules.example/a" => "git::https://git.example/b".to_owned(),
                "https://modules.example/deep" => "git::https://git.example/b//gone".to_owned(),
                "https://modules.example/s3" => "s3::https://bucket.example/x.zip".to_owned(),
                other => other.to_owned(),
            })
        }
    }

    #[tokio::test]
    async fn a_server_sends_on_to_where_a_module_is_and_not_for_ever() {
        let root = tree(
            "module \"a\" { source = \"https://modules.example/a\" }\n\
             module \"deep\" { source = \"https://modules.example/deep\" }\n\
             module \"s3\" { source = \"https://modules.example/s3\" }\n\
             module \"round\" { source = \"https://modules.example/round\" }\n",
        );

        let closure = close(root, DEFAULT_HOST, &Circle).await;

        let found: Vec<_> = closure
            .findings
            .iter()
            .map(|it| format!("{} {:?}", it.place, it.kind))
            .collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("module.deep Missing") && found[0].contains("`gone`"),
            "{found:?}"
        );
        assert!(found[1].starts_with("module.s3 NotMirrorable"), "{found:?}");
        assert!(found[2].contains("more than 10 redirects"), "{found:?}");
        let sources: Vec<_> = closure
            .modules
            .iter()
            .map(|it| it.source.as_str())
            .collect();
        assert!(
            sources.contains(&"https://modules.example/a"),
            "{sources:?}"
        );
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
