//! The module map as a test: which way arrows point, and what a pure core does not mention.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Layers from the base up. A module may use modules of lower layers only, never those of its own.
const LAYERS: &[&[&str]] = &[
    &["mirror", "plugin", "terraform", "transport"],
    &["tailnet"],
    &["agent", "coder_provider", "connect", "control", "daemon"],
    &["template"],
    &["client", "config"],
    &["observe"],
    &["cli"],
];

/// Values, contracts and rules. They may use each other, and nothing else.
const BASE: &[&str] = &[
    "job",
    "language",
    "proto",
    "provision",
    "registry",
    "rules",
    "secret",
    "stop",
    "value",
];

/// The machine. They may use each other, too.
const SYSTEM: &[&str] = &["files", "net", "process"];

/// Cores that decide and do nothing: no socket, no clock, no task, no randomness.
const SANS_IO: &[&str] = &[
    "agent/unit.rs",
    "config/show.rs",
    "control/agent_ids.rs",
    "control/agent_log.rs",
    "control/board.rs",
    "control/model.rs",
    "control/queue.rs",
    "control/queue/explain.rs",
    "control/queue/tags.rs",
    "control/standing.rs",
    "daemon/log_batch.rs",
    "daemon/pulse.rs",
    "job.rs",
    "job/resource.rs",
    "job/template.rs",
    "registry.rs",
    "rules.rs",
    "terraform/graph.rs",
    "terraform/graph/dot.rs",
    "terraform/plan.rs",
    "terraform/resources.rs",
    "terraform/resources/*",
    "net/certificate.rs",
    "tailnet/coordinator.rs",
    "terraform/state.rs",
    "transport/coder/refusal.rs",
    "transport/coder/version.rs",
    "transport/drpc/wire.rs",
    "transport/yamux.rs",
    "transport/yamux/frame.rs",
];

/// What such a core does not mention.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::net",
    "std::fs",
    "env::var",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "rand::",
    "new_v4",
    "thread::sleep",
];

/// Fresh ids that mean nothing but themselves: an app that has none yet, and a new record.
const FRESH_IDS: &[&str] = &["terraform/resources/apps.rs", "control/model.rs"];

#[test]
fn every_arrow_between_modules_points_to_the_right() {
    let mut wrong = Vec::new();
    for file in sources() {
        let from = module(&file);
        let text = code(&fs::read_to_string(source_dir().join(&file)).unwrap());
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
    let known: BTreeSet<&str> = BASE
        .iter()
        .chain(SYSTEM)
        .chain(LAYERS.iter().copied().flatten())
        .copied()
        .collect();
    let found: BTreeSet<String> = sources().iter().map(|file| module(file)).collect();
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

#[test]
fn a_pure_core_mentions_no_socket_no_clock_and_no_randomness() {
    let mut wrong = Vec::new();
    for name in SANS_IO {
        let files: Vec<PathBuf> = match name.strip_suffix("/*") {
            Some(directory) => sources()
                .into_iter()
                .filter(|file| file.starts_with(directory))
                .collect(),
            None => vec![PathBuf::from(name)],
        };
        assert!(!files.is_empty(), "{name} matches no file");
        for file in files {
            let text = fs::read_to_string(source_dir().join(&file))
                .unwrap_or_else(|error| panic!("{}: {error}; has it moved?", file.display()));
            let text = without_tests(&code(&text));
            let makes_ids = FRESH_IDS.iter().any(|fresh| file == Path::new(fresh));
            let found = IMPURE
                .iter()
                .filter(|word| text.contains(**word) && !(makes_ids && **word == "new_v4"));
            wrong.extend(found.map(|word| format!("{}: {word}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "impure:\n{}", wrong.join("\n"));
}

#[test]
fn paths_are_found_in_every_form_of_use() {
    let text = "use crate::{\n    job::{Job, JobId},\n    stop::Stop,\n};\nuse crate::secret::Secret;\nfn f() { crate::net::dial() }";

    let found: Vec<String> = crate_paths(text).into_iter().collect();

    assert_eq!(found, ["job", "net", "secret", "stop"]);
}

fn may_use(from: &str, to: &str) -> bool {
    let rank = |name: &str| -> usize {
        if BASE.contains(&name) {
            return 0;
        }
        if SYSTEM.contains(&name) {
            return 1;
        }
        LAYERS
            .iter()
            .position(|layer| layer.contains(&name))
            .map_or(usize::MAX, |place| place + 2)
    };
    match (from, to) {
        ("lib" | "main", _) => true,
        _ if from == to => true,
        _ if rank(from) <= 1 && rank(from) == rank(to) => true,
        _ => rank(from) > rank(to),
    }
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All of our own sources, relative to `src/`. What is generated has no arrows.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![source_dir()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(source_dir()).unwrap().to_owned());
            }
        }
    }
    found.retain(|file| !file.starts_with("proto"));
    found.sort();
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
