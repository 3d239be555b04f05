//! Output of an engine as log entries.
//!
//! With `-json` every line of standard output is an object; other lines are logged unchanged.
//!
//! # Source
//! coder `provisioner/terraform/executor.go`.

use outpost_base::job::LogLevel;
use outpost_process::{Line, Pipe};
use outpost_provision::{LogEntry, LogKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{diagnostic::Diagnostic, timings::Hook};

/// Message of the line in which Terraform prints a state that it could not write.
const EMERGENCY_DUMP: &str = "Emergency state dump";

/// Maximum length of an error in a job's final message, in bytes.
const MAX_ERROR_BYTES: usize = 4 * 1024;

/// A JSON line of standard output.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "@level")]
    level: String,
    #[serde(rename = "@message")]
    message: String,
    #[serde(rename = "@timestamp")]
    timestamp: String,
    #[serde(rename = "type")]
    kind: String,
    message_code: String,
    hook: Option<Hook>,
    diagnostic: Option<Diagnostic>,
    state: Option<Box<RawValue>>,
}

/// Results of parsing a line.
#[derive(Debug, Default)]
pub struct ParsedLine {
    /// Entries for the log, in order.
    pub entries: Vec<LogEntry>,
    /// Beginning or end of a timed step.
    pub(crate) timed: Option<Timed>,
    /// A diagnostic: an error or a warning.
    pub diagnostic: Option<Diagnostic>,
    /// A complete state: the only copy if the disk is full.
    pub state: Option<Vec<u8>>,
}

/// A line that begins or ends a step.
#[derive(Debug)]
pub struct Timed {
    pub(super) kind: String,
    pub(super) message_code: String,
    pub(super) timestamp: String,
    pub(super) hook: Hook,
}

/// Returns whether a line must be kept whole, judging by its beginning.
pub fn must_keep_whole(start: &[u8]) -> bool {
    // The message is near the beginning of its line, and a line may be as long as a state.
    let start = &start[..start.len().min(1024)];
    start
        .windows(EMERGENCY_DUMP.len())
        .any(|window| window == EMERGENCY_DUMP.as_bytes())
}

/// Parses a line, or a piece of one.
pub fn read(pipe: Pipe, line: Line) -> ParsedLine {
    let (cut, is_whole, is_last) = (line.cut, line.is_whole(), line.is_end);
    let text = printable(line.into_text());
    let level = match pipe {
        Pipe::Stdout => LogLevel::Info,
        Pipe::Stderr => LogLevel::Error,
    };
    if !is_whole {
        let kind = LogKind::Piece {
            stream: pipe as usize,
            is_last,
        };
        return ParsedLine::of(level, text, kind);
    }
    let note = match cut {
        0 => String::new(),
        _ => format!("… ({cut} bytes more)"),
    };
    match pipe {
        Pipe::Stdout => read_stdout(text, &note),
        Pipe::Stderr => ParsedLine {
            entries: read_stderr(text, &note),
            ..ParsedLine::default()
        },
    }
}

/// Removes NUL characters, which databases cannot store in text.
fn printable(text: String) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}"),
        false => text,
    }
}

impl ParsedLine {
    fn of(level: LogLevel, output: String, kind: LogKind) -> Self {
        Self {
            entries: vec![LogEntry {
                level,
                output,
                kind,
            }],
            ..Self::default()
        }
    }
}

fn plain(level: LogLevel, output: String) -> LogEntry {
    let kind = LogKind::Plain;
    LogEntry {
        level,
        output,
        kind,
    }
}

