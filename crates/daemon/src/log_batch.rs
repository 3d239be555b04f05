//! Batches of log lines: which lines are sent when, and which are held back. Pure: `now` is an argument.
//!
//! Coder's server keeps 1 MiB of log for each job and silently drops everything after that. So the beginning is sent as
//! it comes, and then the end is held back, in a ring buffer, until the job is over. Errors are always sent.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use outpost_base::job::{LogLevel, LogLine, LogSource};
use outpost_provision::LogKind;

/// Interval between two batches.
const INTERVAL: Duration = Duration::from_millis(250);
/// Size at which a batch is sent at once, in bytes.
const BATCH_BYTES: usize = 256 * 1024;
/// Number of lines at which a batch is sent at once.
const BATCH_LINES: usize = 500;
/// Bytes that the server adds to the length of each line when it counts.
const LINE_OVERHEAD: usize = 111;
/// Bytes of output that the server keeps of a job.
const SERVER_BYTES: usize = 1 << 20;
/// Part of it for the end of a log, and part for errors, warnings and notes.
const TAIL_BYTES: usize = 192 * 1024;
const RESERVE_BYTES: usize = 128 * 1024;
/// Longest line in bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Interval of heartbeats while lines are held back: somebody who cancels such a job should not wait.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);

/// Lines of one job on their way to the server.
#[derive(Debug, Default)]
pub(super) struct LogBatch {
    pending: VecDeque<LogLine>,
    pending_bytes: usize,
    last_taken: Option<Instant>,
    counted_bytes: usize,
    tail: VecDeque<LogLine>,
    tail_bytes: usize,
    left_out: u64,
    is_busy: bool,
    /// Bytes that were left out of the long line that is arriving in pieces, for each stream; `None` without one.
    cut: [Option<usize>; 2],
}

impl LogBatch {
    /// Adds a line, or a piece of one: of a long line the beginning is sent, and how much more there was.
    pub(super) fn push(&mut self, mut line: LogLine, kind: LogKind) {
        let LogKind::Piece { stream, is_last } = kind else {
            return self.place_whole(line, kind);
        };
        self.is_busy = true;
        let cut = &mut self.cut[stream % 2];
        match (*cut, is_last) {
            (None, true) => self.place_whole(line, kind),
            (None, false) => {
                *cut = Some(shorten(&mut line.output));
                self.place(line, kind);
            }
            (Some(before), false) => *cut = Some(before + line.output.len()),
            (Some(before), true) => {
                *cut = None;
                let all = before + line.output.len();
                if all > 0 {
                    line.output = format!("… ({all} more bytes in this line)");
                    self.place(line, kind);
                }
            }
        }
    }

    fn place_whole(&mut self, mut line: LogLine, kind: LogKind) {
        if let cut @ 1.. = shorten(&mut line.output) {
            line.output.push_str(&format!("… ({cut} bytes more)"));
        }
        self.place(line, kind);
    }

    fn place(&mut self, mut line: LogLine, kind: LogKind) {
        if line.output.contains('\0') {
            line.output = line.output.replace('\0', "\u{fffd}"); // A text column takes no NUL.
        }
        let size = size_of(&line);
        let is_mark = line.output.is_empty();
        let is_reserved = is_mark || kind == LogKind::Diagnostic;
        let room = SERVER_BYTES - TAIL_BYTES - RESERVE_BYTES;
        let room = match line.level {
            LogLevel::Error if is_reserved => room + RESERVE_BYTES,
            _ if is_mark => room + RESERVE_BYTES,
            _ if is_reserved => room + RESERVE_BYTES / 2,
            _ => room,
        };
        let is_in_order = self.tail.is_empty() && self.left_out == 0;
        if (is_in_order || is_reserved) && self.counted_bytes + size <= room {
            return self.queue(line);
        }
        self.is_busy = true;
        self.tail_bytes += size;
        self.tail.push_back(line);
        while self.tail_bytes > TAIL_BYTES - MAX_LINE_BYTES / 2 {
            let Some(oldest) = self.tail.pop_front() else {
                break;
            };
            self.tail_bytes -= size_of(&oldest);
            self.left_out += 1;
        }
    }

