//! Places in a scenario file, and what is wrong there.

use std::{fmt, ops::Range};

use hcl_edit::Span;
use serde::Serialize;

use super::{lines::Lines, relaxed::Relaxed};

/// A place in a scenario file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file, relative to the template's directory and separated by `/`.
    pub file: String,
    /// Line in that file.
    pub line: usize,
    /// Column in that line.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One mistake of a scenario's author.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// The place of the mistake.
    pub place: Place,
    /// The mistake and, where there is one, a suggestion.
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }
}

/// A file's text, as its author wrote it and as the parser takes it.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    lines: Lines,
    pub(super) relaxed: Relaxed,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            text,
            lines: Lines::of(text),
            relaxed: Relaxed::new(text),
        }
    }

    /// The place of an offset in the relaxed text.
    pub(super) fn place_at(&self, offset: usize) -> Place {
        let offset = self.relaxed.original(offset);
        let (line, column) = self.lines.position(self.text, offset);
        Place {
            file: self.file.to_owned(),
            line,
            column,
        }
    }

    pub(super) fn place(&self, part: &impl Span) -> Place {
        self.place_at(part.span().map_or(0, |span| span.start))
    }

    /// The part of the file, as its author wrote it.
    pub(super) fn source(&self, part: &impl Span) -> &'a str {
        self.slice(part.span().unwrap_or(0..0))
    }

    /// The same for a range of the relaxed text.
    pub(super) fn slice(&self, span: Range<usize>) -> &'a str {
        let original = self.relaxed.original(span.start)..self.relaxed.original(span.end);
        self.text.get(original).unwrap_or_default()
    }
}