fn read_stdout(text: String, note: &str) -> ParsedLine {
    let Ok(event) = serde_json::from_str::<Event>(&text) else {
        if text.trim().is_empty() {
            return ParsedLine::default();
        }
        return ParsedLine {
            entries: vec![unread(LogLevel::Info, text, note)],
            ..ParsedLine::default()
        };
    };
    drop(text); // It may be long, and the event has everything that is needed.
    let mut entries = Vec::new();
    let level = level(&event.level, &mut entries);
    let is_dump = event.message == EMERGENCY_DUMP;
    let kind = match &event.diagnostic {
        Some(_) => LogKind::Diagnostic,
        None => LogKind::Plain,
    };
    let output = event.message;
    entries.push(LogEntry {
        level,
        output,
        kind,
    });
    if let Some(diagnostic) = &event.diagnostic {
        let level = self::level(&diagnostic.severity, &mut entries);
        entries.extend(diagnostic.format().split('\n').map(|line| LogEntry {
            level,
            output: line.to_owned(),
            kind,
        }));
    }
    let state = event.state.filter(|_| is_dump);
    ParsedLine {
        entries,
        timed: Some(Timed {
            kind: event.kind,
            message_code: event.message_code,
            timestamp: event.timestamp,
            hook: event.hook.unwrap_or_default(),
        }),
        diagnostic: event.diagnostic,
        state: state.map(|state| unquoted(state.get())),
    }
}

/// Returns a line unchanged if it is not an event; but hides a state that could not be parsed, because it contains
/// secrets.
fn unread(level: LogLevel, mut text: String, note: &str) -> LogEntry {
    if must_keep_whole(text.as_bytes()) {
        let said = format!("{EMERGENCY_DUMP} that cannot be parsed and is not shown{note}");
        return plain(LogLevel::Error, said);
    }
    text.push_str(note);
    match plain_error(&text) {
        Some(_) => LogEntry {
            level,
            output: text,
            kind: LogKind::Diagnostic,
        },
        None => plain(level, text),
    }
}

/// Returns the text after `Error: `, which has a frame in output for terminals.
pub(super) fn plain_error(line: &str) -> Option<String> {
    let line = line.trim_start_matches(['│', ' ']);
    let text = line.strip_prefix("Error: ")?;
    Some(text[..text.floor_char_boundary(MAX_ERROR_BYTES)].to_owned())
}

/// Returns a state, which is an object or a string that contains one.
fn unquoted(state: &str) -> Vec<u8> {
    match serde_json::from_str::<String>(state) {
        Ok(text) => text.into_bytes(),
        Err(_) => state.as_bytes().to_vec(),
    }
}

/// Parses standard error, whose lines are objects with `TF_LOG=JSON`, most of them noise.
fn read_stderr(text: String, note: &str) -> Vec<LogEntry> {
    let Ok(event) = serde_json::from_str::<Event>(&text) else {
        let is_blank = text.trim().is_empty();
        return if is_blank {
            Vec::new()
        } else {
            vec![unread(LogLevel::Error, text, note)]
        };
    };
    let mut entries = Vec::new();
    match level(&event.level, &mut entries) {
        LogLevel::Trace => return entries,
        LogLevel::Info | LogLevel::Debug => entries.push(plain(LogLevel::Debug, event.message)),
        kept @ (LogLevel::Warn | LogLevel::Error) => entries.push(plain(kept, event.message)),
    }
    entries
}

