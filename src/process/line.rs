//! Lines out of bytes, of any length, with a bound on what is kept.

use super::Limits;

/// One line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was kept of it.
    pub bytes: Vec<u8>,
    /// Bytes of it that were not kept.
    pub cut: usize,
}

impl Line {
    /// The line as text; what is not UTF-8 becomes U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Puts lines together. What is kept of a line that has not ended is bounded.
pub(super) struct LineBuffer {
    limits: Limits,
    bytes: Vec<u8>,
    cut: usize,
    is_precious: bool,
}

impl LineBuffer {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            bytes: Vec::new(),
            cut: 0,
            is_precious: false,
        }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(Line)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            on_line(self.take());
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// Hands out what stands behind the last line end.
    pub(super) fn finish(&mut self, mut on_line: impl FnMut(Line)) {
        if !self.bytes.is_empty() || self.cut > 0 {
            on_line(self.take());
        }
    }

    fn extend(&mut self, mut bytes: &[u8]) {
        let room = self.limits.line_bytes.saturating_sub(self.bytes.len());
        if self.cut == 0 && !self.is_precious && bytes.len() > room {
            self.bytes.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            self.is_precious = (self.limits.is_precious)(&self.bytes);
        }
        let limit = if self.is_precious {
            self.limits.precious_bytes
        } else {
            self.limits.line_bytes
        };
        let kept = bytes.len().min(limit.saturating_sub(self.bytes.len()));
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.cut += bytes.len() - kept;
    }

    fn take(&mut self) -> Line {
        self.is_precious = false;
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.cut == 0 && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Line {
            bytes,
            cut: std::mem::take(&mut self.cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        exit_timeout: Duration::ZERO,
        pipe_grace: Duration::ZERO,
        line_bytes: 8,
        precious_bytes: 20,
        is_precious: |start| start.starts_with(b"keep"),
    };

    fn lines(pieces: &[&str]) -> Vec<(String, usize)> {
        let (mut buffer, mut lines) = (LineBuffer::new(&LIMITS), Vec::new());
        let mut on_line = |line: Line| lines.push((line.text(), line.cut));
        for piece in pieces {
            buffer.push(piece.as_bytes(), &mut on_line);
        }
        buffer.finish(&mut on_line);
        lines
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let expected = [("one", 0), ("two", 0), ("", 0), ("three", 0)]
            .map(|(text, cut)| (text.to_owned(), cut));

        assert_eq!(lines(&["on", "e\r\ntwo\n\nthr", "ee"]), expected);
    }

    #[test]
    fn a_long_line_is_cut_and_counted_unless_it_is_precious() {
        let expected = [
            ("12345678", 4),
            ("keep567890", 0),
            ("keep5678901234567890", 2),
            ("x", 0),
        ];

        let found = lines(&[
            "1234567",
            "89012\nkeep5",
            "67890\nkeep567890123456789012\nx",
        ]);

        assert_eq!(found, expected.map(|(text, cut)| (text.to_owned(), cut)));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_little_is_kept(pieces in prop::collection::vec("[a-c\n]{0,30}", 0..10)) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();

            let found = lines(&pieces);

            let letters = pieces.concat().chars().filter(|c| *c != '\n').count();
            prop_assert_eq!(found.iter().map(|(text, cut)| text.len() + cut).sum::<usize>(), letters);
            prop_assert!(found.iter().all(|(text, _)| text.len() <= LIMITS.line_bytes));
        }
    }
}
