//! Log of a daemon for people who operate Coder's: the same forms, files and filters.
//!
//! # Source
//! coder `cli/clilog/clilog.go`; `cdr.dev/slog` for the three forms.

mod entry;
mod rotate;

use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
    path::Path,
    sync::Mutex,
};

use regex::RegexSet;
use tracing::{
    Event, Level, Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    filter::ParseError,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use self::{
    entry::{Entry, Fields},
    rotate::RotatingFile,
};

/// Destinations of a daemon's log, and its filters.
#[derive(Clone, Debug, Default)]
pub struct DaemonLog {
    /// Level, or directives such as `outpost=debug,sqlx=warn`.
    pub filter: String,
    /// Regular expressions; if there are any, a debug line must match one with its module or message.
    pub debug_filters: Vec<String>,
    /// File for lines that people read. Empty and `/dev/null` mean none, as for the others.
    pub human: String,
    /// File for lines in JSON.
    pub json: String,
    /// File for lines in Stackdriver's form.
    pub stackdriver: String,
}

/// Reasons why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A filter that cannot be parsed.
    #[error("log filter `{text}` cannot be used")]
    Filter {
        /// Text of the filter.
        text: String,
        /// Error of the parser.
        source: ParseError,
    },
    /// An invalid regular expression in the filters.
    #[error("regular expression of `--log-filter` cannot be used")]
    Regex(#[from] regex::Error),
    /// A file that cannot be written.
    #[error("failed to open the log file `{path}`")]
    Open {
        /// Path of the file.
        path: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// No destination for the log, although nobody asked for that.
    #[error("no log output is configured; use /dev/null to discard the log")]
    Nowhere,
}

/// Form in which a sink writes an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Human { coloured: bool },
    Json,
    Stackdriver,
}

struct Sink {
    form: Form,
    to: Mutex<Box<dyn Write + Send>>,
}

/// Layer that writes every event to every sink.
struct SinkLayer {
    sinks: Vec<Sink>,
    debug_filters: Option<RegexSet>,
}

impl DaemonLog {
    /// Logs everything from `info` on to stderr.
    pub fn to_stderr() -> Self {
        Self {
            filter: "info".to_owned(),
            human: "/dev/stderr".to_owned(),
            ..Self::default()
        }
    }

    /// Starts logging. A second call in one process does nothing.
    ///
    /// # Errors
    /// [`LogError`]; nothing is logged then.
    pub fn init(&self) -> Result<(), LogError> {
        let filter = super::parse_filter(&self.filter).map_err(|source| LogError::Filter {
            text: self.filter.clone(),
            source,
        })?;
        let layer = self.layer()?;
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init();
        Ok(())
    }

    fn layer(&self) -> Result<SinkLayer, LogError> {
        let places = [&self.human, &self.json, &self.stackdriver];
        if places.iter().all(|place| place.is_empty()) {
            return Err(LogError::Nowhere);
        }
        let coloured = self.human == "/dev/stderr" && io::stderr().is_terminal();
        let forms = [Form::Human { coloured }, Form::Json, Form::Stackdriver];
        let mut sinks = Vec::new();
        for (form, place) in forms.into_iter().zip(places) {
            if let Some(to) = open(place)? {
                let to = Mutex::new(to);
                sinks.push(Sink { form, to });
            }
        }
        let debug_filters = match self.debug_filters.is_empty() {
            true => None,
            false => Some(RegexSet::new(&self.debug_filters)?),
        };
        Ok(SinkLayer {
            sinks,
            debug_filters,
        })
    }
}

fn open(place: &str) -> Result<Option<Box<dyn Write + Send>>, LogError> {
    Ok(match place {
        "" | "/dev/null" => None,
        "/dev/stdout" => Some(Box::new(io::stdout())),
        "/dev/stderr" => Some(Box::new(io::stderr())),
        path => {
            let file = RotatingFile::open(Path::new(path)).map_err(|source| LogError::Open {
                path: path.to_owned(),
                source,
            })?;
            Some(Box::new(file))
        }
    })
}

impl<S> Layer<S> for SinkLayer
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(more) = span.extensions().get::<Fields>() {
                fields.append(more);
            }
        }
        let entry = Entry::new(event.metadata(), fields);
        if self.drops(&entry) {
            return;
        }
        for sink in &self.sinks {
            let line = match sink.form {
                Form::Human { coloured } => entry.human(coloured),
                Form::Json => entry.json(),
                Form::Stackdriver => entry.stackdriver(),
            };
            let mut to = sink
                .to
                .lock()
                .expect("no code panics while it writes a log");
            // There is nowhere to report that a log cannot be written.
            let _ = to.write_all(line.as_bytes());
        }
    }
}

