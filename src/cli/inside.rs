//! Commands for scripts in a workspace: `coder stat`, `coder exp sync`, `coder external-auth`, `coder dotfiles`.
//!
//! Names, options, output and exit codes are Coder's, so that templates and modules work unchanged. An unsupported
//! command of Coder's reports an error with an alternative.

mod dotfiles;
mod external_auth;
mod missing;
mod stat;
mod sync;

use std::ffi::OsString;

pub(super) use self::{
    dotfiles::Dotfiles, external_auth::ExternalAuth, missing::refuse, stat::Stat, sync::Sync,
};

/// Experimental commands of Coder for scripts in a workspace
#[derive(Debug, clap::Subcommand)]
pub(super) enum Exp {
    /// Coordinate the scripts of a workspace
    Sync(Sync),
}

/// First words of these commands, which have one exit code for all errors, as in Coder.
const COMMANDS: [&str; 4] = ["stat", "exp", "external-auth", "dotfiles"];

/// Returns whether the arguments name one of these commands.
pub(super) fn is_asked(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).filter_map(|it| it.to_str());
    words
        .find(|word| !word.starts_with('-'))
        .is_some_and(|word| COMMANDS.contains(&word))
}

/// Expands `-o` to `--output`, in these commands only: others use `-o` for other options.
pub(super) fn lengthen(arguments: Vec<OsString>) -> Vec<OsString> {
    if !is_asked(&arguments) {
        return arguments;
    }
    let mut is_over = false;
    let one = |argument: OsString| {
        is_over |= argument == "--";
        match argument.to_str().and_then(|text| text.strip_prefix("-o")) {
            Some(format) if !is_over => {
                let format = format.trim_start_matches('=');
                let separator = if format.is_empty() { "" } else { "=" };
                format!("--output{separator}{format}").into()
            }
            _ => argument,
        }
    };
    arguments.into_iter().map(one).collect()
}

/// Renders a table as Coder's CLI does: headings in capitals, two spaces after each cell.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let capitals = headings.iter().map(|heading| heading.to_uppercase());
    let lines: Vec<Vec<String>> = std::iter::once(capitals.collect())
        .chain(rows.iter().cloned())
        .collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let padded = lines.iter().map(|line| {
        let cells = line.iter().zip(&widths);
        cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect::<String>()
    });
    padded.collect::<Vec<_>>().join("\n")
}

/// Selects columns by name, in the order of `wanted`; an empty list selects all.
fn select<'a>(
    all: &[&'a str],
    wanted: &[&str],
    rows: Vec<Vec<String>>,
) -> anyhow::Result<(Vec<&'a str>, Vec<Vec<String>>)> {
    if wanted.is_empty() {
        return Ok((all.to_vec(), rows));
    }
    let place = |name: &&str| {
        let name = name.trim().replace('_', " ").to_lowercase();
        let place = all.iter().position(|column| **column == name);
        place.ok_or_else(|| {
            let columns = all.join(", ");
            super::exit::UsageError(format!("`--column`: {name:?} is not one of {columns}"))
        })
    };
    let places: Vec<usize> = wanted.iter().map(place).collect::<Result<_, _>>()?;
    let pick = |row: Vec<String>| places.iter().map(|place| row[*place].clone()).collect();
    let headings = places.iter().map(|place| all[*place]).collect();
    Ok((headings, rows.into_iter().map(pick).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_table_is_padded_as_the_reference_s() {
        let rows = [
            vec!["unit-a".to_owned(), "started".to_owned(), "true".to_owned()],
            vec!["b".to_owned(), "completed".to_owned(), "false".to_owned()],
        ];
        assert_eq!(
            table(&["unit", "status", "ready"], &rows),
            "UNIT    STATUS     READY  \nunit-a  started    true   \nb       completed  false  "
        );
    }

    #[test]
    fn columns_are_chosen_by_name() {
        let rows = vec![vec!["a".to_owned(), "b".to_owned()]];
        let chosen = select(
            &["depends on", "satisfied"],
            &["Satisfied", "depends_on"],
            rows,
        );
        let (headings, rows) = chosen.unwrap();
        assert_eq!(headings, ["satisfied", "depends on"]);
        assert_eq!(rows, [["b", "a"]]);

        let error = select(&["unit"], &["x"], Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "`--column`: \"x\" is not one of unit");
    }

    #[test]
    fn a_short_option_for_the_output_is_read_here_and_left_alone_elsewhere() {
        let lengthened = |line| lengthen(words(line));
        assert_eq!(
            lengthened("coder stat cpu -o json"),
            words("coder stat cpu --output json")
        );
        assert_eq!(
            lengthened("coder exp sync list -ojson"),
            words("coder exp sync list --output=json")
        );
        let other = "outpost mirror bundle -o all.opbundle";
        assert_eq!(lengthened(other), words(other));
    }
}
