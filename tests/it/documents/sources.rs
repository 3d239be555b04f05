//! CONTRIBUTING.md's table of Coder's source files and ours is what the code says.
//!
//! `UPDATE_SOURCES=1 cargo test --test it documents::sources` rewrites it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::LazyLock,
};

use regex::Regex;

use super::{read, root};

/// The table of Coder's sources, and how it is rewritten.
const TABLE: &str = "CONTRIBUTING.md";
const BEGIN: &str = "<!-- sources: begin -->\n";
const END: &str = "<!-- sources: end -->\n";
const UPDATE: &str = "UPDATE_SOURCES";

#[test]
fn the_table_of_coder_s_sources_is_fresh() {
    let (text, table) = (read(TABLE), table(&sources()));
    let (before, rest) = text.split_once(BEGIN).expect("the table has a begin");
    let (committed, after) = rest.split_once(END).expect("the table has an end");
    if std::env::var_os(UPDATE).is_some() {
        fs::write(
            root().join(TABLE),
            [before, BEGIN, &table, END, after].concat(),
        )
        .unwrap();
        return;
    }
    assert!(
        table.lines().count() > 80,
        "the table lost its rows:\n{table}"
    );
    assert_eq!(
        committed, table,
        "{TABLE} is stale; run {UPDATE}=1 cargo test --test it documents::sources"
    );
}

#[test]
fn sources_are_read_from_doc_comments() {
    let text = "//! # Source\n//! coder `agent/{a,b}.go` `Run`, `coderd/x`; storj/drpc `wire/w.go`.\n\n\
                /// # Source\n/// Go's `net/http`; coder\n/// `tailnet/conn.go`.\n///\n/// `cli/no.go`\nfn f() {}\n";

    let found = sources_of(text);

    let expected = [
        "agent/a.go",
        "agent/b.go",
        "coderd/x",
        "storj/drpc: wire/w.go",
        "tailnet/conn.go",
    ];
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

/// Our files by the file of Coder's, or of a library that Coder uses, whose behaviour they follow.
fn sources() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in code() {
        let shown = file
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        for source in sources_of(&fs::read_to_string(&file).unwrap()) {
            found.entry(source).or_default().insert(shown.clone());
        }
    }
    found
}

/// All Rust files of the program: `src/`, and `src/` of each directory of `crates/`.
fn code() -> Vec<PathBuf> {
    let crates = fs::read_dir(root().join("crates")).into_iter().flatten();
    let mut dirs: Vec<_> = crates.map(|it| it.unwrap().path().join("src")).collect();
    dirs.push(root().join("src"));
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// What the `# Source` sections of a file name: `path` for Coder, `repository: path` for others.
fn sources_of(text: &str) -> BTreeSet<String> {
    static SECTION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?m)^\s*//[/!] # Source\n((?:\s*//[/!] [^#\n].*\n)+)").unwrap()
    });
    // A repository's name counts for the paths behind it, until something else has its say.
    static WORD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"`([^`]+)`|\b([Cc]oder/\w+|storj/drpc|hashicorp/yamux|[Cc]oder)\b|([a-z]+'s|Go|go-getter)\b").unwrap()
    });
    let mut found = BTreeSet::new();
    for section in SECTION.captures_iter(text) {
        let section = section[1]
            .lines()
            .map(|line| line.trim().get(4..).unwrap_or(""));
        let section = section.collect::<Vec<_>>().join(" ");
        let mut repository: Option<String> = None;
        for word in WORD.captures_iter(&section) {
            match (word.get(1), word.get(2)) {
                (Some(path), _) => {
                    found.extend(repository.iter().flat_map(|it| named(it, path.as_str())))
                }
                (None, other) => repository = other.map(|it| it.as_str().to_lowercase()),
            }
        }
    }
    found
}

/// The files that `path` means, none if it is no path of `repository`.
fn named(repository: &str, path: &str) -> Vec<String> {
    const CODER: [&str; 9] = [
        "agent",
        "apiversion",
        "cli",
        "coderd",
        "codersdk",
        "enterprise",
        "provisioner",
        "provisionerd",
        "provisionersdk",
    ];
    let first = path.split('/').next().unwrap_or_default();
    let is_path = match repository {
        "coder" => CODER.contains(&first) || first == "tailnet",
        _ => path.ends_with(".go") || path.contains('/'),
    };
    if !is_path || path.contains(' ') {
        return Vec::new();
    }
    let all = match (path.split_once('{'), path.split_once('}')) {
        (Some((before, rest)), Some((_, after))) => rest
            .split('}')
            .next()
            .unwrap_or_default()
            .split(',')
            .map(|part| format!("{before}{part}{after}"))
            .collect(),
        _ => vec![path.to_owned()],
    };
    match repository {
        "coder" => all,
        other => all.iter().map(|path| format!("{other}: {path}")).collect(),
    }
}

fn table(sources: &BTreeMap<String, BTreeSet<String>>) -> String {
    let rows = sources.iter().map(|(source, ours)| {
        let ours = ours.iter().map(|file| format!("[{file}]({file})"));
        format!("| `{source}` | {} |\n", ours.collect::<Vec<_>>().join(", "))
    });
    format!("| Coder | here |\n|---|---|\n{}", rows.collect::<String>())
}
