//! How much of an agent's log is kept: a mebibyte, by Coder's rule. Pure.
//!
//! # Source
//! coder `coderd/agentapi/logs.go`; `codersdk/agentsdk/logs.go` for what a line counts beside its text.

use outpost_base::job::LogLevel;

/// Bytes that are kept of an agent.
pub const LIMIT_BYTES: usize = 1 << 20;
/// What a line counts beside its text, so that empty ones are bounded, too.
const LINE_BYTES: usize = 21;

/// Something that an agent said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How important it is.
    pub level: LogLevel,
    /// The text.
    pub output: String,
}

/// What of some new lines is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The lines to store.
    pub lines: Vec<Line>,
    /// Bytes that are stored afterwards.
    pub stored_bytes: usize,
    /// Whether anything was dropped; then everything later is dropped, too.
    pub is_full: bool,
}

/// Decides what of `lines` is kept when `stored_bytes` are stored already: all up to the first that does not fit. NUL
/// characters are removed.
pub fn admit(stored_bytes: usize, lines: Vec<Line>) -> Admitted {
    let mut admitted = Admitted {
        lines: Vec::with_capacity(lines.len()),
        stored_bytes,
        is_full: false,
    };
    for mut line in lines {
        if line.output.contains('\0') {
            line.output = line.output.replace('\0', "");
        }
        let bytes = admitted.stored_bytes + LINE_BYTES + line.output.len();
        if bytes > LIMIT_BYTES {
            admitted.is_full = true;
            break;
        }
        admitted.stored_bytes = bytes;
        admitted.lines.push(line);
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(output: &str) -> Line {
        Line {
            level: LogLevel::Info,
            output: output.to_owned(),
        }
    }

    #[test]
    fn lines_that_fit_are_kept_to_the_byte_and_nothing_after_them() {
        let fits = line(&"x".repeat(LIMIT_BYTES - LINE_BYTES));

        let admitted = admit(0, vec![fits.clone(), line("")]);

        assert_eq!(admitted.lines, [fits]);
        assert_eq!(
            (admitted.stored_bytes, admitted.is_full),
            (LIMIT_BYTES, true)
        );
    }

    #[test]
    fn empty_lines_are_bounded_and_nul_characters_removed() {
        let admitted = admit(0, vec![line("a\0b"); LIMIT_BYTES]);

        assert_eq!(admitted.lines.len(), LIMIT_BYTES / (LINE_BYTES + 2));
        assert_eq!(admitted.lines[0].output, "ab");
        assert!(admitted.is_full);
    }
}
