//! Commands of Coder's that modules may call in a workspace, and that are not supported.

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use crate::cli::exit;

const FIREWALL: &str = "this program does not include the agent firewall. The module's `use_agent_firewall_directly` \
    (`use_boundary_directly`, `compile_boundary_from_source`) installs the separate program, which does not use the `coder` \
    command";
const MCP: &str = "this program has no MCP server. Tools that need one work with Coder's agent; to do without, turn off the \
    module's setting for reports to Coder (`report_tasks`, `experiment_report_tasks`, `enable_mcp`)";

/// Prints an error with an alternative; `None` if the arguments name another command.
///
/// Comes before option parsing: modules probe with `--help` whether the command exists, so that must fail as well.
pub(in crate::cli) fn refuse(arguments: &[OsString]) -> Option<ExitCode> {
    let why = why(arguments)?;
    // If stderr is closed, nobody is there to be told.
    let _ = writeln!(std::io::stderr().lock(), "error: {why}");
    Some(ExitCode::from(exit::FAILURE))
}

fn why(arguments: &[OsString]) -> Option<&'static str> {
    let mut words = arguments.iter().skip(1).filter_map(|it| it.to_str());
    match words.next()? {
        "boundary" | "agent-firewall" => Some(FIREWALL),
        "exp" if words.next() == Some("mcp") => Some(MCP),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_also_where_help_is_asked_for() {
        let why = |line: &str| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            why(&words)
        };
        assert_eq!(why("coder boundary --help"), Some(FIREWALL));
        assert_eq!(
            why("coder agent-firewall --config x -- npm"),
            Some(FIREWALL)
        );
        assert_eq!(why("coder exp mcp server"), Some(MCP));
        assert_eq!(why("coder exp sync ping"), None);
        assert_eq!(why("outpost ssh boundary"), None);
    }
}
