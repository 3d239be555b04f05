//! Places in an author's files: byte ranges turned into lines and columns.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A part of a file. Lines and columns count from 1, columns in characters; the end is exclusive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The file, relative to the template's directory or to that of a fetched module, separated by `/`.
    pub file: String,
    /// First line, counted from 1.
    pub line: usize,
    /// The column in it where the part begins.
    pub column: usize,
    /// Last line, counted from 1.
    pub(crate) end_line: usize,
    /// The column in it behind the part.
    pub(crate) end_column: usize,
}

/// The offsets where the lines of a text begin.
#[derive(Clone, Debug)]
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(
            std::iter::once(0)
                .chain(ends.map(|(at, _)| at + 1))
                .collect(),
        )
    }

    /// Line and column of an offset in `text`.
    pub(super) fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = offset.min(text.len());
        let line = self.0.partition_point(|start| *start <= offset);
        let start = self.0.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// The offset where a line begins, which counts from 1.
    pub(super) fn start(&self, line: usize) -> usize {
        let index = line.saturating_sub(1).min(self.0.len() - 1);
        self.0[index]
    }

    /// Line and column of both ends of a part of `text`.
    pub(super) fn place(&self, file: &str, text: &str, part: &Range<usize>) -> Place {
        let (line, column) = self.position(text, part.start);
        let (end_line, end_column) = self.position(text, part.end.max(part.start));
        Place {
            file: file.to_owned(),
            line,
            column,
            end_line,
            end_column,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_ends_are_behind_the_part() {
        let text = "a\nöl = \"x\"\n";
        let lines = Lines::of(text);

        let place = lines.place("main.tf", text, &(8..11));

        assert_eq!((place.line, place.column), (2, 6));
        assert_eq!((place.end_line, place.end_column), (2, 9));
        assert_eq!(lines.position(text, 999), (3, 1));
        assert_eq!(lines.start(2), 2);
    }
}
