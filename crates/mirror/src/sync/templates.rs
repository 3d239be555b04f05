//! The needs of templates: their location, their providers and modules, and checks of their lock files.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use outpost_base::secret::Secret;
use outpost_files as files;
use outpost_language::lock;
use outpost_net::http::shown;
use url::Url;

use super::{
    Cause, Report, Sync,
    coder_templates::Server,
    config::{TemplateEntry, TemplateSource, matches},
    modules::{Origins, is_comparable},
    package,
    provider::Demand,
};
use crate::{
    StoreError,
    fetch::blocking,
    resolve::{Pick, Policy},
    scan::{
        Tree,
        closure::{Closure, FindingKind, close},
    },
};

/// Maximum number of directories that are searched for templates.
const MAX_DIRS: usize = 10_000;

/// A template with its needs.
pub(super) struct Needed {
    pub(super) name: String,
    pub(super) closure: Closure,
}

impl Sync {
    /// Determines what all templates need, including their modules.
    pub(super) async fn templates(
        &self,
        origins: &Origins<'_>,
        report: &mut Report,
    ) -> Result<(Vec<Demand>, Vec<Needed>), StoreError> {
        let (mut demands, mut all) = (Vec::new(), Vec::new());
        for entry in &self.config.templates {
            let trees = match &entry.source {
                TemplateSource::Path(path) => self.in_directory(path, report).await?,
                TemplateSource::Coder { url, token_file } => {
                    self.on_server(url, token_file.as_deref(), report).await
                }
            };
            for (name, tree) in trees {
                let tree = Arc::new(tree);
                for engine in &self.config.engines {
                    let host = engine.default_host();
                    let closure = close(Arc::clone(&tree), host, origins).await;
                    self.tell(&name, &closure, report);
                    demands.extend(self.demands_of(&name, &closure, entry, report));
                    all.push(Needed {
                        name: name.clone(),
                        closure,
                    });
                }
            }
        }
        Ok((demands, all))
    }

    /// Returns the templates that a path refers to.
    async fn in_directory(
        &self,
        place: &str,
        report: &mut Report,
    ) -> Result<Vec<(String, Tree)>, StoreError> {
        let path = self.config.dir.join(place);
        let found = match blocking(move || Ok(find(&path))).await? {
            Ok(found) if found.is_empty() => {
                let why = "no template found".to_owned();
                report.fail(place, Cause::Unsatisfied(why));
                return Ok(Vec::new());
            }
            Ok(found) => found,
            Err(error) => {
                report.fail(place, error);
                return Ok(Vec::new());
            }
        };
        let mut trees = Vec::new();
        for path in found {
            let name = path.display().to_string();
            self.watch.phase(&format!("scanning {name}"));
            match blocking(move || Ok(load(&path))).await? {
                Ok(tree) => trees.push((name, tree)),
                Err(error) => report.fail(name, error),
            }
        }
        Ok(trees)
    }

    /// Returns the active templates of a Coder server.
    async fn on_server(
        &self,
        url: &Url,
        token_file: Option<&Path>,
        report: &mut Report,
    ) -> Vec<(String, Tree)> {
        let place = shown(url);
        let listed = async {
            let token = self.token(token_file)?;
            let server = Server::new(url, &token, &self.fetcher)?;
            self.watch
                .phase(&format!("reading the templates of {place}"));
            let templates = server.templates().await?;
            Ok((server, templates))
        };
        let (server, templates) = match listed.await {
            Ok(listed) => listed,
            Err(error) => {
                let error: Cause = error;
                report.fail(place, error);
                return Vec::new();
            }
        };
        let mut trees = Vec::new();
        for template in &templates {
            let name = server.name(template);
            self.watch.phase(&format!("scanning {name}"));
            match server.tree(template).await {
                Ok(tree) => trees.push((name, tree)),
                Err(error) => report.fail(name, error),
            }
        }
        trees
    }

