//! Known vulnerabilities of the Go modules that engines and providers were built from.
//!
//! Go programs contain a list of the modules that they were built from. A database in OSV's format, as a file or a
//! directory, contains the vulnerable versions of these modules, so no network is needed. Whether a program links or
//! calls the vulnerable function is not examined.
//!
//! # Source
//! The OSV schema at ossf.github.io/osv-schema, and Go's `debug/buildinfo`.

mod go_build;
mod osv;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use jiff::Timestamp;
use semver::Version;
use serde::Serialize;
use serde_json::{Value, json};
use zip::ZipArchive;

use self::osv::Record;
use super::{
    Digest, Generation, Store,
    bundle::{BundleError, Step, Watch, reference},
};

/// Maximum size in bytes of a file in a package that is examined.
const LARGEST_PROGRAM: u64 = 4 << 30;

/// Reason why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A file cannot be read or parsed.
    #[error("failed to read the vulnerability database at `{entry}`")]
    Read {
        /// Name of the file.
        entry: String,
        /// Error from the operating system or the parser.
        source: io::Error,
    },
    /// The database has no records of use.
    #[error("`{0}` has no record about Go modules in OSV's format")]
    Empty(String),
}

/// A program of a generation, with the modules that it was built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Address of the provider, or name of the engine.
    pub name: String,
    /// Version of the program.
    pub version: Version,
    /// Platform of the program.
    pub platform: String,
    /// Reference of the program in the list of components.
    pub reference: String,
    /// Modules and their versions, the standard library as `stdlib`; `None` if the program has no such list.
    pub modules: Option<Vec<(String, Version)>>,
}

/// A vulnerable module in a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Address of the provider, or name of the engine.
    pub program: String,
    /// Version of the program.
    pub version: String,
    /// Path of the module, or `stdlib`.
    pub module: String,
    /// Version of the module.
    pub module_version: String,
    /// Id of the vulnerability in the database, such as `GO-2024-2687`.
    pub id: String,
    /// Other ids of the vulnerability, such as those that begin with `CVE-`.
    pub aliases: Vec<String>,
    /// Summary of the vulnerability.
    pub summary: String,
    /// Next version of the module without the vulnerability, if there is one.
    pub fixed_in: Option<String>,
    /// Platforms of the program.
    pub platforms: BTreeSet<String>,
    /// References of the program in the list of components, one for each platform.
    pub references: BTreeSet<String>,
}

/// All findings, and their basis.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of programs that were examined.
    pub programs: usize,
    /// Programs without a list of modules.
    pub unknown: Vec<String>,
    /// Number of records about Go modules in the database.
    pub records: usize,
    /// Time of the newest change of these records.
    pub database_modified: Option<Timestamp>,
    /// Findings, sorted by program.
    pub findings: Vec<Finding>,
}

/// Reads the modules that engines and providers of `generation` were built from.
///
/// # Errors
/// [`BundleError`] if a package cannot be read, or if the user stops the work.
pub fn programs(
    store: &Store,
    generation: &Generation,
    watch: Watch<'_>,
) -> Result<Vec<Program>, BundleError> {
    let providers = generation.providers.iter().flat_map(|provider| {
        let of = |package: &super::generation::Package| {
            (
                provider.addr.to_string(),
                provider.version.clone(),
                package.platform.to_string(),
                package.archive,
                package.size,
            )
        };
        provider.packages.iter().map(of).collect::<Vec<_>>()
    });
    let tools = generation.tools.iter().map(|tool| {
        (
            tool.name.clone(),
            tool.version.clone(),
            tool.platform.to_string(),
            tool.archive,
            tool.size,
        )
    });
    let all: Vec<_> = providers.chain(tools).collect();
    (watch.hear)(Step::Begun(all.iter().map(|it| it.4).sum()));
    let mut programs = Vec::new();
    for (name, version, platform, archive, size) in all {
        let modules = modules(store, archive, &name, &version)?;
        watch.advance(size as usize)?;
        programs.push(Program {
            reference: reference(&name, &version.to_string(), &platform, archive),
            name,
            version,
            platform,
            modules,
        });
    }
    Ok(programs)
}

