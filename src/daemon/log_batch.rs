//! Which log lines go out when, and which stay behind. Pure: `now` is an argument.
//!
//! A server of Coder's keeps 1 MiB of log a job and drops everything after that without a word. So the beginning is
//! sent as it comes, and once it is full the end is kept back, in a ring, until the job is over. Errors always go.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::job::{LogLevel, LogLine, LogSource};

/// Time between two batches.
const INTERVAL: Duration = Duration::from_millis(250);
/// A batch this large goes at once.
const BATCH_BYTES: usize = 256 * 1024;
/// A batch of this many lines goes at once.
const BATCH_LINES: usize = 500;
/// What the server adds to the length of each line when it counts.
const LINE_OVERHEAD: usize = 111;
/// What the server keeps of a job.
const SERVER_BYTES: usize = 1 << 20;
/// What of it is for the end of a log, and what for errors and notes.
const TAIL_BYTES: usize = 192 * 1024;
const RESERVE_BYTES: usize = 128 * 1024;
/// Bytes of one line.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The lines of one job that are on their way.
#[derive(Debug, Default)]
pub(super) struct LogBatch {
    pending: VecDeque<LogLine>,
    pending_bytes: usize,
    last_taken: Option<Instant>,
    counted_bytes: usize,
    tail: VecDeque<LogLine>,
    tail_bytes: usize,
    left_out: u64,
}

impl LogBatch {
    /// Takes a line.
    pub(super) fn push(&mut self, mut line: LogLine) {
        line.output = printable(line.output);
        let size = size_of(&line);
        let room = if line.level == LogLevel::Error || line.output.is_empty() {
            SERVER_BYTES - TAIL_BYTES
        } else {
            SERVER_BYTES - TAIL_BYTES - RESERVE_BYTES
        };
        if self.tail.is_empty() && self.left_out == 0 && self.counted_bytes + size <= room
            || line.level == LogLevel::Error
                && self.counted_bytes + size <= SERVER_BYTES - TAIL_BYTES
        {
            return self.queue(line);
        }
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

    /// When the next batch should go; `None` if there is nothing to send.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.pending.is_empty() {
            return None;
        }
        let is_full = self.pending_bytes >= BATCH_BYTES || self.pending.len() >= BATCH_LINES;
        Some(match self.last_taken {
            Some(last) if !is_full => last + INTERVAL,
            Some(_) | None => now,
        })
    }

    /// The next batch; empty if there is nothing to send.
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
        batch
    }

    /// Puts a batch back that did not arrive.
    pub(super) fn put_back(&mut self, batch: Vec<LogLine>) {
        for line in batch.into_iter().rev() {
            self.pending_bytes += size_of(&line);
            self.pending.push_front(line);
        }
    }

    /// Releases the end of the log that was kept back, behind a line that says how much is missing.
    pub(super) fn finish(&mut self, now: Timestamp) {
        let tail = std::mem::take(&mut self.tail);
        self.tail_bytes = 0;
        if self.left_out > 0 {
            let stage = tail
                .front()
                .map(|line| line.stage.clone())
                .unwrap_or_default();
            let output = format!(
                "{} lines are left out here: the log is too long for the server",
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

    /// Whether everything was taken.
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

/// A database of text takes no NUL, and a very long line drives out all others.
fn printable(mut text: String) -> String {
    if text.len() > MAX_LINE_BYTES {
        let end = text.floor_char_boundary(MAX_LINE_BYTES);
        let cut = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("… ({cut} bytes more)"));
    }
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
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

    #[test]
    fn the_first_line_goes_at_once_and_the_next_ones_together() {
        let (mut batch, start) = (LogBatch::default(), Instant::now());
        batch.push(line(LogLevel::Info, "one"));
        assert_eq!(batch.due(start), Some(start));
        assert_eq!(batch.take(start).len(), 1);

        batch.push(line(LogLevel::Info, "two"));
        batch.push(line(LogLevel::Info, "three"));

        assert_eq!(batch.due(start), Some(start + INTERVAL));
        assert_eq!(batch.take(start + INTERVAL).len(), 2);
        assert_eq!(batch.due(start + INTERVAL), None);
    }

    #[test]
    fn a_full_batch_does_not_wait() {
        let (mut batch, start) = (LogBatch::default(), Instant::now());
        batch.take(start);

        (0..BATCH_LINES).for_each(|_| batch.push(line(LogLevel::Info, "x")));
        assert_eq!(batch.due(start), Some(start));
        assert_eq!(batch.take(start).len(), BATCH_LINES);

        (0..6).for_each(|_| batch.push(line(LogLevel::Info, "x".repeat(50_000))));
        assert_eq!(batch.due(start), Some(start));
        assert_eq!(batch.take(start).len(), 5);
    }

    #[test]
    fn a_batch_that_was_put_back_keeps_its_place() {
        let (mut batch, start) = (LogBatch::default(), Instant::now());
        ["a", "b"]
            .into_iter()
            .for_each(|text| batch.push(line(LogLevel::Info, text)));

        let taken = batch.take(start);
        batch.push(line(LogLevel::Info, "c"));
        batch.put_back(taken);

        let outputs: Vec<_> = batch
            .take(start)
            .into_iter()
            .map(|line| line.output)
            .collect();
        assert_eq!(outputs, ["a", "b", "c"]);
    }

    #[test]
    fn an_endless_log_keeps_its_beginning_its_end_and_its_errors() {
        let (mut batch, now) = (LogBatch::default(), Instant::now());
        for number in 0..100_000 {
            batch.push(line(LogLevel::Info, format!("line {number}")));
            if number == 50_000 {
                batch.push(line(LogLevel::Error, "boom"));
            }
        }
        batch.finish(Timestamp::UNIX_EPOCH);

        let mut sent = Vec::new();
        while !batch.is_empty() {
            sent.extend(batch.take(now));
        }
        let outputs: Vec<_> = sent.iter().map(|line| line.output.as_str()).collect();
        assert_eq!(
            (outputs[0], outputs[outputs.len() - 1]),
            ("line 0", "line 99999")
        );
        assert!(outputs.contains(&"boom"));
        assert_eq!(
            outputs
                .iter()
                .filter(|text| text.contains("left out"))
                .count(),
            1
        );
        assert!(sent.iter().map(size_of).sum::<usize>() <= SERVER_BYTES);
    }

    #[test]
    fn nul_and_very_long_lines_are_made_safe() {
        let mut batch = LogBatch::default();
        batch.push(line(LogLevel::Info, "a\0b"));
        batch.push(line(LogLevel::Info, "ä".repeat(1_000_000)));

        let sent = batch.take(Instant::now());
        assert_eq!(sent[0].output, "a\u{fffd}b");
        assert!(
            sent[1].output.len() < MAX_LINE_BYTES + 100 && sent[1].output.ends_with("bytes more)")
        );
    }
}
