//! Logging and build information. The commands set them up; services only write `tracing` events.
//!
//! Logs go to stderr, so that stdout holds nothing but a command's result.

mod daemon_log;
pub mod metrics;

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::ParseError};

pub use self::daemon_log::{DaemonLog, LogError};

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people, coloured on a terminal.
    #[default]
    Human,
    /// One JSON object per line, with the fields of all spans around the event.
    Json,
}

/// Sends events that `filter` lets through to stderr. A second call in one process does nothing.
///
/// `filter` is a level, or directives such as `outpost=debug,sqlx=warn`; boringtun needs one of its own to be seen.
///
/// # Errors
/// If `filter` does not parse.
pub fn init(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = parse_filter(filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let _ = match format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().with_current_span(true).try_init(),
    };
    Ok(())
}

/// Parses the filter, and hides errors and warnings of boringtun about peers that are silent. Both are normal in the
/// overlay, and do not say which peer is meant.
fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    let is_complete = filter.is_empty() || filter.contains("boringtun");
    let quiet = if is_complete { "" } else { ",boringtun=off" };
    EnvFilter::builder().parse(format!("{}{quiet}", by_crate(filter)))
}

/// Modules of this package. All others are crates, whose events carry the crate's name: `outpost_net`.
const OWN_MODULES: [&str; 4] = ["cli", "client", "config", "observe"];

/// Renames modules that are crates in the directives: `outpost::net=debug` becomes `outpost_net=debug`.
/// `outpost=debug` needs no change: a directive holds for all targets that begin with it.
fn by_crate(filter: &str) -> String {
    let directives = filter.split(',').map(|directive| {
        let inner = directive.trim_start().strip_prefix("outpost::");
        let module = |inner: &str| {
            let end = inner.find(|c: char| !c.is_alphanumeric() && c != '_');
            inner[..end.unwrap_or(inner.len())].to_owned()
        };
        match inner {
            Some(inner) if !OWN_MODULES.contains(&module(inner).as_str()) => {
                format!("outpost_{inner}")
            }
            _ => directive.to_owned(),
        }
    });
    directives.collect::<Vec<_>>().join(",")
}

/// Build information about this program.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct BuildInfo {
    /// Semantic version of the program.
    pub version: &'static str,
    /// Platform that it was built for, in Terraform's words, such as `linux_amd64`.
    pub platform: &'static str,
    /// Set if it was built without optimisation.
    pub debug: bool,
}

/// Build information about this program.
pub const BUILD: BuildInfo = BuildInfo {
    version: env!("CARGO_PKG_VERSION"),
    platform: PLATFORM,
    debug: cfg!(debug_assertions),
};

const PLATFORM: &str = if cfg!(target_os = "macos") {
    if cfg!(target_arch = "aarch64") {
        "darwin_arm64"
    } else {
        "darwin_amd64"
    }
} else if cfg!(target_arch = "aarch64") {
    "linux_arm64"
} else if cfg!(target_arch = "x86_64") {
    "linux_amd64"
} else {
    "unknown"
};

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled, subscriber::with_default};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Returns whether an error of boringtun's is shown, and a warning of ours.
    fn shown(filter: &str) -> (bool, bool) {
        let subscriber = tracing_subscriber::registry().with(parse_filter(filter).unwrap());
        with_default(subscriber, || {
            let theirs = enabled!(target: "boringtun::noise::timers", Level::ERROR);
            (theirs, enabled!(Level::WARN))
        })
    }

    /// Returns whether trace events of the mirror, the tailnet, and a command are shown.
    fn traced(filter: &str) -> [bool; 3] {
        let subscriber = tracing_subscriber::registry().with(parse_filter(filter).unwrap());
        with_default(subscriber, || {
            [
                enabled!(target: "outpost_mirror::sync", Level::TRACE),
                enabled!(target: "outpost_tailnet", Level::TRACE),
                enabled!(target: "outpost::cli::dev", Level::TRACE),
            ]
        })
    }

    #[test]
    fn a_directive_reaches_the_crates_of_the_modules_that_it_names() {
        assert_eq!(traced("outpost=trace"), [true; 3]);
        assert_eq!(traced("warn,outpost::mirror=trace"), [true, false, false]);
        assert_eq!(
            traced("outpost::tailnet=trace,outpost::cli::dev=trace"),
            [false, true, true]
        );
        assert_eq!(traced("outpost::mirror::serve=trace"), [false; 3]);
        assert_eq!(traced("outpost_tailnet=trace"), [false, true, false]);
    }

    #[test]
    fn what_boringtun_logs_is_shown_only_to_those_who_ask_for_it() {
        for filter in ["warn", "info", "debug", "outpost=trace"] {
            assert_eq!(shown(filter), (false, true), "{filter}");
        }
        assert_eq!(shown("warn,boringtun=warn"), (true, true));
        assert!(parse_filter("outpost=loud").is_err());
    }
}
