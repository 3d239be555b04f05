//! The files of a template: read once, with a place for every piece, broken ones beside those that parse.

mod reading;

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use hcl_edit::{
    Span,
    structure::{Block, Body},
};
use outpost_language::{self as language, TemplateFiles as _};

use self::reading::{is_override, is_source, read_file};
use super::{
    json,
    place::{Lines, Place},
};

/// A file of a template longer than this is not read, in bytes; that of a daemon's archives.
const MAX_FILE_BYTES: u64 = 10 << 20;
/// Modules inside of each other.
const MAX_DEPTH: usize = 16;
/// Directories of one template.
const MAX_MODULES: usize = 500;

/// A file of Terraform's language that parses.
#[derive(Debug)]
pub struct File {
    /// Its path, relative to the template's directory or to that of a fetched module.
    pub name: String,
    /// Its text as the author wrote it.
    pub text: String,
    /// The parsed file; for JSON, its native form.
    pub parsed: language::SourceFile,
    lines: Lines,
    marks: Vec<(Range<usize>, Range<usize>)>,
}

/// A file without blocks: the lock file, a README.
#[derive(Debug)]
pub struct TextFile {
    /// Its path, relative to the template's directory.
    pub name: String,
    /// Content of the file.
    pub text: String,
    lines: Lines,
}

/// The files of one directory.
#[derive(Debug, Default)]
pub struct ModuleSource {
    /// The directory, relative to the template's; empty for the root.
    pub dir: PathBuf,
    /// The address of a fetched module, such as `registry.coder.com/coder/code-server/coder`; empty for a local one.
    pub fetched: String,
    /// Files that parse, sorted by name; those that override others come last.
    pub files: Vec<File>,
}

/// A file that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The place where the parser stopped.
    pub place: Place,
    /// The complaint, in the words of Terraform.
    pub message: String,
    /// The address of the fetched module it is in; empty for a file of the template.
    pub module: String,
}

/// All files of a template.
#[derive(Debug, Default)]
pub struct Sources {
    /// Directory of the template.
    pub dir: PathBuf,
    /// The root module comes first.
    pub modules: Vec<ModuleSource>,
    /// Files that do not parse.
    pub broken: Vec<Broken>,
    /// Lock file of the template, if there is one.
    pub lock: Option<TextFile>,
    /// The page for people.
    pub readme: Option<TextFile>,
    /// Directories of fetched modules, by their path of calls: `machine.editor`.
    fetched: BTreeMap<String, Fetched>,
}

/// A module that somebody fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Directory of the module.
    pub dir: PathBuf,
    /// The source that it came from.
    pub source: String,
}

/// The reason why a template cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{}`", .path.display())]
pub struct SourceError {
    path: PathBuf,
    source: io::Error,
}

/// The target of a module's call.
#[derive(Debug)]
pub enum Target {
    /// To the module of this index.
    Module(usize),
    /// To something that would have to be fetched.
    Missing,
    /// To nothing, for this reason.
    Wrong(String),
}

impl File {
    fn new(name: String, text: String, native: Option<json::Rewritten>) -> Option<Self> {
        let text = text
            .strip_prefix('\u{feff}')
            .map(str::to_owned)
            .unwrap_or(text);
        let (parsed, marks) = match native {
            Some(native) => {
                let name = name.trim_end_matches(".json");
                (
                    language::SourceFile::parse(name, &native.text).ok()?,
                    native.marks,
                )
            }
            None => (language::SourceFile::parse(&name, &text).ok()?, Vec::new()),
        };
        Some(Self {
            lines: Lines::of(&text),
            name,
            text,
            parsed,
            marks,
        })
    }

    /// The blocks at its top.
    pub fn body(&self) -> &Body {
        &self.parsed.body
    }

    /// The place of a part of the parsed text in the author's file.
    pub fn place(&self, part: &Range<usize>) -> Place {
        let original = self.original(part);
        self.lines.place(&self.name, &self.text, &original)
    }

    /// The place of a parsed thing.
    pub(crate) fn place_of(&self, part: &impl Span) -> Place {
        self.place(&part.span().unwrap_or(0..0))
    }

    /// The place of the words before a block's brace.
    pub fn header(&self, block: &Block) -> Place {
        let start = block.ident.span().unwrap_or(0..0);
        let end = block.labels.last().and_then(Span::span);
        let end = end.map_or(start.end, |label| label.end);
        self.place(&(start.start..end))
    }

