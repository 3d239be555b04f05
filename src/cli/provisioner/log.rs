//! Log of a daemon, as configured by its options.

use super::args::LogArgs;
use crate::{
    cli::values::Csv,
    observe::{DaemonLog, LogFormat},
};

/// Combines the options of the log; `filter` and `format` are the program's own options, and win.
pub(super) fn daemon_log(args: &LogArgs, filter: Option<&str>, format: LogFormat) -> DaemonLog {
    let debug_filters: Vec<String> = Csv::all(&args.log_filter).map(str::to_owned).collect();
    let default = if args.verbose || !debug_filters.is_empty() {
        "info,outpost=debug"
    } else {
        "info"
    };
    let (mut human, mut json) = (args.log_human.clone(), args.log_json.clone());
    if format == LogFormat::Json && json.is_empty() {
        json = std::mem::take(&mut human);
    }
    DaemonLog {
        filter: filter.unwrap_or(default).to_owned(),
        debug_filters,
        human,
        json,
        stackdriver: args.log_stackdriver.clone(),
    }
}
