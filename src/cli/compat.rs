//! Adjustments that make a command line of `coder` work unchanged.

use std::ffi::{OsStr, OsString};

use clap::{Command, builder::Resettable};

/// Coder's names for the group that contains `start`.
const GROUPS: [&str; 3] = ["provisioner", "provisioners", "provisionerd"];

/// Commands for workspaces, which are at the root of Coder's client.
const OF_WORKSPACES: [&str; 13] = [
    "builds", "create", "delete", "list", "logs", "ls", "rename", "restart", "rm", "show", "start",
    "stop", "update",
];

/// Options of every command, each with a value.
const GLOBAL: [&str; 4] = ["--config", "--output", "--log", "--log-format"];

/// Moves options in front of `provisioner start` behind it: Coder has them on its root, we on the command.
///
/// It makes no difference under which name the program is called.
pub(super) fn reorder(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if is_askpass(&arguments) {
        arguments.insert(1, "gitaskpass".into());
        return arguments;
    }
    let first = first_word(&arguments);
    if let Some(word) = arguments.get(first)
        && OF_WORKSPACES.iter().any(|command| word == command)
    {
        arguments.insert(first, "workspace".into());
        return arguments;
    }
    let Some(at) = position(&arguments).filter(|at| *at > 1) else {
        return arguments;
    };
    let mut reordered = vec![arguments[0].clone()];
    reordered.extend_from_slice(&arguments[at..at + 2]);
    reordered.extend_from_slice(&arguments[1..at]);
    reordered.extend_from_slice(&arguments[at + 2..]);
    reordered
}

/// Position of the first argument that is neither one of [`GLOBAL`] nor its value.
fn first_word(arguments: &[OsString]) -> usize {
    let mut at = 1;
    while let Some(option) = arguments.get(at).and_then(|it| it.to_str()) {
        let (name, value) = match option.split_once('=') {
            Some((name, _)) => (name, 0),
            None => (option, 1),
        };
        if !GLOBAL.contains(&name) {
            break;
        }
        at += 1 + value;
    }
    at
}

/// Commands as a shell completes them: with those for workspaces at the root as well.
pub(super) fn with_short_forms(root: Command) -> Command {
    let workspace = root.find_subcommand("workspace");
    let commands = workspace.into_iter().flat_map(Command::get_subcommands);
    let short: Vec<_> = commands
        .filter(|command| OF_WORKSPACES.contains(&command.get_name()))
        .cloned()
        .collect();
    root.subcommands(short)
}

/// Returns whether git runs us as `GIT_ASKPASS`, with nothing but its question.
fn is_askpass(arguments: &[OsString]) -> bool {
    let question = arguments.get(1).filter(|_| arguments.len() == 2);
    let question = question.and_then(|question| question.to_str());
    question.is_some_and(|text| text.starts_with("Username ") || text.starts_with("Password "))
}

/// Returns whether the arguments start a daemon, which ends with the codes of Coder's.
pub(super) fn is_daemon(arguments: &[OsString]) -> bool {
    position(arguments).is_some()
}

/// Position of `provisioner start` in the arguments.
fn position(arguments: &[OsString]) -> Option<usize> {
    let end = arguments
        .iter()
        .position(|argument| argument == "--")
        .unwrap_or(arguments.len());
    let pairs = arguments[..end].windows(2).enumerate().skip(1);
    let is_start =
        |pair: &[OsString]| GROUPS.iter().any(|group| pair[0] == *group) && pair[1] == "start";
    pairs
        .into_iter()
        .find_map(|(at, pair)| is_start(pair).then_some(at))
}

/// Variable of Coder's and our own one with the same meaning, for commands that read Coder's.
const OURS: (&str, &str) = ("CODER_URL", "OUTPOST_URL");

/// Reads `HOMEBREW_CODER_X` where there is no `CODER_X`, because Homebrew hides other names; an empty one counts as
/// none. Without either, `OUTPOST_URL` is the server of every command.
pub(super) fn environment(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let Some(name) = arg.get_env().and_then(OsStr::to_str).map(str::to_owned) else {
            return arg;
        };
        if !name.starts_with("CODER_") || is_set(&name) {
            return arg;
        }
        if name == OURS.0 && !is_set(&format!("HOMEBREW_{name}")) && is_set(OURS.1) {
            return arg.env(OURS.1);
        }
        let brewed = format!("HOMEBREW_{name}");
        if is_set(&brewed) {
            arg.env(brewed)
        } else if std::env::var_os(&name).is_some() {
            arg.env(Resettable::<clap::builder::OsStr>::Reset)
        } else {
            arg
        }
    });
    command.mut_subcommands(environment)
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reordered(line: &str) -> String {
        let arguments = line.split(' ').map(OsString::from).collect();
        let arguments: Vec<_> = reorder(arguments)
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect();
        arguments.join(" ")
    }

    #[test]
    fn options_of_coders_root_may_stand_before_the_command() {
        assert_eq!(
            reordered("/opt/coder --url http://x -v provisionerd start --name a"),
            "/opt/coder provisionerd start --url http://x -v --name a"
        );
        let others = "outpost --output json config show -- provisioner start --name x";
        assert_eq!(reordered(others), others);
        assert_eq!(
            reordered("coder provisioner start -v"),
            "coder provisioner start -v"
        );
    }

    #[test]
    fn commands_of_workspaces_may_stand_at_the_root_as_coders_do() {
        assert_eq!(
            reordered("outpost create dev -t demo"),
            "outpost workspace create dev -t demo"
        );
        assert_eq!(
            reordered("outpost --output json --log=debug list"),
            "outpost --output json --log=debug workspace list"
        );
        for other in [
            "outpost ssh list",
            "outpost --output",
            "outpost --token list",
        ] {
            assert_eq!(reordered(other), other);
        }
    }

    #[test]
    fn every_command_of_workspaces_has_a_short_form() {
        let root = crate::cli::command();
        let workspace = root.find_subcommand("workspace").unwrap();
        for command in workspace.get_subcommands() {
            let names = [command.get_name()].into_iter();
            for name in names.chain(command.get_visible_aliases()) {
                assert!(OF_WORKSPACES.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn a_question_of_git_is_no_command() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let question = "Password for 'https://amy@git.example.com': ";

        assert_eq!(
            reorder(arguments(&["/opt/coder", question])),
            arguments(&["/opt/coder", "gitaskpass", question])
        );
        let other = arguments(&["/opt/coder", "ssh", question]);
        assert_eq!(reorder(other.clone()), other);
    }

    #[test]
    fn only_a_start_is_a_daemon() {
        let is_daemon = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            super::is_daemon(&arguments)
        };

        assert!(is_daemon("coder provisioner start"));
        assert!(is_daemon("outpost --url x provisionerd start"));
        assert!(!is_daemon("outpost provisioner list"));
        assert!(!is_daemon("outpost config show -- provisioner start"));
    }
}