    fn token(&self, file: Option<&Path>) -> Result<Secret, Cause> {
        let Some(file) = file else {
            let token = self.session_token.clone();
            let none = || {
                let why = "no token is given: set `token_file`, or CODER_SESSION_TOKEN";
                Cause::Unsatisfied(why.to_owned())
            };
            return token.ok_or_else(none);
        };
        let path = self.config.dir.join(file);
        let text = fs::read_to_string(&path).map_err(|error| {
            Cause::Unsatisfied(format!(
                "the token in `{}` cannot be read: {error}",
                path.display()
            ))
        })?;
        Ok(Secret::new(text.trim()))
    }

    /// Reports findings. A failed download fails the sync; what no mirror can contain does not, because no further
    /// run would change it.
    fn tell(&self, name: &str, closure: &Closure, report: &mut Report) {
        for finding in &closure.findings {
            let place = format!("{name}: {}", finding.place);
            let what = match finding.what.as_str() {
                "" => place,
                what => format!("{place}: {what}"),
            };
            match &finding.kind {
                FindingKind::Missing(why) | FindingKind::Unsatisfied(why) => {
                    report.fail(what, Cause::Unsatisfied(why.clone()));
                }
                FindingKind::NotMirrorable(why) => {
                    self.watch
                        .note(&format!("{what} cannot be mirrored: {why}"));
                }
                FindingKind::Invalid(why) => {
                    self.watch
                        .note(&format!("{what}: engines refuse this: {why}"));
                }
                FindingKind::Unclear(why) => self.watch.note(&format!("{what}: {why}")),
            }
        }
    }

    fn demands_of(
        &self,
        name: &str,
        closure: &Closure,
        entry: &TemplateEntry,
        report: &mut Report,
    ) -> Vec<Demand> {
        let mut demands = Vec::new();
        let policy = entry.versions.policy;
        let platforms = entry.platforms.as_ref().unwrap_or(&self.config.platforms);
        for (addr, constraint) in &closure.providers {
            let demand = |pick, count, by| Demand {
                addr: addr.clone(),
                pick,
                count,
                platforms: platforms.clone(),
                by,
            };
            let locked = closure.locked.get(addr);
            if let Some(locked) = locked.filter(|_| policy.wants_locked()) {
                let exactly = outpost_language::Constraint::exactly(&locked.version);
                let by = format!("the lock file of {name}");
                demands.push(demand(Pick::Matching(exactly), 1, by));
            } else if policy == Policy::Locked {
                let why =
                    format!("the policy is `locked`, but {name} has no lock file that lists it");
                report.fail(addr.to_string(), Cause::Unsatisfied(why));
            }
            let count = policy.count(entry.versions.keep);
            let pick = Pick::Matching(constraint.clone());
            demands.push(demand(pick, count, name.to_owned()));
        }
        demands
    }

    /// Reports lock files that do not match the packages in the mirror.
    pub(super) fn check_locks(&self, needed: &[Needed], report: &Report) {
        let mut told = BTreeSet::new();
        for Needed { name, closure } in needed {
            for (addr, locked) in &closure.locked {
                let mut providers = report.synced.versions(addr);
                let provider = providers.find(|provider| provider.version == locked.version);
                let packages = provider.map(|p| p.packages.as_slice()).unwrap_or_default();
                for package in packages {
                    let is_good = package::satisfies(package, &locked.hashes);
                    if !is_good && is_comparable(&locked.hashes) {
                        let platform = &package.platform;
                        told.insert(format!(
                            "{} of {name} does not match {addr} {} for {platform}; `outpost mirror lock` adds what is missing",
                            lock::FILE_NAME,
                            locked.version
                        ));
                    }
                }
            }
        }
        told.iter().for_each(|text| self.watch.note(text));
    }
}

