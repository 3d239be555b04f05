//! Limit of an agent's log: one mebibyte, as in Coder. Pure.
//!
//! # Source
//! coder `coderd/agentapi/logs.go`; `codersdk/agentsdk/logs.go` for the size of a line besides its text.

use outpost_base::job::LogLevel;

/// Bytes of log that are kept of one agent.
pub(crate) const LIMIT_BYTES: usize = 1 << 20;
/// Bytes that each line counts in addition to its text, so that empty lines are bounded as well.
const LINE_BYTES: usize = 21;

/// A line of an agent's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Severity that the agent gave the line.
    pub level: LogLevel,
    /// Text without its line break.
    pub output: String,
}

/// Part of a batch of new lines that still fits into the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The lines to store.
    pub lines: Vec<Line>,
    /// Bytes that the log has once the lines are stored.
    pub(crate) stored_bytes: usize,
    /// Set if anything was dropped; everything later is then dropped as well.
    pub is_full: bool,
}

/// Decides how much of `lines` is kept when `stored_bytes` are already stored: everything before the first line that
/// does not fit. NUL characters are removed.
pub(crate) fn admit(stored_bytes: usize, lines: Vec<Line>) -> Admitted {
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