/// Returns the modules that the programs in an archive were built from.
fn modules(
    store: &Store,
    archive: Digest,
    name: &str,
    version: &Version,
) -> Result<Option<Vec<(String, Version)>>, BundleError> {
    let failed = |source: io::Error| BundleError::Read {
        entry: name.to_owned(),
        source,
    };
    let mut zip = ZipArchive::new(store.open_blob(archive)?).map_err(|it| failed(it.into()))?;
    let mut modules = BTreeSet::new();
    for index in 0..zip.len() {
        let entry = zip.by_index(index).map_err(|it| failed(it.into()))?;
        if !entry.is_file() || entry.size() > LARGEST_PROGRAM {
            continue;
        }
        if let Some(build) = go_build::read(entry).map_err(failed)? {
            modules.extend(build.modules(version));
        }
    }
    Ok((!modules.is_empty()).then(|| modules.into_iter().collect()))
}

/// Looks the modules of `programs` up in a database: a directory with OSV's JSON files, or a zip file of them.
///
/// # Errors
/// [`DatabaseError`].
pub fn report(programs: &[Program], database: &Path) -> Result<Report, DatabaseError> {
    let known = |program: &Program| {
        program
            .modules
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
    };
    let wanted: BTreeSet<String> = programs.iter().flat_map(known).map(|it| it.0).collect();
    let read = osv::read(database, &wanted)?;
    let mut findings: BTreeMap<(String, String, String, String), Finding> = BTreeMap::new();
    for program in programs {
        for (module, version) in program.modules.iter().flatten() {
            for record in read.about(module) {
                let Some(fixed_in) = record.affects(module, version) else {
                    continue;
                };
                let key = (
                    program.name.clone(),
                    program.version.to_string(),
                    module.clone(),
                    record.id.clone(),
                );
                let finding = findings
                    .entry(key)
                    .or_insert_with(|| finding(program, module, version, record, fixed_in));
                finding.platforms.insert(program.platform.clone());
                finding.references.insert(program.reference.clone());
            }
        }
    }
    let is_unknown = |program: &&Program| program.modules.is_none();
    Ok(Report {
        programs: programs.len(),
        unknown: programs
            .iter()
            .filter(is_unknown)
            .map(|it| format!("{} {} {}", it.name, it.version, it.platform))
            .collect(),
        records: read.count,
        database_modified: read.modified,
        findings: without_aliases(findings.into_values().collect()),
    })
}

fn finding(
    program: &Program,
    module: &str,
    version: &Version,
    record: &Record,
    fixed_in: Option<Version>,
) -> Finding {
    Finding {
        program: program.name.clone(),
        version: program.version.to_string(),
        module: module.to_owned(),
        module_version: version.to_string(),
        id: record.id.clone(),
        aliases: record.aliases.clone(),
        summary: record.summary.clone(),
        fixed_in: fixed_in.map(|version| version.to_string()),
        platforms: BTreeSet::new(),
        references: BTreeSet::new(),
    }
}

/// Keeps one of several records about the same vulnerability: Go's own if there is one.
fn without_aliases(findings: Vec<Finding>) -> Vec<Finding> {
    let is_go = |finding: &Finding| finding.id.starts_with("GO-");
    let is_same = |a: &Finding, b: &Finding| {
        let place = |it: &Finding| (it.program.clone(), it.version.clone(), it.module.clone());
        place(a) == place(b) && (a.aliases.contains(&b.id) || b.aliases.contains(&a.id))
    };
    let is_better = |a: &Finding, b: &Finding| (!is_go(a), &a.id) < (!is_go(b), &b.id);
    let is_kept = |finding: &&Finding| {
        !findings
            .iter()
            .any(|other| is_same(other, finding) && is_better(other, finding))
    };
    findings.iter().filter(is_kept).cloned().collect()
}

