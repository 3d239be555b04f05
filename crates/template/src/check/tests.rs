//! The examples of the rules, as tests.

use std::{collections::BTreeMap, fs};

use super::*;

/// Checks files, with their suppressions.
fn check(files: &[(String, String)], options: &[String]) -> Checked {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut sources = Sources::read(dir.path(), BTreeMap::new()).unwrap();
    let mut parsed = parsed(options);
    if options.iter().any(|word| word == "--mirror") {
        let examined = examine(&mut sources, &parsed).unwrap();
        parsed.lacks = examined.mocks.into_iter().map(lack).collect();
    }
    let mut examined = examine(&mut sources, &parsed).unwrap();
    if options.iter().any(|word| word == "--policy") {
        let mut policies = crate::policy::Policies::read(dir.path()).unwrap();
        let picture = crate::Picture::of_source(&outpost_language::outline(dir.path()).unwrap());
        let found = verdicts(&mut policies, &sources, &picture, &examined.modules).unwrap();
        examined.findings.extend(found);
    }
    finish(&sources, examined.findings, &BTreeMap::new())
}

fn parsed(words: &[String]) -> Options {
    let mut options = Options {
        engine: Some("1.11.4".parse().unwrap()),
        default_host: "registry.terraform.io".to_owned(),
        ..Options::default()
    };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--sealed" => options.is_sealed = true,
            "--mirror" => assert!(words.next().is_some()),
            "--server" => options.daemons = words.next().map(|_| vec![daemon()]),
            "--policy" => assert!(words.next().is_some()),
            "--require" => options.requires_cost = words.next() == Some("cost"),
            "--platform" => options
                .platforms
                .push(words.next().unwrap().parse().unwrap()),
            other => panic!("no option of a test: {other}"),
        }
    }
    options
}

/// Provider that a mirror with nothing but `coder/coder` lacks.
fn lack(mock: Mock) -> MissingItem {
    MissingItem {
        entry: format!("`[[providers]]` with `source = \"{}\"`", mock.addr),
        kind: MissingKind::Provider(mock.addr),
        detail: "not in the mirror".to_owned(),
    }
}

fn daemon() -> Daemon {
    Daemon {
        name: "builder".to_owned(),
        tags: [("cluster".to_owned(), "a".to_owned())].into(),
    }
}

fn of_rule<'a>(checked: &'a Checked, id: &str) -> Vec<(&'a str, usize)> {
    let found = checked
        .findings
        .iter()
        .filter(|it| rules::id_of(&it.rule) == id);
    found
        .map(|it| (it.place.file.as_str(), it.place.line))
        .collect()
}

#[test]
fn every_rule_finds_its_bad_example_at_its_place() {
    for rule in RULES {
        let bad = rule.bad();
        let (file, line) = bad
            .place
            .clone()
            .unwrap_or_else(|| panic!("{}: no place", rule.id));

        let checked = check(&bad.files, &bad.options);

        assert_eq!(
            of_rule(&checked, rule.id),
            [(file.as_str(), line)],
            "{}: {checked:#?}",
            rule.id
        );
        let found = checked
            .findings
            .iter()
            .find(|it| rules::id_of(&it.rule) == rule.id)
            .unwrap();
        assert!(
            !found.message.is_empty() && !found.remedy.is_empty(),
            "{}",
            rule.id
        );
        assert_eq!(found.severity, rule.severity);
    }
}

#[test]
fn no_rule_finds_its_good_example() {
    for rule in RULES {
        let good = rule.good();
        assert!(!good.files.is_empty(), "{}", rule.id);

        let checked = check(&good.files, &good.options);

        assert_eq!(of_rule(&checked, rule.id), [], "{}: {checked:#?}", rule.id);
    }
}

#[test]
fn every_page_says_why_and_belongs_to_a_rule() {
    let pages = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/rules")).unwrap();
    let pages = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    let ids: Vec<_> = pages
        .map(|page| page.trim_end_matches(".md").to_owned())
        .collect();

    assert_eq!(ids.len(), RULES.len());
    for rule in RULES {
        assert!(ids.contains(&rule.id.to_owned()));
        assert!(
            rule.why().len() > 40 && rule.summary().ends_with(['.', ':']),
            "{}: {}",
            rule.id,
            rule.summary()
        );
    }
    assert!(RULES.is_sorted_by_key(|rule| rule.id));
}