    /// Time when the next batch should go; it may be empty. `None` if nothing was logged since the last one.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.pending.is_empty() {
            let last = self.last_taken.filter(|_| self.is_busy);
            return last.map(|last| last + BUSY_INTERVAL);
        }
        let is_full = self.pending_bytes >= BATCH_BYTES || self.pending.len() >= BATCH_LINES;
        Some(match self.last_taken {
            Some(last) if !is_full => last + INTERVAL,
            Some(_) | None => now,
        })
    }

    /// Returns the next batch; empty if there is nothing to send.
    pub(super) fn take(&mut self, now: Instant) -> Vec<LogLine> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(line) = self.pending.front()
            && batch.len() < BATCH_LINES
            && (batch.is_empty() || bytes + size_of(line) <= BATCH_BYTES)
        {
            bytes += size_of(line);
            batch.extend(self.pending.pop_front());
        }
        self.pending_bytes -= bytes;
        self.last_taken = Some(now);
        self.is_busy = false;
        batch
    }

    /// Puts back a batch that did not arrive.
    pub(super) fn put_back(&mut self, batch: Vec<LogLine>) {
        for line in batch.into_iter().rev() {
            self.pending_bytes += size_of(&line);
            self.pending.push_front(line);
        }
    }

    /// Releases the end of the log that was held back, after a line that says how much is missing.
    pub(super) fn finish(&mut self, now: Timestamp) {
        let tail = std::mem::take(&mut self.tail);
        self.tail_bytes = 0;
        if self.left_out > 0 {
            let stage = tail
                .front()
                .map(|line| line.stage.clone())
                .unwrap_or_default();
            let output = format!(
                "{} lines omitted: the log is too long for the server; the daemon keeps the full log on its disk",
                self.left_out
            );
            let (source, level) = (LogSource::ProvisionerDaemon, LogLevel::Warn);
            self.queue(LogLine {
                source,
                level,
                created_at: now,
                stage,
                output,
            });
            self.left_out = 0;
        }
        tail.into_iter().for_each(|line| self.queue(line));
    }

    /// Returns whether there is nothing left to take.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn queue(&mut self, line: LogLine) {
        self.pending_bytes += size_of(&line);
        self.counted_bytes += size_of(&line);
        self.pending.push_back(line);
    }
}

fn size_of(line: &LogLine) -> usize {
    line.output.len() + LINE_OVERHEAD
}