/// Returns the findings as CycloneDX's vulnerabilities, each still to be assessed.
pub fn vex(report: &Report) -> Value {
    let vulnerability = |finding: &Finding| {
        json!({
            "id": finding.id,
            "description": finding.summary,
            "references": finding.aliases.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>(),
            "recommendation": finding.fixed_in.as_ref().map(|version| {
                format!("a release of {} with {} {version} or newer", finding.program, finding.module)
            }),
            "analysis": { "state": "in_triage" },
            "affects": finding.references.iter().map(|it| json!({ "ref": it })).collect::<Vec<_>>(),
            "properties": [
                { "name": "outpost:module", "value": format!("{}@{}", finding.module, finding.module_version) },
            ],
        })
    };
    let vulnerabilities: Vec<_> = report.findings.iter().map(vulnerability).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "vulnerabilities": vulnerabilities,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(modules: &[(&str, &str)]) -> Program {
        let module = |(path, version): &(&str, &str)| (path.to_string(), version.parse().unwrap());
        Program {
            name: "terraform".to_owned(),
            version: "1.11.4".parse().unwrap(),
            platform: "linux_amd64".to_owned(),
            reference: "terraform@1.11.4/linux_amd64#1".to_owned(),
            modules: Some(modules.iter().map(module).collect()),
        }
    }

    fn record(id: &str, aliases: &[&str], events: &Value) -> Value {
        json!({
            "id": id,
            "aliases": aliases,
            "summary": "requests without end",
            "modified": "2026-01-02T03:04:05Z",
            "affected": [{
                "package": { "ecosystem": "Go", "name": "example.com/http" },
                "ranges": [{ "type": "SEMVER", "events": events }],
            }],
        })
    }

    fn database(records: &[Value]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (number, record) in records.iter().enumerate() {
            let file = dir.path().join(format!("{number}.json"));
            std::fs::write(file, record.to_string()).unwrap();
        }
        dir
    }

    #[test]
    fn a_module_is_reported_where_a_range_has_its_version_once_for_all_platforms() {
        let events = json!([{ "introduced": "0" }, { "fixed": "1.2.0" }, { "introduced": "1.3.0" }, { "fixed": "1.3.4" }]);
        let database = database(&[record("GO-2026-0001", &["CVE-2026-1"], &events)]);
        let found = |version: &str| {
            let one = program(&[("example.com/http", version)]);
            let other = Program {
                platform: "darwin_arm64".to_owned(),
                ..one.clone()
            };
            report(&[one, other], database.path()).unwrap().findings
        };

        assert_eq!(found("1.3.1")[0].fixed_in.as_deref(), Some("1.3.4"));
        assert_eq!(found("1.3.1")[0].platforms.len(), 2);
        assert_eq!(found("0.9.0")[0].fixed_in.as_deref(), Some("1.2.0"));
        assert_eq!(found("1.2.0"), []);
        assert_eq!(found("1.3.4"), []);
    }

    #[test]
    fn of_records_about_one_vulnerability_go_s_own_is_left() {
        let events = json!([{ "introduced": "0" }]);
        let database = database(&[
            record("GHSA-aaaa-bbbb-cccc", &["CVE-2026-1"], &events),
            record(
                "GO-2026-0001",
                &["CVE-2026-1", "GHSA-aaaa-bbbb-cccc"],
                &events,
            ),
        ]);

        let report = report(
            &[program(&[("example.com/http", "1.0.0")])],
            database.path(),
        )
        .unwrap();

        let ids: Vec<_> = report.findings.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["GO-2026-0001"]);
        assert_eq!(report.findings[0].fixed_in, None);
        assert_eq!(report.records, 2);
        let vex = vex(&report);
        assert_eq!(
            vex["vulnerabilities"][0]["affects"],
            json!([{ "ref": "terraform@1.11.4/linux_amd64#1" }])
        );
    }

    #[test]
    fn a_database_without_records_is_refused_and_a_damaged_one_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let refused = report(&[], empty.path()).unwrap_err();
        assert!(refused.to_string().contains("no record"), "{refused}");

        std::fs::write(empty.path().join("GO-1.json"), "{").unwrap();
        let refused = report(&[], empty.path()).unwrap_err();
        assert!(refused.to_string().contains("GO-1.json"), "{refused}");
    }
}