impl SinkLayer {
    fn drops(&self, entry: &Entry) -> bool {
        let is_debugging = matches!(entry.level, Level::DEBUG | Level::TRACE);
        let filters = self.debug_filters.as_ref().filter(|_| is_debugging);
        filters.is_some_and(|filters| {
            !filters.is_match(&entry.names.join(".")) && !filters.is_match(&entry.message)
        })
    }
}

impl fmt::Debug for SinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forms = self.sinks.iter().map(|sink| sink.form);
        f.debug_list().entries(forms).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A file that tests can read.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(form: Form, filters: &[&str], events: impl FnOnce()) -> String {
        let shared = Shared::default();
        let to: Box<dyn Write + Send> = Box::new(shared.clone());
        let layer = SinkLayer {
            sinks: vec![Sink {
                form,
                to: Mutex::new(to),
            }],
            debug_filters: (!filters.is_empty()).then(|| RegexSet::new(filters).unwrap()),
        };
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, events);
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const HUMAN: Form = Form::Human { coloured: false };

    #[test]
    fn a_line_for_people_has_level_module_message_and_fields() {
        let text = logged(HUMAN, &[], || {
            let span = tracing::info_span!(target: "outpost_daemon", "job", job_id = "x-1");
            let _entered = span.enter();
            let tags = r#"{"tag1":"value1"}"#;
            tracing::warn!(target: "outpost_daemon::runner", tags, name = "a b", count = 3, "it went\nwrong");
        });

        let (_time, rest) = text.split_once(" [").unwrap();
        assert_eq!(
            rest,
            "warn]  daemon.runner: it went\\nwrong  tags={\"tag1\":\"value1\"}  name=\"a b\"  count=3  job_id=x-1\n"
        );
    }

    #[test]
    fn commands_have_no_module_in_front() {
        let text = logged(HUMAN, &[], || {
            tracing::info!(target: "outpost::cli::provisioner::start", "starting provisioner daemon");
        });

        assert!(
            text.ends_with(" [info]  starting provisioner daemon\n"),
            "{text}"
        );
    }

    #[test]
    fn a_json_line_has_its_keys_in_the_references_order() {
        let text = logged(Form::Json, &[], || {
            tracing::error!(target: "outpost_daemon::runner", reason = "full", "no");
        });

        let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        let expected = [
            "ts",
            "level",
            "msg",
            "caller",
            "func",
            "logger_names",
            "fields",
        ];
        assert_eq!(keys, expected);
        assert_eq!(line["level"], "ERROR");
        assert_eq!(
            line["logger_names"],
            serde_json::json!(["daemon", "runner"])
        );
        assert_eq!(line["fields"], serde_json::json!({"reason": "full"}));
    }

    #[test]
    fn a_stackdriver_line_has_its_fields_at_the_top() {
        let text = logged(Form::Stackdriver, &[], || {
            tracing::warn!(target: "outpost_daemon::runner", reason = "full", "no");
        });

        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["severity"], "WARNING");
        assert_eq!(line["message"], "no");
        assert_eq!(line["reason"], "full");
        let producer = &line["logging.googleapis.com/operation"]["producer"];
        assert_eq!(producer, "daemon.runner");
    }

    #[test]
    fn a_filter_passes_debugging_that_matches_and_all_that_is_no_debugging() {
        let text = logged(HUMAN, &["^daemon", "needle"], || {
            tracing::debug!(target: "outpost_daemon::pulse", "one");
            tracing::debug!(target: "outpost_transport", "two");
            tracing::debug!(target: "outpost_transport", "a needle");
            tracing::info!(target: "outpost_transport", "four");
        });

        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.rsplit(": ").next().unwrap())
            .collect();
        assert_eq!(lines, ["one", "a needle", "four"]);
    }

    #[test]
    fn a_daemon_without_any_log_is_refused_and_one_that_wants_none_is_not() {
        assert!(matches!(
            DaemonLog::default().layer(),
            Err(LogError::Nowhere)
        ));
        let quiet = DaemonLog {
            human: "/dev/null".to_owned(),
            ..DaemonLog::default()
        };
        assert!(quiet.layer().unwrap().sinks.is_empty());
    }
}