/// Shortens a very long line, which would displace all others. Returns how many bytes were cut.
fn shorten(text: &mut String) -> usize {
    let end = text.floor_char_boundary(MAX_LINE_BYTES);
    let cut = text.len() - end;
    if cut > 0 {
        text.truncate(end);
        text.shrink_to_fit(); // A waiting line must not hold the memory of its cut part.
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: LogLevel, output: impl Into<String>) -> LogLine {
        LogLine {
            source: LogSource::Provisioner,
            level,
            created_at: Timestamp::UNIX_EPOCH,
            stage: "stage".to_owned(),
            output: output.into(),
        }
    }

    impl LogBatch {
        fn push_plain(&mut self, line: LogLine) {
            self.push(line, LogKind::Plain);
        }

        /// Returns everything that the server gets.
        fn sent(mut self) -> Vec<LogLine> {
            self.finish(Timestamp::UNIX_EPOCH);
            let mut sent = Vec::new();
            while !self.is_empty() {
                sent.extend(self.take(Instant::now()));
            }
            assert!(sent.iter().map(size_of).sum::<usize>() <= SERVER_BYTES);
            sent
        }
    }

    #[test]
    fn the_first_line_goes_at_once_and_the_next_ones_together() {
        let (mut batch, start) = (LogBatch::default(), Instant::now());
        batch.push_plain(line(LogLevel::Info, "one"));
        assert_eq!(batch.due(start), Some(start));
        assert_eq!(batch.take(start).len(), 1);

        batch.push_plain(line(LogLevel::Info, "two"));
        batch.push_plain(line(LogLevel::Info, "three"));

        assert_eq!(batch.due(start), Some(start + INTERVAL));
        assert_eq!(batch.take(start + INTERVAL).len(), 2);
        assert_eq!(batch.due(start + INTERVAL), None);
    }

    #[test]
    fn a_full_batch_does_not_wait() {
        let (mut batch, start) = (LogBatch::default(), Instant::now());
        batch.take(start);

        (0..BATCH_LINES).for_each(|_| batch.push_plain(line(LogLevel::Info, "x")));
        assert_eq!(batch.due(start), Some(start));
        assert_eq!(batch.take(start).len(), BATCH_LINES);

        (0..6).for_each(|_| batch.push_plain(line(LogLevel::Info, "x".repeat(50_000))));
        assert_eq!(batch.due(start), Some(start));
        assert_eq!(batch.take(start).len(), 5);
    }

    #[test]
    fn a_batch_that_was_put_back_keeps_its_place() {
        let (mut batch, start) = (LogBatch::default(), Instant::now());
        ["a", "b"]
            .into_iter()
            .for_each(|text| batch.push_plain(line(LogLevel::Info, text)));

        let taken = batch.take(start);
        batch.push_plain(line(LogLevel::Info, "c"));
        batch.put_back(taken);

        let outputs: Vec<_> = batch
            .take(start)
            .into_iter()
            .map(|line| line.output)
            .collect();
        assert_eq!(outputs, ["a", "b", "c"]);
    }

    #[test]
    fn an_endless_log_keeps_its_beginning_its_end_and_every_diagnostic() {
        let mut batch = LogBatch::default();
        for number in 0..100_000 {
            batch.push_plain(line(LogLevel::Info, format!("line {number}")));
            // A line on standard error is not yet an error that the engine explains.
            batch.push_plain(line(LogLevel::Error, format!("noise {number}")));
            if number % 1000 == 0 {
                let diagnostic = line(LogLevel::Error, format!("boom {number}"));
                batch.push(diagnostic, LogKind::Diagnostic);
                for _ in 0..10 {
                    let warning = line(LogLevel::Warn, "careful ".repeat(10));
                    batch.push(warning, LogKind::Diagnostic);
                }
            }
        }

        let sent = batch.sent();

        let outputs: Vec<_> = sent.iter().map(|line| line.output.as_str()).collect();
        assert_eq!(
            (outputs[0], outputs[outputs.len() - 1]),
            ("line 0", "noise 99999")
        );
        let count = |text: &str| outputs.iter().filter(|it| it.contains(text)).count();
        assert_eq!((count("boom"), count("omitted")), (100, 1));
        assert!(count("careful") > 300, "{}", count("careful"));
    }

    #[test]
    fn a_job_whose_lines_are_kept_back_gives_signs_of_life_more_often() {
        let (mut batch, start) = (LogBatch::default(), Instant::now());
        while batch.counted_bytes + 2 * MAX_LINE_BYTES < SERVER_BYTES && batch.tail.is_empty() {
            batch.push_plain(line(LogLevel::Info, "x".repeat(60_000)));
        }
        while !batch.is_empty() {
            batch.take(start);
        }
        assert_eq!(batch.due(start), None);

        batch.push_plain(line(LogLevel::Info, "more"));

        assert_eq!(batch.due(start), Some(start + BUSY_INTERVAL));
        assert_eq!(batch.take(start + BUSY_INTERVAL), []);
        assert_eq!(batch.due(start + BUSY_INTERVAL), None);
    }

    #[test]
    fn of_a_line_in_pieces_the_beginning_arrives_and_how_much_more_there_was() {
        let mut batch = LogBatch::default();
        let piece = |stream, is_last| LogKind::Piece { stream, is_last };

        batch.push(line(LogLevel::Info, "o".repeat(100_000)), piece(0, false));
        batch.push(line(LogLevel::Info, "e".repeat(10)), piece(1, false));
        batch.push(line(LogLevel::Info, "o".repeat(100_000)), piece(0, false));
        batch.push(line(LogLevel::Info, ""), piece(1, true));
        batch.push(line(LogLevel::Info, "o"), piece(0, true));

        let sent = batch.sent();
        let outputs: Vec<_> = sent.iter().map(|line| line.output.as_str()).collect();
        let more = format!("… ({} more bytes in this line)", 200_001 - MAX_LINE_BYTES);
        let start = "o".repeat(MAX_LINE_BYTES);
        assert_eq!(outputs, [start.as_str(), "eeeeeeeeee", &more]);
    }

    #[test]
    fn nul_and_very_long_lines_are_made_safe() {
        let mut batch = LogBatch::default();
        batch.push_plain(line(LogLevel::Info, "a\0b"));
        batch.push_plain(line(LogLevel::Info, "ä".repeat(1_000_000)));

        let sent = batch.take(Instant::now());
        assert_eq!(sent[0].output, "a\u{fffd}b");
        assert!(
            sent[1].output.len() < MAX_LINE_BYTES + 100 && sent[1].output.ends_with("bytes more)")
        );
    }
}