    /// A line of the author's file, without blanks at its ends.
    pub(crate) fn line_place(&self, line: usize) -> Place {
        let start = self.lines.start(line);
        let rest = self.text.get(start..).unwrap_or_default();
        let text = rest.lines().next().unwrap_or_default();
        let indent = text.len() - text.trim_start().len();
        let part = start + indent..start + text.trim_end().len().max(indent);
        self.lines.place(&self.name, &self.text, &part)
    }

    /// A part of the author's text.
    pub(super) fn original_place(&self, part: &Range<usize>) -> Place {
        self.lines.place(&self.name, &self.text, part)
    }

    /// A part of the parsed text, as the author wrote it.
    pub(super) fn parsed_text(&self, part: &Range<usize>) -> Option<&str> {
        self.text.get(self.original(part))
    }

    /// Tells whether it is in the JSON syntax.
    pub(super) fn is_json(&self) -> bool {
        !self.marks.is_empty()
    }

    fn original(&self, part: &Range<usize>) -> Range<usize> {
        if self.marks.is_empty() {
            return part.clone();
        }
        let contains = |range: &Range<usize>| range.start <= part.start && part.end <= range.end;
        let around = self.marks.iter().filter(|(range, _)| contains(range));
        let nearest = around.min_by_key(|(range, _)| range.len());
        nearest.map_or(0..0, |(_, original)| original.clone())
    }
}

impl TextFile {
    fn new(name: &str, text: String) -> Self {
        Self {
            name: name.to_owned(),
            lines: Lines::of(&text),
            text,
        }
    }

    /// The place of a part of the text.
    pub fn place(&self, part: &Range<usize>) -> Place {
        self.lines.place(&self.name, &self.text, part)
    }
}

impl Sources {
    /// Reads the template in `dir` and the local modules that it calls. `fetched` is where other modules lie, by their
    /// path of calls.
    ///
    /// # Errors
    /// [`SourceError`] if the directory cannot be listed; a file that cannot be read or parsed is [`Self::broken`].
    pub fn read(dir: &Path, fetched: BTreeMap<String, Fetched>) -> Result<Self, SourceError> {
        let mut sources = Self {
            dir: dir.to_owned(),
            fetched,
            ..Self::default()
        };
        sources.add(PathBuf::new(), dir, "")?;
        let text = |name: &str| {
            let bytes = dir.read(Path::new(name), MAX_FILE_BYTES).ok()?;
            Some(TextFile::new(name, String::from_utf8(bytes).ok()?))
        };
        sources.lock = text(".terraform.lock.hcl");
        sources.readme = text("README.md");
        Ok(sources)
    }

    /// Reads the template in `dir` with all local modules that it calls, however deep.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn of_template(dir: &Path) -> Result<Self, SourceError> {
        let mut sources = Self::read(dir, BTreeMap::new())?;
        super::Calls::follow(&mut sources)?;
        Ok(sources)
    }

    /// Tells whether there is no file of a template.
    pub fn is_empty(&self) -> bool {
        self.broken.is_empty() && self.modules.iter().all(|module| module.files.is_empty())
    }

    /// Paths of local modules that the root calls, as the author wrote them.
    pub fn local_module_sources(&self) -> impl Iterator<Item = &str> {
        let files = self.modules.iter().flat_map(|module| &module.files);
        let calls = files.flat_map(|file| file.body().get_blocks("module"));
        let sources = calls.filter_map(|block| block.body.get_attribute("source")?.value.as_str());
        sources.filter(|source| source.starts_with('.'))
    }

    /// Finds the module that a call leads to, and reads it if nobody did before. `keys` is the path of calls to it.
    ///
    /// # Errors
    /// [`SourceError`] if its directory cannot be listed.
    pub fn resolve(
        &mut self,
        caller: usize,
        source: &str,
        keys: &str,
        depth: usize,
    ) -> Result<Target, SourceError> {
        if depth > MAX_DEPTH || self.modules.len() > MAX_MODULES {
            let text = format!("modules call each other more than {MAX_DEPTH} levels deep");
            return Ok(Target::Wrong(text));
        }
        if !(source.starts_with("./") || source.starts_with("../")) {
            let Some(fetched) = self.fetched.get(keys).cloned() else {
                return Ok(Target::Missing);
            };
            return Ok(Target::Module(self.known(fetched.dir, &fetched.source)?));
        }
        let (parent, fetched) = (
            &self.modules[caller].dir,
            self.modules[caller].fetched.clone(),
        );
        let Some(dir) = normalized(&parent.join(source)) else {
            return Ok(Target::Wrong(
                "the path leads out of the template's directory, and a push takes only that along"
                    .to_owned(),
            ));
        };
        if !self.dir.join(&dir).is_dir() {
            return Ok(Target::Wrong(format!("there is no directory `{source}`")));
        }
        Ok(Target::Module(self.known(dir, &fetched)?))
    }

    fn known(&mut self, dir: PathBuf, fetched: &str) -> Result<usize, SourceError> {
        match self.modules.iter().position(|module| module.dir == dir) {
            Some(known) => Ok(known),
            None => {
                let whole = self.dir.join(&dir);
                self.add(dir, &whole, fetched)
            }
        }
    }

    /// The path of a directory below the fetched module that it is part of.
    fn below_fetched(&self, dir: &Path, fetched: &str) -> PathBuf {
        let mut tops = self.modules.iter().filter(|it| it.fetched == fetched);
        let below = tops.find_map(|top| dir.strip_prefix(&top.dir).ok());
        below.unwrap_or(Path::new("")).to_owned()
    }

    fn add(&mut self, dir: PathBuf, whole: &Path, fetched: &str) -> Result<usize, SourceError> {
        let failed = |source| SourceError {
            path: whole.to_owned(),
            source,
        };
        let mut names: Vec<String> = whole
            .list(Path::new(""))
            .map_err(failed)?
            .into_iter()
            .filter(|(_, is_dir)| !is_dir)
            .filter_map(|(name, _)| name.into_string().ok())
            .filter(|name| is_source(name))
            .collect();
        names.sort_by_key(|name| (is_override(name), name.clone()));
        // A fetched module's files are named from its own directory, also those of modules inside of it.
        let shown = match fetched {
            "" => dir.clone(),
            _ => self.below_fetched(&dir, fetched),
        };
        let mut module = ModuleSource {
            dir: dir.clone(),
            fetched: fetched.to_owned(),
            files: Vec::new(),
        };
        for name in names {
            let shown = slashed(&shown.join(&name));
            match read_file(&whole.join(&name), &shown) {
                Ok(file) => module.files.push(file),
                Err(broken) => self.broken.extend(broken.into_iter().map(|broken| Broken {
                    module: fetched.to_owned(),
                    ..broken
                })),
            }
        }
        self.modules.push(module);
        Ok(self.modules.len() - 1)
    }
}

