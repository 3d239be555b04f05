//! Apps that open sessions at an agent, by the names under which servers count them.
//!
//! # Source
//! coder `agent/agentssh/agentssh.go`, `extractMagicSessionType`; `coderd/idemetadata`.

use std::collections::BTreeMap;

use outpost_wire::proto::coder::agent::v2::connection::Type;

/// Number of names that are counted at the same time, as at the server; sessions of further ones count as
/// [`UNKNOWN`].
const MAX_NAMES: usize = 64;
/// Longest name in letters.
const MAX_LETTERS: usize = 64;
const UNKNOWN: &str = "unknown";
const SSH: &str = "ssh";
const JETBRAINS: &str = "jetbrains";

/// App at the other end of a session, such as `ssh`, `vscode` or `cursor`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct App(String);

impl App {
    /// Returns the app that a client names: in lower case, with `_` for `-`.
    pub(crate) fn named(name: &str) -> Self {
        let name = name.trim().to_lowercase().replace('-', "_");
        let is_odd = name.chars().count() > MAX_LETTERS || name.contains(char::is_control);
        match name.as_str() {
            "" => Self::ssh(),
            _ if is_odd => Self(UNKNOWN.to_owned()),
            _ => Self(name),
        }
    }

    /// Returns the app of a client that names none.
    pub(crate) fn ssh() -> Self {
        Self(SSH.to_owned())
    }

    /// Returns the app of a JetBrains IDE.
    pub(crate) fn jetbrains() -> Self {
        Self(JETBRAINS.to_owned())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Returns its kind for servers that know only four of them.
    pub(crate) fn kind(&self) -> Type {
        match self.name() {
            "vscode" => Type::Vscode,
            JETBRAINS => Type::Jetbrains,
            "reconnecting_pty" => Type::ReconnectingPty,
            _ => Type::Ssh,
        }
    }
}

/// Open sessions by app.
#[derive(Default)]
pub(super) struct Sessions(BTreeMap<App, i64>);

impl FromIterator<App> for Sessions {
    fn from_iter<I: IntoIterator<Item = App>>(apps: I) -> Self {
        let mut counts = BTreeMap::new();
        for app in apps {
            let is_full = counts.len() >= MAX_NAMES && !counts.contains_key(&app);
            let app = match is_full {
                true => App(UNKNOWN.to_owned()),
                false => app,
            };
            *counts.entry(app).or_default() += 1;
        }
        Self(counts)
    }
}

impl Sessions {
    /// Number of sessions of one of the four kinds.
    pub(super) fn of_kind(&self, kind: Type) -> i64 {
        let all = self.0.iter().filter(|(app, _)| app.kind() == kind);
        all.map(|(_, count)| count).sum()
    }

    /// Returns the sessions by the names of their apps.
    pub(super) fn by_name(self) -> BTreeMap<String, i64> {
        let all = self.0.into_iter();
        all.map(|(app, count)| (app.0, count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_as_servers_write_it_and_its_kind_one_of_four() {
        for (given, name, kind) in [
            ("", "ssh", Type::Ssh),
            ("JetBrains", "jetbrains", Type::Jetbrains),
            ("VSCode ", "vscode", Type::Vscode),
            (
                "Reconnecting-PTY",
                "reconnecting_pty",
                Type::ReconnectingPty,
            ),
            ("cursor", "cursor", Type::Ssh),
            ("a\nb", "unknown", Type::Ssh),
            (&"x".repeat(65), "unknown", Type::Ssh),
        ] {
            let app = App::named(given);
            assert_eq!((app.name(), app.kind()), (name, kind), "{given:?}");
        }
    }

    #[test]
    fn sessions_of_too_many_apps_are_still_counted() {
        let apps = (0..100).map(|at| App::named(&format!("app{at}")));

        let counts = apps.collect::<Sessions>().by_name();

        assert_eq!(counts.values().sum::<i64>(), 100);
        assert_eq!(counts.len(), MAX_NAMES + 1);
        assert_eq!(counts["unknown"], 36);
    }
}