/// Finds the templates that a path refers to: a directory or a tar archive; with `*` in it all that match, and with
/// `**` as a part those in any directory.
fn find(path: &Path) -> io::Result<Vec<PathBuf>> {
    let has_star = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains('*');
    let parts: Vec<_> = path.components().collect();
    let Some(first) = parts.iter().position(has_star) else {
        fs::metadata(path)?;
        return Ok(vec![path.to_owned()]);
    };
    let base: PathBuf = parts[..first].iter().collect();
    let pattern = parts[first..].iter();
    let pattern: Vec<_> = pattern
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    let mut search = Search::default();
    search.go(files::directory_of(&base.join("x")), &pattern)?;
    let mut found = search.found;
    found.sort();
    found.dedup();
    // A directory inside of a template is part of that template.
    let mut roots: Vec<PathBuf> = Vec::new();
    for path in found {
        if !roots.iter().any(|root| path.starts_with(root)) {
            roots.push(path);
        }
    }
    Ok(roots)
}

#[derive(Default)]
struct Search {
    found: Vec<PathBuf>,
    seen: usize,
}

impl Search {
    /// Searches for the rest of the pattern below a directory.
    fn go(&mut self, dir: &Path, pattern: &[String]) -> io::Result<()> {
        self.seen += 1;
        if self.seen > MAX_DIRS {
            return Err(io::Error::other("it has more than 10,000 directories"));
        }
        let Some((first, rest)) = pattern.split_first() else {
            if is_template(dir)? {
                self.found.push(dir.to_owned());
            }
            return Ok(());
        };
        let is_any_depth = first == "**";
        if is_any_depth {
            self.go(dir, rest)?;
        }
        if !first.contains('*') {
            let path = dir.join(first);
            return match fs::metadata(&path) {
                Ok(found) if found.is_dir() => self.go(&path, rest),
                Ok(_) if rest.is_empty() && first.ends_with(".tar") => {
                    self.found.push(path);
                    Ok(())
                }
                _ => Ok(()),
            };
        }
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') || !(is_any_depth || matches(first, &name)) {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true if is_any_depth => self.go(&entry.path(), pattern)?,
                true => self.go(&entry.path(), rest)?,
                false if rest.is_empty() && name.ends_with(".tar") => {
                    self.found.push(entry.path());
                }
                false => {}
            }
        }
        Ok(())
    }
}

fn is_template(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_source = name.ends_with(".tf") || name.ends_with(".tf.json");
        if is_source && !entry.file_type()?.is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the files of a template: those of a directory, or of a tar archive.
///
/// # Errors
/// The system's error, and one if it is too large.
pub fn load(path: &Path) -> io::Result<Tree> {
    match path.is_dir() {
        true => Tree::of_template(path),
        false => Tree::of_tar(io::BufReader::new(fs::File::open(path)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_found_one_level_down_or_anywhere_and_modules_in_them_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "a/main.tf",
            "a/modules/x/main.tf",
            "deep/b/main.tf.json",
            ".hidden/main.tf",
            "README",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::write(dir.path().join("pushed.tar"), "").unwrap();
        let names = |pattern: &str| {
            let found = find(&dir.path().join(pattern)).unwrap();
            let names = found
                .iter()
                .map(|path| path.strip_prefix(dir.path()).unwrap());
            names
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };

        assert_eq!(names("**"), ["a", "deep/b", "pushed.tar"]);
        assert_eq!(names("*"), ["a", "pushed.tar"]);
        assert_eq!(names("a"), ["a"]);
        assert_eq!(names("*/b"), ["deep/b"]);
        assert_eq!(names("d*/*"), ["deep/b"]);
        assert_eq!(names("**/b"), ["deep/b"]);
        assert_eq!(names("a/**/x"), ["a/modules/x"]);
        assert_eq!(names("*/pushed.tar"), [""; 0]);
        assert!(find(&dir.path().join("gone")).is_err());
        assert_eq!(
            find(Path::new("*")).unwrap(),
            Vec::<PathBuf>::new(),
            "a bare pattern is about the current directory, which holds our sources"
        );
    }
}
