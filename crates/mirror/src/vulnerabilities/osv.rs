//! A database of vulnerabilities in OSV's format: one JSON object for each, in files or in one zip file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use jiff::Timestamp;
use semver::Version;
use serde::Deserialize;
use zip::ZipArchive;

use super::DatabaseError;

/// Maximum size of a record in bytes.
const LARGEST_RECORD: u64 = 8 << 20;
/// Maximum depth of directories.
const DEEPEST: usize = 8;
const ECOSYSTEM: &str = "Go";

/// The part of a record that is used.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    #[serde(default)]
    pub(super) summary: String,
    #[serde(default)]
    modified: Option<Timestamp>,
    #[serde(default)]
    withdrawn: Option<Timestamp>,
    #[serde(default)]
    affected: Vec<Affected>,
}

#[derive(Clone, Debug, Deserialize)]
struct Affected {
    package: Option<Package>,
    #[serde(default)]
    ranges: Vec<Range>,
    #[serde(default)]
    versions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    ecosystem: String,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Range {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    events: Vec<Event>,
}

/// An event with one of these fields; others, such as `limit`, are ignored.
#[derive(Clone, Debug, Deserialize)]
struct Event {
    introduced: Option<String>,
    fixed: Option<String>,
    last_affected: Option<String>,
}

impl Event {
    /// Returns the version at which a vulnerability begins or ends.
    fn turn(&self) -> Option<(Version, Turn)> {
        if self.introduced.as_deref() == Some("0") {
            return Some((LOWEST, Turn::Vulnerable));
        }
        let introduced = self.introduced.iter().map(|it| (it, Turn::Vulnerable));
        let fixed = self.fixed.iter().map(|it| (it, Turn::Fixed));
        let last = self.last_affected.iter().map(|it| (it, Turn::FixedBehind));
        let (text, turn) = introduced.chain(fixed).chain(last).next()?;
        Some((version(text)?, turn))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Fixed,
    Vulnerable,
    FixedBehind,
}

const LOWEST: Version = Version::new(0, 0, 0);

fn version(text: &str) -> Option<Version> {
    Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
}

impl Range {
    /// Returns the next fixed version if `found` is vulnerable; `Some(None)` if none is known.
    fn affects(&self, found: &Version) -> Option<Option<Version>> {
        let mut turns: Vec<_> = self.events.iter().filter_map(Event::turn).collect();
        turns.sort();
        let mut is_vulnerable = false;
        for (version, turn) in &turns {
            match turn {
                // Pre-releases of the lowest version are vulnerable as well.
                Turn::Vulnerable if *version == LOWEST || version <= found => is_vulnerable = true,
                Turn::Fixed if version <= found => is_vulnerable = false,
                Turn::FixedBehind if version < found => is_vulnerable = false,
                Turn::Vulnerable | Turn::Fixed | Turn::FixedBehind => {}
            }
        }
        let fixed = |(version, turn): &(Version, Turn)| *turn == Turn::Fixed && version > found;
        let fixed = turns.iter().find(|it| fixed(it));
        is_vulnerable.then(|| fixed.map(|it| it.0.clone()))
    }
}

impl Affected {
    fn is_about(&self, module: &str) -> bool {
        let package = self.package.as_ref();
        package.is_some_and(|it| it.ecosystem == ECOSYSTEM && it.name == module)
    }
}

impl Record {
    /// Returns the next fixed version if this version of a module is vulnerable; `Some(None)` if none is known.
    pub(super) fn affects(&self, module: &str, found: &Version) -> Option<Option<Version>> {
        let about = || self.affected.iter().filter(|it| it.is_about(module));
        let is_listed = |it: &Affected| {
            it.versions
                .iter()
                .any(|v| version(v).as_ref() == Some(found))
        };
        let ranges = about().flat_map(|it| &it.ranges);
        let mut ranges = ranges.filter(|range| range.kind == "SEMVER");
        let in_range = ranges.find_map(|range| range.affects(found));
        in_range.or_else(|| about().any(is_listed).then_some(None))
    }
}

/// The records about some modules.
#[derive(Debug, Default)]
pub(super) struct Records {
    of_module: BTreeMap<String, Vec<Record>>,
    /// Number of records about Go modules in the whole database.
    pub(super) count: usize,
    /// Time of the newest change of these records.
    pub(super) modified: Option<Timestamp>,
}

impl Records {
    pub(super) fn about(&self, module: &str) -> &[Record] {
        self.of_module.get(module).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, record: Record, wanted: &BTreeSet<String>) {
        let packages = record.affected.iter().filter_map(|it| it.package.as_ref());
        let modules = packages.filter(|it| it.ecosystem == ECOSYSTEM);
        let modules: BTreeSet<_> = modules.map(|it| it.name.clone()).collect();
        if modules.is_empty() || record.withdrawn.is_some() {
            return;
        }
        self.count += 1;
        self.modified = self.modified.max(record.modified);
        for module in modules.intersection(wanted) {
            let records = self.of_module.entry(module.clone()).or_default();
            records.push(record.clone());
        }
    }