/// A path with slashes on every system.
pub(super) fn slashed(path: &Path) -> String {
    let parts = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

/// A relative path without dots; `None` if it leads out.
fn normalized(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir if clean.pop() => {}
            // That of a fetched module, which is outside of the template anyway.
            Component::RootDir => clean.push("/"),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn template(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_broken_file_does_not_hide_the_others() {
        let dir = template(&[
            ("a.tf", "x = \n"),
            ("b.tf", "locals {\n}\n"),
            ("c.tf.json", "{"),
        ]);

        let sources = Sources::read(dir.path(), BTreeMap::new()).unwrap();

        assert_eq!(sources.modules[0].files.len(), 1);
        let places = sources
            .broken
            .iter()
            .map(|it| (&*it.place.file, it.place.line));
        assert_eq!(places.collect::<Vec<_>>(), [("a.tf", 1), ("c.tf.json", 1)]);
    }

    #[test]
    fn json_has_the_places_of_the_authors_file() {
        let text = "{\n  \"resource\": {\n    \"a\": {\n      \"b\": {\n        \"x\": \"y\"\n      }\n    }\n  }\n}\n";
        let dir = template(&[("main.tf.json", text)]);

        let sources = Sources::read(dir.path(), BTreeMap::new()).unwrap();

        let file = &sources.modules[0].files[0];
        let block = file.body().blocks().next().unwrap();
        assert_eq!((file.header(block).line, file.header(block).column), (4, 7));
        let attribute = block.body.get_attribute("x").unwrap();
        let place = file.place_of(attribute);
        assert_eq!((place.line, place.column, place.end_column), (5, 9, 17));
    }

    #[test]
    fn calls_lead_to_directories_of_the_template_and_nowhere_else() {
        let dir = template(&[("main.tf", ""), ("m/main.tf", "")]);
        let mut sources = Sources::read(dir.path(), BTreeMap::new()).unwrap();

        let found = sources.resolve(0, "./m", "m", 1).unwrap();
        assert!(matches!(found, Target::Module(1)), "{found:?}");
        for (source, part) in [("./none", "no directory"), ("../other", "leads out")] {
            let Target::Wrong(reason) = sources.resolve(0, source, "x", 1).unwrap() else {
                panic!("{source}");
            };
            assert!(reason.contains(part), "{reason}");
        }
        let missing = sources.resolve(0, "coder/x/coder", "x", 1).unwrap();
        assert!(matches!(missing, Target::Missing), "{missing:?}");
    }
}
