//! Lines of any length from bytes, with a bound on what is kept.

use super::Limits;

/// A line, without its end, or a piece of one that is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Bytes of it that were kept.
    pub bytes: Vec<u8>,
    /// Number of its bytes that were not kept; only precious lines are cut.
    pub cut: usize,
    /// Set if the line begins with this piece.
    pub is_start: bool,
    /// Set if the line ends with this piece.
    pub is_end: bool,
}

impl Line {
    /// Returns a line that is neither cut nor in pieces.
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            cut: 0,
            is_start: true,
            is_end: true,
        }
    }

    /// Returns whether it is a whole line, and not a piece of one.
    pub fn is_whole(&self) -> bool {
        self.is_start && self.is_end
    }

    /// Converts the line to text; invalid UTF-8 becomes U+FFFD.
    pub fn into_text(self) -> String {
        String::from_utf8(self.bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Buffer that assembles lines. Its size is bounded: a longer line is passed on in pieces.
#[derive(Debug)]
pub struct LineBuffer {
    limits: Limits,
    bytes: Vec<u8>,
    cut: usize,
    must_keep_whole: bool,
    is_continued: bool,
}

impl LineBuffer {
    /// Creates an empty buffer for lines.
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            bytes: Vec::new(),
            cut: 0,
            must_keep_whole: false,
            is_continued: false,
        }
    }

    /// Adds bytes, in pieces of any size, and passes on the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(Line)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end], &mut on_line);
            on_line(self.take(true));
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut on_line);
    }

    /// Passes on everything behind the last line end.
    pub fn finish(&mut self, mut on_line: impl FnMut(Line)) {
        if !self.bytes.is_empty() || self.cut > 0 || self.is_continued {
            on_line(self.take(true));
        }
    }

    fn extend(&mut self, mut bytes: &[u8], on_line: &mut impl FnMut(Line)) {
        loop {
            let limit = match self.must_keep_whole {
                true => self.limits.precious_bytes,
                false => self.limits.line_bytes.max(1),
            };
            let kept = bytes.len().min(limit.saturating_sub(self.bytes.len()));
            self.bytes.extend_from_slice(&bytes[..kept]);
            bytes = &bytes[kept..];
            if bytes.is_empty() {
                return;
            }
            if self.must_keep_whole {
                self.cut += bytes.len();
                return;
            }
            self.must_keep_whole = !self.is_continued && (self.limits.must_keep_whole)(&self.bytes);
            if !self.must_keep_whole {
                on_line(self.take(false));
            }
        }
    }

    /// Removes the line, or the next piece of it. A character that the end of the piece would split stays for the
    /// next one.
    fn take(&mut self, is_end: bool) -> Line {
        let mut bytes = std::mem::take(&mut self.bytes);
        if is_end {
            if self.cut == 0 && bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        } else {
            self.bytes = bytes.split_off(bytes.len() - begun_char(&bytes));
        }
        self.must_keep_whole = false;
        Line {
            bytes,
            cut: std::mem::take(&mut self.cut),
            is_start: !std::mem::replace(&mut self.is_continued, !is_end),
            is_end,
        }
    }
}

/// Returns the number of bytes at the end that begin a character and do not complete it. At least one byte stays in
/// front of them.
fn begun_char(bytes: &[u8]) -> usize {
    let last = bytes
        .iter()
        .rev()
        .take(3.min(bytes.len().saturating_sub(1)));
    let is_begun = |(length, byte): (usize, &u8)| {
        let needed = byte.leading_ones() as usize;
        (needed != 1).then_some(if needed > length + 1 { length + 1 } else { 0 })
    };
    last.enumerate().find_map(is_begun).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        request: crate::Request::Interrupt,
        exit_timeout: Duration::ZERO,
        pipe_grace: Duration::ZERO,
        line_bytes: 8,
        precious_bytes: 20,
        must_keep_whole: |start| start.starts_with(b"keep"),
    };

    fn lines(pieces: &[&str]) -> Vec<(String, usize)> {
        let (mut buffer, mut lines) = (LineBuffer::new(&LIMITS), Vec::new());
        let mut on_line = |line: Line| {
            let cut = line.cut;
            let mark = if line.is_end { "" } else { "+" };
            lines.push((line.into_text() + mark, cut));
        };
        for piece in pieces {
            buffer.push(piece.as_bytes(), &mut on_line);
        }
        buffer.finish(&mut on_line);
        lines
    }

    fn expected<const N: usize>(lines: [(&str, usize); N]) -> [(String, usize); N] {
        lines.map(|(text, cut)| (text.to_owned(), cut))
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let expected = expected([("one", 0), ("two", 0), ("", 0), ("three", 0)]);

        assert_eq!(lines(&["on", "e\r\ntwo\n\nthr", "ee"]), expected);
    }

    #[test]
    fn a_long_line_comes_in_pieces_unless_it_is_precious() {
        let expected = expected([
            ("12345678+", 0),
            ("9012", 0),
            ("keep567890", 0),
            ("keep5678901234567890", 2),
            ("x", 0),
        ]);

        let found = lines(&[
            "1234567",
            "89012\nkeep5",
            "67890\nkeep567890123456789012\nx",
        ]);

        assert_eq!(found, expected);
    }

    #[test]
    fn no_character_is_torn_apart() {
        let expected = expected([("1234567+", 0), ("ä1234+", 0), ("😀", 0)]);

        assert_eq!(lines(&["1234567ä1234😀\n"]), expected);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_little_is_kept(pieces in prop::collection::vec("[a-cä😀\n]{0,30}", 0..10)) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();

            let found = lines(&pieces);

            let text: String = found.iter().map(|(text, _)| text.trim_end_matches('+')).collect();
            prop_assert_eq!(text, pieces.concat().replace('\n', ""));
            prop_assert!(found.iter().all(|(text, _)| text.len() <= LIMITS.line_bytes + 1));
        }
    }
}