    /// Reads one file; a file that is not a record, such as an index, is skipped.
    fn read(
        &mut self,
        entry: &str,
        content: impl Read,
        wanted: &BTreeSet<String>,
    ) -> Result<(), DatabaseError> {
        let failed = |source: io::Error| DatabaseError::Read {
            entry: entry.to_owned(),
            source,
        };
        let mut text = Vec::new();
        content
            .take(LARGEST_RECORD + 1)
            .read_to_end(&mut text)
            .map_err(failed)?;
        let value: serde_json::Value = match text.len() as u64 > LARGEST_RECORD {
            // An index may have any size.
            true => return Ok(()),
            false => serde_json::from_slice(&text).map_err(|it| failed(it.into()))?,
        };
        if value.get("id").is_none() || value.get("affected").is_none() {
            return Ok(());
        }
        let record = serde_json::from_value(value).map_err(|it| failed(it.into()))?;
        self.add(record, wanted);
        Ok(())
    }

    fn read_dir(
        &mut self,
        dir: &Path,
        depth: usize,
        wanted: &BTreeSet<String>,
    ) -> Result<(), DatabaseError> {
        let failed = |path: &Path| {
            let entry = path.display().to_string();
            move |source: io::Error| DatabaseError::Read { entry, source }
        };
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let entry = entry.map_err(failed(dir))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failed(&path))?;
            if kind.is_dir() && depth < DEEPEST {
                self.read_dir(&path, depth + 1, wanted)?;
            } else if kind.is_file() && is_json(&path) {
                let file = File::open(&path).map_err(failed(&path))?;
                self.read(&path.display().to_string(), file, wanted)?;
            }
        }
        Ok(())
    }

    fn read_zip(&mut self, path: &Path, wanted: &BTreeSet<String>) -> Result<(), DatabaseError> {
        let failed = |source: io::Error| DatabaseError::Read {
            entry: path.display().to_string(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mut zip = ZipArchive::new(io::BufReader::new(file)).map_err(|it| failed(it.into()))?;
        for index in 0..zip.len() {
            let entry = zip.by_index(index).map_err(|it| failed(it.into()))?;
            let name = entry.name().map_err(|it| failed(it.into()))?.into_owned();
            if entry.is_file() && is_json(Path::new(&name)) {
                self.read(&format!("{}/{name}", path.display()), entry, wanted)?;
            }
        }
        Ok(())
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "json")
}

/// Reads a database, and keeps the records about `wanted` modules.
pub(super) fn read(database: &Path, wanted: &BTreeSet<String>) -> Result<Records, DatabaseError> {
    let mut records = Records::default();
    match database.is_dir() {
        true => records.read_dir(database, 0, wanted)?,
        false => records.read_zip(database, wanted)?,
    }
    match records.count {
        0 => Err(DatabaseError::Empty(database.display().to_string())),
        _ => Ok(records),
    }
}
