//! Replacement of repositories by a mirror in git, and its exceptions.
//!
//! Git compares the beginning of an address with a rule, so the rule for `…/acme/mods` also matches
//! `…/acme/mods-extra`. The addresses in a template are known only when git has requested them: then they get rules
//! of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    process::{Command, Stdio},
};

use outpost_base::secret::Secret;
use url::Url;

/// Replacements for the addresses of repositories: the beginning of an address, and what git uses instead of it.
type Repositories = BTreeMap<String, String>;

/// Variable with the number of settings in git's environment.
const COUNT: &str = "GIT_CONFIG_COUNT";

/// Other variables that lead git to the operator's settings.
const OPERATORS: [&str; 7] = [
    "PATH",
    "HOME",
    "XDG_CONFIG_HOME",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    COUNT,
];

/// Path below which a server has repositories as `HOST/OWNER/REPO`.
const BELOW: &str = "/git/";

/// Returns variables with which git uses `repositories`, after the operator's own settings of this kind. Repositories
/// in `elsewhere` come from their own hosts: `origin` returns the address that git would use without us.
pub(super) fn variables(
    repositories: &Repositories,
    elsewhere: &BTreeSet<String>,
    origin: impl Fn(&str) -> String,
    token: Option<&Secret>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Vec<(OsString, OsString)> {
    if repositories.is_empty() {
        return Vec::new();
    }
    let instead = |from: &str, to: &str| (format!("url.{to}.insteadOf"), from.to_owned());
    let rules = repositories.iter();
    let mut settings: Vec<_> = rules.map(|(from, to)| instead(from, to)).collect();
    // Git applies the longer one of two rules.
    let own = elsewhere.iter().flat_map(|place| {
        let rules = repositories.iter();
        rules.filter_map(move |(from, to)| Some(format!("{from}{}", rest_of(place, to)?)))
    });
    settings.extend(own.map(|form| instead(&form, &origin(&form))));
    let servers = repositories.values().filter_map(|to| Url::parse(to).ok());
    let servers: BTreeSet<_> = servers
        .map(|to| to.origin().ascii_serialization())
        .collect();
    // Unlike engines, git uses a proxy even for this machine.
    let here = servers
        .iter()
        .filter(|to| to.starts_with("http://127.0.0.1"));
    settings.extend(here.map(|to| (format!("http.{to}.proxy"), String::new())));
    if let Some(token) = token {
        let header = format!("Authorization: Bearer {}", token.expose());
        let keys = servers.iter().map(|to| format!("http.{to}.extraHeader"));
        settings.extend(keys.map(|key| (key, header.clone())));
    }
    let given = env(COUNT).and_then(|count| count.to_str()?.parse::<usize>().ok());
    let first = given.unwrap_or(0);
    let count = (first + settings.len()).to_string();
    let mut all = vec![(COUNT.into(), count.into())];
    for (index, (key, value)) in (first..).zip(settings) {
        all.push((format!("GIT_CONFIG_KEY_{index}").into(), key.into()));
        all.push((format!("GIT_CONFIG_VALUE_{index}").into(), value.into()));
    }
    all
}

/// Returns the address that git uses according to the operator's settings; the address itself if git fails. Blocks,
/// but sends no request.
pub(super) fn origin(address: &str, env: impl Fn(&str) -> Option<OsString>) -> String {
    let count = env(COUNT).and_then(|count| count.to_str()?.parse::<usize>().ok());
    let settings = (0..count.unwrap_or(0))
        .flat_map(|index| ["KEY", "VALUE"].map(|part| format!("GIT_CONFIG_{part}_{index}")));
    let names = OPERATORS.iter().map(|name| (*name).to_owned());
    let known = names
        .chain(settings)
        .filter_map(|name| Some((env(&name)?, name)));
    let output = Command::new("git")
        .args(["ls-remote", "--get-url", "--", address])
        .env_clear()
        .envs(known.map(|(value, name)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .output();
    let output = output.ok().filter(|output| output.status.success());
    let said = output.and_then(|output| String::from_utf8(output.stdout).ok());
    let said = said.map(|said| said.trim_end().to_owned());
    said.filter(|said| !said.is_empty())
        .unwrap_or_else(|| address.to_owned())
}

/// Returns the repositories that git requested from a server of `repositories`, according to an init's `output`,
/// although they are not among those.
pub(super) fn misdirected_repositories(
    output: &str,
    repositories: &Repositories,
) -> BTreeSet<String> {
    let servers: BTreeSet<_> = repositories.values().filter_map(|to| split(to)).collect();
    let known: BTreeSet<_> = servers.iter().map(|(_, place)| *place).collect();
    let servers: BTreeSet<_> = servers.iter().map(|(server, _)| *server).collect();
    let asked = servers.into_iter().flat_map(|server| {
        let begins = output.match_indices(server);
        begins.filter_map(move |(at, _)| place_at(&output[at + server.len()..]))
    });
    asked
        .filter(|place| !known.contains(place))
        .filter(|place| known.iter().any(|known| place.starts_with(known)))
        .map(str::to_owned)
        .collect()
}

/// Splits an address into the server with its path, and the repository there.
fn split(to: &str) -> Option<(&str, &str)> {
    let (_, place) = to.split_once(BELOW)?;
    Some((&to[..to.len() - place.len()], place))
}

/// Returns the repository that a text begins with.
fn place_at(text: &str) -> Option<&str> {
    let ends = |c: char| c.is_whitespace() || c.is_control() || "'\"`<>\\?)".contains(c);
    let place = &text[..text.find(ends).unwrap_or(text.len())];
    let place = place.split("/info/refs").next()?.trim_end_matches('/');
    let place = place.strip_suffix(".git").unwrap_or(place);
    place.contains('/').then_some(place)
}

/// Returns the rest of a repository's name after that of a rule that matches it.
fn rest_of<'a>(place: &'a str, to: &str) -> Option<&'a str> {
    let (_, known) = split(to)?;
    place.strip_prefix(known).filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "http://127.0.0.1:1/git/";

    fn repositories() -> Repositories {
        let to = |place: &str| format!("{SERVER}{place}");
        [
            ("https://git.example/acme/mods", to("git.example/acme/mods")),
            ("git@git.example:acme/mods", to("git.example/acme/mods")),
            ("https://git.example/b/c", to("git.example/b/c")),
        ]
        .map(|(from, to)| (from.to_owned(), to))
        .into()
    }

    #[test]
    fn a_repository_that_another_ones_rule_caught_is_found_in_what_git_says() {
        let output = format!(
            "{{\"detail\":\"Cloning into 'x'...\\nfatal: repository '{SERVER}git.example/acme/mods-extra.git/' not found\"}}\n\
             fatal: unable to access '{SERVER}git.example/acme/mods/info/refs?service=git-upload-pack': 500\n\
             fatal: repository '{SERVER}git.example/acme/mods.git/' not found\n\
             fatal: repository '{SERVER}git.example/acme/other/' not found\n\
             fatal: repository 'http://elsewhere/git/git.example/acme/mods-two/' not found\n\
             fatal: repository '{SERVER}git.example/acme/mods2/' not found"
        );

        let found = misdirected_repositories(&output, &repositories());

        let expected = ["git.example/acme/mods-extra", "git.example/acme/mods2"];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        assert!(misdirected_repositories(&output, &Repositories::new()).is_empty());
    }

    #[test]
    fn an_operators_own_rules_count_for_it() {
        let env = |name: &str| {
            let value = match name {
                "PATH" => return std::env::var_os("PATH"),
                "GIT_CONFIG_COUNT" => "1",
                "GIT_CONFIG_KEY_0" => "url.https://inside.example/.insteadOf",
                "GIT_CONFIG_VALUE_0" => "https://git.example/",
                _ => return None,
            };
            Some(value.into())
        };

        let moved = origin("https://git.example/acme/mods-extra", env);
        let same = origin("https://other.example/acme/mods", env);

        assert_eq!(moved, "https://inside.example/acme/mods-extra");
        assert_eq!(same, "https://other.example/acme/mods");
        assert_eq!(
            origin("https://git.example/a/b", |_| None),
            "https://git.example/a/b"
        );
    }

    #[test]
    fn it_gets_rules_of_its_own_in_all_forms() {
        let elsewhere = BTreeSet::from(["git.example/acme/mods-extra".to_owned()]);

        let origin = |form: &str| form.replace("https://git.example/", "https://inside.example/");
        let variables = variables(&repositories(), &elsewhere, origin, None, |_| None);

        let values: Vec<_> = variables.iter().map(|(_, value)| value.display()).collect();
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        for (form, to) in [
            (
                "https://git.example/acme/mods-extra",
                "https://inside.example/acme/mods-extra",
            ),
            (
                "git@git.example:acme/mods-extra",
                "git@git.example:acme/mods-extra",
            ),
        ] {
            let at = values.iter().position(|value| value == form);
            let at = at.expect("a rule for it");
            assert_eq!(values[at - 1], format!("url.{to}.insteadOf"));
        }
        assert_eq!(values.len(), 1 + 2 * (3 + 2 + 1), "{values:#?}");
    }
}