/// Returns a level by its name; an unknown name is reported and counts as info.
fn level(name: &str, entries: &mut Vec<LogEntry>) -> LogLevel {
    match name.to_ascii_lowercase().as_str() {
        "trace" => LogLevel::Trace,
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" | "warning" => LogLevel::Warn,
        "error" => LogLevel::Error,
        _ => {
            let note = format!("unable to convert log level {name}");
            entries.push(plain(LogLevel::Warn, note));
            LogLevel::Info
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(said: &ParsedLine) -> Vec<(LogLevel, String)> {
        let entries = said.entries.iter();
        entries
            .map(|entry| (entry.level, entry.output.clone()))
            .collect()
    }

    fn said(pipe: Pipe, text: &str) -> Vec<(LogLevel, String)> {
        shown(&read(pipe, Line::whole(text.into())))
    }

    fn entry(level: LogLevel, text: &str) -> (LogLevel, String) {
        (level, text.to_owned())
    }

    #[test]
    fn an_event_is_its_message_at_its_level() {
        let line = r#"{"@level":"info","@message":"Plan: 1 to add","type":"change_summary"}"#;

        assert_eq!(
            said(Pipe::Stdout, line),
            [entry(LogLevel::Info, "Plan: 1 to add")]
        );
    }

    #[test]
    fn a_line_that_is_no_event_is_taken_as_it_is() {
        assert_eq!(
            said(Pipe::Stdout, "Initializing..."),
            [entry(LogLevel::Info, "Initializing...")]
        );
        assert_eq!(said(Pipe::Stderr, "boom"), [entry(LogLevel::Error, "boom")]);
        assert!(said(Pipe::Stdout, "  ").is_empty() && said(Pipe::Stderr, "").is_empty());
    }

    #[test]
    fn an_unknown_level_is_said() {
        let line = r#"{"@level":"loud","@message":"hm"}"#;

        let expected = [
            entry(LogLevel::Warn, "unable to convert log level loud"),
            entry(LogLevel::Info, "hm"),
        ];
        assert_eq!(said(Pipe::Stdout, line), expected);
    }

    #[test]
    fn a_diagnostic_follows_its_message_line_by_line() {
        let line = r#"{"@level":"error","@message":"Error: X","diagnostic":{"severity":"error","summary":"X",
            "detail":"a\nb"}}"#;

        let error = |text| entry(LogLevel::Error, text);
        assert_eq!(
            said(Pipe::Stdout, line),
            [error("Error: X"), error("a"), error("b")]
        );
    }

    #[test]
    fn a_log_on_standard_error_loses_its_trace_and_its_voice() {
        let line = |level: &str| format!(r#"{{"@level":"{level}","@message":"x"}}"#);

        assert!(said(Pipe::Stderr, &line("trace")).is_empty());
        assert_eq!(
            said(Pipe::Stderr, &line("info")),
            [entry(LogLevel::Debug, "x")]
        );
        assert_eq!(
            said(Pipe::Stderr, &line("warn")),
            [entry(LogLevel::Warn, "x")]
        );
    }

    #[test]
    fn a_state_in_distress_is_taken_and_not_logged() {
        let line = r#"{"@level":"error","@message":"Emergency state dump","state":{"version":4,"serial":12}}"#;

        let said = read(Pipe::Stdout, Line::whole(line.into()));

        assert_eq!(
            shown(&said),
            [entry(LogLevel::Error, "Emergency state dump")]
        );
        assert_eq!(said.state.unwrap(), br#"{"version":4,"serial":12}"#);
        assert!(must_keep_whole(line.as_bytes()) && !must_keep_whole(b"{}"));
    }

    #[test]
    fn a_state_that_was_cut_is_neither_taken_nor_logged() {
        let line = Line {
            cut: 7,
            ..Line::whole(
                br#"{"@level":"error","@message":"Emergency state dump","state":{"token":"hun"#
                    .to_vec(),
            )
        };

        for pipe in [Pipe::Stdout, Pipe::Stderr] {
            let said = read(pipe, line.clone());

            let text =
                "Emergency state dump that cannot be parsed and is not shown… (7 bytes more)";
            assert_eq!(shown(&said), [entry(LogLevel::Error, text)]);
            assert!(said.state.is_none());
        }
    }

    #[test]
    fn a_piece_of_a_line_is_taken_as_it_is() {
        let line = Line {
            is_start: false,
            ..Line::whole(br#"{"@level":"error","@message":"x"}"#.to_vec())
        };

        let said = read(Pipe::Stderr, line);

        let kind = LogKind::Piece {
            stream: 1,
            is_last: true,
        };
        assert_eq!(said.entries[0].kind, kind);
        assert!(said.entries[0].output.starts_with('{'));
    }
}
