//! Limit of a job's log: one mebibyte, as in Coder.

use jiff::Timestamp;
use outpost_base::job::{LogLevel, LogLine, LogSource};

/// Bytes of output that are kept of a job.
///
/// # Source
/// coder `coderd/provisionerdserver`: one mebibyte, of which 111 bytes are for the line about the truncation.
pub(crate) const LIMIT_BYTES: usize = 1 << 20;
const NOTICE: &str = "Provisioner logs exceeded the max size of 1MB. Will not continue to write provisioner logs for workspace build.";
// Length of `NOTICE`, for which room is kept.
const RESERVED_BYTES: usize = 111;

/// Part of a batch of new lines that still fits into the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The lines to store.
    pub lines: Vec<LogLine>,
    /// Bytes that the log has once the lines are stored.
    pub(crate) stored_bytes: usize,
    /// Set if anything was dropped; everything later is then dropped as well.
    pub(crate) truncated: bool,
}

/// Decides how much of `lines` is kept when `stored_bytes` are already stored.
///
/// The first line that does not fit is replaced by a warning. NUL characters are removed.
pub(crate) fn admit(stored_bytes: usize, lines: Vec<LogLine>) -> Admitted {
    let mut admitted = Admitted {
        lines: Vec::with_capacity(lines.len()),
        stored_bytes,
        truncated: false,
    };
    for mut line in lines {
        if line.output.contains('\0') {
            line.output = line.output.replace('\0', "");
        }
        if admitted.stored_bytes + RESERVED_BYTES + line.output.len() > LIMIT_BYTES {
            admitted.stored_bytes += NOTICE.len();
            admitted.lines.push(notice(line.created_at, line.stage));
            admitted.truncated = true;
            break;
        }
        admitted.stored_bytes += line.output.len();
        admitted.lines.push(line);
    }
    admitted
}

fn notice(created_at: Timestamp, stage: String) -> LogLine {
    LogLine {
        source: LogSource::ProvisionerDaemon,
        level: LogLevel::Warn,
        created_at,
        stage,
        output: NOTICE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(output: String) -> LogLine {
        LogLine {
            source: LogSource::Provisioner,
            level: LogLevel::Info,
            created_at: Timestamp::UNIX_EPOCH,
            stage: "Planning Infrastructure".to_owned(),
            output,
        }
    }

    #[test]
    fn lines_that_fit_are_kept_to_the_byte() {
        let fits = line("x".repeat(LIMIT_BYTES - RESERVED_BYTES));

        let admitted = admit(0, vec![fits.clone()]);

        assert_eq!(admitted.lines, [fits]);
        assert!(!admitted.truncated);
    }

    #[test]
    fn the_first_line_that_does_not_fit_is_replaced_and_the_rest_dropped() {
        let half = line("x".repeat(LIMIT_BYTES / 2));

        let admitted = admit(
            0,
            vec![half.clone(), half.clone(), line("later".to_owned())],
        );

        assert_eq!(admitted.lines.len(), 2);
        assert_eq!(admitted.lines[1].output, NOTICE);
        assert_eq!(admitted.lines[1].level, LogLevel::Warn);
        assert!(admitted.truncated);
    }

    #[test]
    fn a_line_over_the_limit_leaves_the_warning_only() {
        let admitted = admit(0, vec![line("x".repeat(LIMIT_BYTES + 1))]);

        assert_eq!(admitted.lines.len(), 1);
        assert!(admitted.truncated);
    }

    #[test]
    fn nul_characters_are_removed() {
        let admitted = admit(0, vec![line("a\0b".to_owned())]);

        assert_eq!(admitted.lines[0].output, "ab");
    }
}
