//! Rules about the code that Cargo and Clippy do not know: which way arrows point within the command line, what a pure
//! core does not mention, and how a session's directory is opened.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

mod sans_io;
mod skips;
mod tasks;

/// Layers of the root package from the base up; all other modules are crates, whose arrows Cargo checks. A module may use
/// modules of lower layers only, never those of its own.
const LAYERS: &[&[&str]] = &[&["client", "config"], &["observe"], &["cli"]];

#[test]
fn every_arrow_between_modules_points_to_the_right() {
    let mut wrong = Vec::new();
    for file in own_sources() {
        let from = module(&file);
        let text = code(&fs::read_to_string(path_of(&file)).unwrap());
        for to in crate_paths(&text) {
            if !may_use(&from, &to) {
                wrong.push(format!("{}: {from} uses {to}", file.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that point left:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_module_has_its_place_in_the_map() {
    let known: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    let found: BTreeSet<String> = own_sources().iter().map(|file| module(file)).collect();
    let unknown: Vec<_> = found
        .iter()
        .filter(|name| !known.contains(name.as_str()) && *name != "lib" && *name != "main")
        .collect();

    assert!(unknown.is_empty(), "not in the map: {unknown:?}");
    assert!(
        known.iter().all(|name| found.contains(*name)),
        "in the map, but not in src/: {known:?}"
    );
}

/// Where code lies that comes near the directories of sessions, in which templates write. What is in such a directory is
/// opened by `files/beneath.rs` alone.
const NEAR_SESSIONS: &[&str] = &[
    "daemon",
    "files",
    "language",
    "process",
    "provision",
    "template",
    "terraform",
    "mirror/view.rs",
];

/// Files there that open paths by themselves, and why that is no path in a session.
const OPENS_PATHS: &[(&str, &str)] = &[
    (
        "files/lib.rs",
        "private files and locks of the daemon's own directories",
    ),
    (
        "files/appearance.rs",
        "looks at unpacked packages that the daemon shares or that a mirror has",
    ),
    (
        "files/archive/extract.rs",
        "asks for the kinds of an archive's entries, not of paths",
    ),
    (
        "files/archive/pack.rs",
        "packs the directory of the person who pushes it",
    ),
    (
        "files/beneath.rs",
        "it is the door; it finds the directory itself",
    ),
    (
        "files/mapped.rs",
        "reads a file of the mirror or of the person who runs it",
    ),
    (
        "files/removal.rs",
        "renames and lists directories of sessions as a whole, never what is in them",
    ),
    (
        "daemon/gate.rs",
        "reads `memory.json` in the state directory",
    ),
    (
        "daemon/journal.rs",
        "the journal, which is hidden from jobs",
    ),
    (
        "daemon/log_file.rs",
        "the logs in the state directory, which are hidden from jobs",
    ),
    (
        "language/cli_config/locate.rs",
        "the operator's CLI configuration",
    ),
    (
        "language/files.rs",
        "the directory of a person who looks at a template",
    ),
    (
        "process/control_group.rs",
        "control groups, which no job can write",
    ),
    (
        "process/isolation/fresh_root.rs",
        "the launcher, which holds its process by then to the policy of the job",
    ),
    ("process/isolation/init.rs", "reads /proc"),
    (
        "process/isolation/landlock.rs",
        "the launcher, in a process that is bound by its policy then",
    ),
    ("process/isolation/launcher.rs", "this program's own file"),
    (
        "process/isolation/namespaces.rs",
        "the launcher, in a process that is bound by its policy then",
    ),
    ("process/isolation/network.rs", "reads /proc"),
    (
        "process/isolation/policy.rs",
        "names places for the launcher",
    ),
    (
        "process/isolation/probe.rs",
        "a stage of its own, in which no template runs",
    ),
    ("process/memory.rs", "reads /proc and /sys"),
    (
        "process/outlive.rs",
        "finds processes in /proc by where they work; opens only pipes, without waiting",
    ),
    ("process/program_text.rs", "reads /proc"),
    ("process/tree.rs", "reads /proc"),
    ("process/uptime.rs", "reads /proc"),
    ("process/usage.rs", "reads /proc and /sys"),
    ("process/usage/cgroup.rs", "reads /proc and /sys"),
    ("process/usage/machine.rs", "reads /proc and /sys"),
    (
        "template/check/settings.rs",
        "the settings of the person who checks a template",
    ),
    (
        "template/check/source.rs",
        "the directory of the person who checks a template",
    ),
    (
        "template/check/source/reading.rs",
        "the directory of the person who checks a template",
    ),
    (
        "template/mock/service.rs",
        "the schema that a mock is served from",
    ),
    (
        "template/mock/store.rs",
        "mocks in the cache of the person who checks a template",
    ),
    (
        "template/result_cache.rs",
        "results in the cache of the person who checks a template",
    ),
    (
        "template/result_cache.rs",
        "results in the cache of the person who checks a template",
    ),
    ("terraform/binary.rs", "the engine's own file"),
    (
        "terraform/bootstrap.rs",
        "the operator's scripts for agents",
    ),
    ("terraform/env.rs", "the operator's CLI configuration"),
    (
        "terraform/home.rs",
        "asks whether there is a home directory, before any job runs",
    ),
    (
        "terraform/home/made.rs",
        "makes empty files in the home of the daemon's user, before any job runs, and removes them after the last one",
    ),
    ("terraform/install.rs", "the cache with downloaded engines"),
    (
        "terraform/isolation.rs",
        "makes a new directory for temporary files",
    ),
    (
        "terraform/leftovers.rs",
        "removes one name below a directory of the daemon's, without following it",
    ),
    (
        "terraform/plugin_cache.rs",
        "shared providers, which no job can write; of a session's cache between two of its steps, no link followed",
    ),
    (
        "terraform/providers/configuration.rs",
        "the operator's CLI configuration and plugins",
    ),
    (
        "terraform/session/init.rs",
        "removes one name in the directory of a session, without following it",
    ),
    (
        "template/scenario/golden.rs",
        "tables of resources beside the author's own scenarios",
    ),
];

/// How a path is opened, asked for or removed without the door.
const OPENERS: &[&str] = &[
    "fs::canonicalize",
    "fs::copy",
    "fs::create_dir",
    "fs::exists",
    "fs::hard_link",
    "fs::metadata",
    "fs::open(",
    "fs::read",
    "fs::remove",
    "fs::rename",
    "fs::set_permissions",
    "fs::symlink",
    "fs::try_exists",
    "fs::write",
    "tokio::fs",
    "File::create",
    "File::open",
    "File::options",
    "OpenOptions",
    "DirBuilder",
    "NamedTempFile",
    "TempDir::",
    "tempdir",
    "remove_dir_all",
    ".canonicalize()",
    ".exists()",
    ".try_exists()",
    ".is_dir()",
    ".is_file()",
    ".is_symlink()",
    ".metadata()",
    ".symlink_metadata()",
    ".read_dir()",
    ".read_link()",
    "os::unix::fs::symlink",
    "mkfifo",
    "nix::fcntl",
];

#[test]
fn what_is_in_the_directory_of_a_session_is_opened_through_one_door() {
    let near = sources()
        .into_iter()
        .filter(|file| NEAR_SESSIONS.iter().any(|place| file.starts_with(place)));
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for file in near.filter(|file| !is_test(file)) {
        let text = fs::read_to_string(path_of(&file)).unwrap();
        let text = without_tests(&code(&text));
        let name = file.to_str().unwrap();
        let found: Vec<_> = OPENERS
            .iter()
            .filter(|word| mentions(&text, word))
            .collect();
        let is_known = OPENS_PATHS.iter().any(|(known, _)| *known == name);
        if is_known && !found.is_empty() {
            used.insert(name.to_owned());
        } else if !found.is_empty() {
            wrong.push(format!("{name}: {found:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "open what is in a session's directory by `files::beneath`, or say in OPENS_PATHS why it is no such thing:\n{}",
        wrong.join("\n")
    );
    let idle: Vec<_> = OPENS_PATHS
        .iter()
        .filter(|(name, _)| !used.contains(*name))
        .collect();
    assert!(idle.is_empty(), "open no paths any more: {idle:?}");
}

fn is_test(file: &Path) -> bool {
    file.ends_with("tests.rs") || file.iter().any(|part| part == "tests")
}

/// Whether a text has a word that is not the end of a longer one.
fn mentions(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        word.starts_with('.')
            || !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    })
}

#[test]
fn paths_are_found_in_every_form_of_use() {
    let text = "use crate::{\n    job::{Job, JobId},\n    stop::Stop,\n};\nuse crate::secret::Secret;\nfn f() { crate::net::dial() }";

    let found: Vec<String> = crate_paths(text).into_iter().collect();

    assert_eq!(found, ["job", "net", "secret", "stop"]);
}

#[test]
fn every_package_is_tested_with_the_same_features_of_dependencies() {
    let manifest = |path: &Path| -> toml::Table {
        toml::from_str(&fs::read_to_string(path.join("Cargo.toml")).unwrap()).unwrap()
    };
    let names = |table: &toml::Value| -> BTreeSet<String> {
        let all = table.as_table().unwrap().keys().cloned();
        all.filter(|name| !name.starts_with("outpost-")).collect()
    };
    let (workspace, unify) = (manifest(root()), manifest(&root().join("crates/unify")));

    let all = names(&workspace["workspace"]["dependencies"]);
    assert_eq!(
        names(&unify["dependencies"]),
        all,
        "list what is missing in crates/unify/Cargo.toml"
    );
    let default_members = &workspace["workspace"]["default-members"];
    let default_members = default_members.as_array().unwrap();
    for krate in fs::read_dir(root().join("crates")).unwrap() {
        let path = krate.unwrap().path();
        let member = format!("crates/{}", path.file_name().unwrap().display());
        let is_default = default_members
            .iter()
            .any(|it| it.as_str() == Some(&member));
        let has = |table: &toml::Table| {
            let tests = table.get("dev-dependencies");
            tests.is_some_and(|tests| tests.get("outpost-unify").is_some())
        };
        let is_unify = path.ends_with("unify");
        assert!(
            is_unify || has(&manifest(&path)),
            "{member} needs outpost-unify as a dev-dependency"
        );
        assert!(
            is_default != is_unify,
            "all crates but unify are default members, and {member} is wrong"
        );
    }
}

fn may_use(from: &str, to: &str) -> bool {
    let rank = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    match (rank(from), rank(to)) {
        // The roots, and what is in another crate.
        (None, _) | (_, None) => true,
        (from_rank, to_rank) => from == to || from_rank > to_rank,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where a source is that [`sources`] lists.
fn path_of(file: &Path) -> PathBuf {
    let parts: Vec<_> = file.iter().collect();
    match parts.split_first() {
        Some((krate, rest)) if root().join("crates").join(krate).is_dir() => {
            let source = root().join("crates").join(krate).join("src");
            source.join(rest.iter().collect::<PathBuf>())
        }
        _ => root().join("src").join(file),
    }
}

/// The sources of the root package.
fn own_sources() -> Vec<PathBuf> {
    let all = sources().into_iter();
    all.filter(|file| path_of(file).starts_with(root().join("src")))
        .collect()
}

/// All of our own sources, without `src/`: those of a crate begin with its name, as `net/web.rs`. What is generated has no
/// arrows.
fn sources() -> Vec<PathBuf> {
    let mut found = below(&root().join("src"), Path::new(""));
    for krate in fs::read_dir(root().join("crates")).unwrap() {
        let krate = krate.unwrap();
        let name = PathBuf::from(krate.file_name());
        found.extend(below(&krate.path().join("src"), &name));
    }
    found.retain(|file| !file.starts_with("wire/proto"));
    found.sort();
    found
}

/// The sources below a directory, as if they were in another one.
fn below(top: &Path, shown: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(shown.join(path.strip_prefix(top).unwrap()));
            }
        }
    }
    found
}

fn module(file: &Path) -> String {
    let first = file.iter().next().unwrap().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// The text without comments, as those may name anything.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .to_owned()
}

/// The first segment of every path that begins with `crate::`.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let is_word = text[..at]
            .chars()
            .next_back()
            .is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        let rest = &text[at + "crate::".len()..];
        if is_word {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The first segment of each path in a braced group, whose opening brace is already read.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (1, 0, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                heads.extend(head(group[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
        if depth == 0 {
            heads.extend(head(group[start..at].trim()));
            break;
        }
    }
    heads
}

/// The leading identifier, if it names a module.
fn head(path: &str) -> Option<String> {
    let end = path
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .unwrap_or(path.len());
    let name = &path[..end];
    let is_module = name
        .chars()
        .next()
        .is_some_and(|letter| letter.is_ascii_lowercase());
    is_module.then(|| name.to_owned())
}
