//! A command's result on stdout: a table for people, or JSON for programs.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How a result looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON value.
    Json,
}

/// What `--output` takes. Only `outpost inspect` has more than [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Wanted {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For programs: one JSON value.
    Json,
    /// A chart in Mermaid's language.
    #[value(hide = true)]
    Mermaid,
    /// A drawing.
    #[value(hide = true)]
    Svg,
    /// A conversion as Coder's golden files have it.
    #[value(hide = true)]
    ReferenceJson,
}

impl Wanted {
    /// As every command has it; `None` for what only `outpost inspect` has.
    pub(super) fn format(self) -> Option<Format> {
        match self {
            Self::Table => Some(Format::Table),
            Self::Json => Some(Format::Json),
            Self::Mermaid | Self::Svg | Self::ReferenceJson => None,
        }
    }
}

/// A thing that can stand in a table.
pub(super) trait Row: Serialize {
    /// The headings.
    const COLUMNS: &'static [&'static str];

    /// One text for each heading.
    fn cells(&self) -> Vec<String>;
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// How they look.
    pub(super) format: Format,
}

impl Output {
    /// Prints all rows; an empty table says so.
    ///
    /// # Errors
    /// If stdout fails, except that nobody reads it any more.
    pub(super) fn list<R: Row>(self, rows: &[R]) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&rows),
            Format::Table => line(&table(rows)),
        }
    }

    /// Prints one thing: as JSON, or the text that `human` makes.
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

/// The rows under their headings.
pub(super) fn table<R: Row>(rows: &[R]) -> String {
    let mut table = grid(R::COLUMNS);
    for row in rows {
        table.add_row(row.cells());
    }
    rendered(&table)
}

/// Names and values, one pair a line.
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

fn grid(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(columns.iter().copied());
    // A pipe or a file has no width: there a row stays one line.
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

fn rendered(table: &Table) -> String {
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints `text` and ends the line. Somebody who stops reading, such as `head`, is no error.
///
/// # Errors
/// If stdout fails otherwise.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// One word of a command as a shell takes it: in single quotes where it needs them.
pub(super) fn shell_word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%~".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Prints `text` for people on stderr, as far as anybody listens.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
