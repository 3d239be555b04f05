//! Result of a command on stdout: a table for people, or JSON for programs.

mod grid;

use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;
use terminal_size::{Width, terminal_size_of};

use self::grid::grid;

use crate::rules::text::visible;

/// Format of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// Table or text, for people.
    #[default]
    Table,
    /// One JSON value, for programs.
    Json,
}

/// Values of `--output`. Only `outpost inspect` and `outpost template check`, `test` and `diff` have more than [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Wanted {
    /// Table or text, for people.
    #[value(alias = "text")]
    Table,
    /// For programs: one JSON value.
    Json,
    /// A chart in Mermaid's language.
    #[value(hide = true)]
    Mermaid,
    /// Drawing in SVG format
    #[value(hide = true)]
    Svg,
    /// A conversion as Coder's golden files have it.
    #[value(hide = true)]
    ReferenceJson,
    /// SARIF, for code scanning.
    #[value(hide = true)]
    Sarif,
    /// JUnit's XML, for tools that show tests.
    #[value(hide = true)]
    Junit,
    /// GitLab's code quality report.
    #[value(hide = true)]
    Gitlab,
    /// Annotations of GitHub Actions.
    #[value(hide = true)]
    Github,
    /// Markdown, for comments on pull requests.
    #[value(hide = true)]
    Markdown,
}

impl Wanted {
    /// Format that every command has; `None` for those of `outpost inspect` alone.
    pub(super) fn format(self) -> Option<Format> {
        match self {
            Self::Table => Some(Format::Table),
            Self::Json => Some(Format::Json),
            Self::Mermaid | Self::Svg | Self::ReferenceJson | Self::Markdown => None,
            Self::Sarif | Self::Junit | Self::Gitlab | Self::Github => None,
        }
    }

    /// Returns whether only `outpost template check` has it, or that and `outpost template test`.
    pub(super) fn is_of_checks(self) -> bool {
        matches!(
            self,
            Self::Sarif | Self::Junit | Self::Gitlab | Self::Github
        )
    }
}

/// A value that can be a row of a table.
pub(super) trait Row: Serialize {
    /// Headings of the table.
    const COLUMNS: &'static [&'static str];

    /// Texts of the row, one for each heading.
    fn cells(&self) -> Vec<String>;
}

/// Destination of results on stdout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// Format of the results.
    pub(super) format: Format,
}

impl Output {
    /// Prints all rows; an empty table is reported as such.
    ///
    /// # Errors
    /// If stdout fails for another reason than a closed pipe.
    pub(super) fn list<R: Row>(self, rows: &[R]) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&rows),
            Format::Table => line(&table(rows)),
        }
    }

    /// Prints one value: as JSON, or as the text that `human` makes.
    ///
    /// # Errors
    /// As [`Output::list`].
    pub(super) fn item<T: Serialize>(
        self,
        item: &T,
        human: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(item),
            Format::Table => line(&human(item)),
        }
    }

    fn json<T: Serialize>(self, value: &T) -> io::Result<()> {
        line(&serde_json::to_string_pretty(value)?)
    }
}

/// Formats the rows under their headings: in a grid that fits the terminal, or plain where programs read.
pub(super) fn table<R: Row>(rows: &[R]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    match io::stdout().is_terminal() {
        true => {
            let size = terminal_size_of(io::stdout());
            let width = size.map(|(Width(width), _)| usize::from(width));
            grid(R::COLUMNS, &cells, width)
        }
        false => plain(R::COLUMNS, &cells),
    }
}

/// Control sequence that clears a terminal: the cursor goes home, and everything behind it is erased.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Widest column that others are aligned behind, in characters: a cell that is longer moves only the rest of its own
/// line.
const WIDEST: usize = 48;

/// Formats one line for each row, with columns two blanks apart and `-` for an empty cell, as `grep`, `awk` and
/// `column` expect.
fn plain(columns: &[&str], rows: &[Vec<String>]) -> String {
    let headings = columns.iter().map(|heading| (*heading).to_owned());
    let mut lines: Vec<Vec<String>> = vec![headings.collect()];
    lines.extend(
        rows.iter()
            .map(|row| row.iter().map(|cell| one_line(cell)).collect()),
    );
    let width = |column| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells
            .map(|cell: &String| cell.chars().count())
            .filter(|width| *width <= WIDEST)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths);
        let padded = padded.map(|(cell, &width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn one_line(cell: &str) -> String {
    let words: Vec<&str> = cell
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match words.as_slice() {
        [] => "-".to_owned(),
        words => words.join(", "),
    }
}

/// Formats names and values, one pair on each line.
pub(super) fn facts(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default();
    let lines = pairs
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints `text` and ends the line. A reader that stops reading, such as `head`, is no error.
///
/// # Errors
/// If stdout fails otherwise.
pub(super) fn line(text: &str) -> io::Result<()> {
    is_read(line_to_reader(text)).map(drop)
}

/// Returns whether somebody still reads, after something was printed.
///
/// # Errors
/// If stdout failed otherwise.
pub(super) fn is_read(printed: io::Result<()>) -> io::Result<bool> {
    match printed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Quotes a word of a command for a shell: in single quotes where it needs them.
pub(super) fn shell_word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%~".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Prints a line as [`line()`] does, for output that continues for as long as somebody reads. Control characters
/// become visible on a terminal: names and logs come from others.
///
/// # Errors
/// If stdout fails.
pub(super) fn line_to_reader(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.is_terminal() {
        true => writeln!(stdout, "{}", visible(text))?,
        false => writeln!(stdout, "{text}")?,
    }
    stdout.flush()
}

/// Prints a line as [`line_to_reader`] does, in place of everything that the terminal shows.
///
/// # Errors
/// If stdout fails.
pub(super) fn instead(text: &str) -> io::Result<()> {
    write!(io::stdout().lock(), "{CLEAR}")?;
    line_to_reader(text)
}

/// Prints `text` for people on stderr, ignoring errors.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", visible(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cell_moves_the_rest_of_its_own_line_only() {
        let row = |found: &str| ["a", found, "b"].map(str::to_owned).to_vec();
        let long = "x".repeat(WIDEST + 1);

        let text = plain(&["Check", "Found", "Then"], &[row("short"), row(&long)]);

        let expected = format!("Check  Found  Then\na      short  b\na      {long}  b");
        assert_eq!(text, expected);
    }

    #[test]
    fn a_table_for_programs_has_one_plain_line_a_row() {
        let rows = [
            vec![
                "amy/dev".to_owned(),
                "a: 1\nb: 2".to_owned(),
                "x".to_owned(),
            ],
            vec!["bo/übung".to_owned(), String::new(), String::new()],
        ];

        assert_eq!(
            plain(&["Workspace", "Facts", "End"], &rows),
            "Workspace  Facts       End\namy/dev    a: 1, b: 2  x\nbo/übung   -           -"
        );
    }
}
