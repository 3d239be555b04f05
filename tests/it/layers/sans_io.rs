//! Cores that decide and do nothing: a file whose header says `Pure` or `sans-I/O` mentions nothing that acts.
//!
//! A header that says `Pure, modules included` speaks for the files in the directory of that name, too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{code, is_test, mentions, path_of, sources, without_tests};

/// Tasks, sockets, files, clocks, randomness, the environment and other processes.
const ACTS: &[&str] = &[
    "tokio::",
    "thread::",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "ToSocketAddrs",
    "reqwest::",
    "fs::",
    "File::create",
    "File::open",
    "File::options",
    "OpenOptions",
    "env::var",
    "env::vars",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "Utc::now",
    "rand::",
    "new_v4",
    "Command::new",
];

/// Mentions that are right: the file, the word, the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("control/model.rs", "new_v4", "a new record's id"),
    (
        "process/isolation/policy.rs",
        "fs::",
        "`Policy::resolve`, as its header says",
    ),
    (
        "terraform/resources/apps.rs",
        "new_v4",
        "the id of an app that has none yet",
    ),
];

/// The number of files that were found when this was written, less some for those that are merged or dropped.
const AT_LEAST: usize = 70;

#[test]
fn a_pure_file_mentions_no_socket_no_clock_and_no_randomness() {
    let pure = pure_files();
    assert!(pure.len() > AT_LEAST, "only {} files: {pure:?}", pure.len());

    let (mut wrong, mut idle) = (Vec::new(), EXCEPTIONS.to_vec());
    for file in &pure {
        for word in acts_in(&text_of(file)) {
            let is_excepted = |it: &(&str, &str, &str)| file == Path::new(it.0) && word == it.1;
            match idle.iter().position(is_excepted) {
                Some(at) => drop(idle.remove(at)),
                None => wrong.push(format!("{}: {word}", file.display())),
            }
        }
    }

    assert!(
        wrong.is_empty(),
        "not pure, whatever their headers say:\n{}",
        wrong.join("\n")
    );
    assert!(idle.is_empty(), "no exceptions any more: {idle:?}");
}

#[test]
fn headers_are_understood() {
    let header = |text: &str| claim(text);

    assert_eq!(header("//! Tags. Pure.\n"), Claim::This);
    assert_eq!(header("//! Tags.\n//!\n//! Pure: no clock.\n"), Claim::This);
    assert_eq!(header("//! A sans-IO session.\n"), Claim::This);
    assert_eq!(header("//! A sans-I/O session.\n"), Claim::This);
    assert_eq!(header("//! Rules. Pure, modules included.\n"), Claim::Below);
    assert_eq!(
        header("//! Rules. Pure, modules\n//! included.\n"),
        Claim::Below
    );
    assert_eq!(header("//! A purely decorative page.\n"), Claim::None);
    assert_eq!(header("//! Tags.\n\n/// A tag. Pure.\n"), Claim::None);
}

#[test]
fn code_that_acts_is_found_and_what_tests_and_comments_say_is_not() {
    let found = acts_in("use std::time;\nlet now = time::Instant::now(); // not rand::random()\n");
    assert_eq!(found, ["Instant::now"]);

    let tested = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn g() { fs::read(\"x\"); }\n}\n";
    assert!(acts_in(tested).is_empty());
    assert!(acts_in("operand::of(prefs::new())").is_empty());
}

#[derive(Debug, PartialEq)]
enum Claim {
    None,
    This,
    Below,
}

fn claim(text: &str) -> Claim {
    let header = text.lines().map_while(|line| line.strip_prefix("//!"));
    let header: String = header.flat_map(|line| [line, " "]).collect();
    let header = header.replace("  ", " ");
    let mut words = header.split(|it: char| !it.is_alphanumeric() && it != '-');
    match () {
        () if header.contains("Pure, modules included") => Claim::Below,
        () if header.contains("sans-I/O") => Claim::This,
        () if words.any(|word| word == "Pure" || word == "sans-IO") => Claim::This,
        () => Claim::None,
    }
}

/// Files that claim it, and those below one that claims it for them.
fn pure_files() -> Vec<PathBuf> {
    let all: Vec<_> = sources()
        .into_iter()
        .filter(|file| !is_test(file))
        .collect();
    let claims: Vec<_> = all.iter().map(|file| claim(&text_of(file))).collect();
    let below = all
        .iter()
        .zip(&claims)
        .filter(|(_, claim)| **claim == Claim::Below);
    let below: Vec<_> = below.map(|(file, _)| file.with_extension("")).collect();
    let is_pure = |file: &Path, claim: &Claim| {
        *claim != Claim::None || below.iter().any(|it| file.starts_with(it))
    };
    all.iter()
        .zip(&claims)
        .filter(|(file, claim)| is_pure(file, claim))
        .map(|(file, _)| file.clone())
        .collect()
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(path_of(file)).unwrap()
}

fn acts_in(text: &str) -> Vec<&'static str> {
    let text = without_tests(&code(text));
    ACTS.iter()
        .copied()
        .filter(|word| mentions(&text, word))
        .collect()
}
