//! Lists that are printed again whenever they change.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use tonic::Status;

use super::{
    outage::{self, Outage},
    output::{self, Format, Output, Row},
};
use crate::stop::Stop;

/// Interval at which the server is asked.
const EVERY: Duration = Duration::from_secs(2);

/// Option `--watch` of lists.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Watch {
    /// Show the list again whenever it changes, until Ctrl-C; with JSON, one line per list
    #[arg(long, short)]
    watch: bool,
}

impl Watch {
    /// Prints the list that `list` returns: once, or until `stop` drains.
    ///
    /// # Errors
    /// What `list` fails with, except that outages of the server are waited for.
    pub(super) async fn print<R: Row>(
        self,
        mut list: impl AsyncFnMut() -> Result<Vec<R>, Status>,
        output: Output,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        if !self.watch {
            return Ok(output.list(&list().await?)?);
        }
        let mut shown = String::new();
        let show = outage::through(Outage::default(), async |outage| {
            loop {
                let rows = list().await?;
                outage.over(output::note);
                let json = serde_json::to_string(&rows).unwrap_or_default();
                let is_news = json != shown;
                shown = json;
                // The end of the reader ends the watch.
                if again(&rows, &shown, is_news, output).is_err() {
                    return Ok(());
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        tokio::select! {
            shown = show => shown,
            () = stop.draining() => Ok(()),
        }
    }
}

/// Prints a list again if it has changed. A terminal shows ages, too, so there it is drawn anew each time.
fn again<R: Row>(rows: &[R], json: &str, is_news: bool, output: Output) -> io::Result<()> {
    match output.format {
        Format::Json if is_news => output::line_to_reader(json),
        Format::Table if io::stdout().is_terminal() => output::instead(&output::table(rows)),
        Format::Table if is_news => output::line_to_reader(&format!("{}\n", output::table(rows))),
        Format::Json | Format::Table => Ok(()),
    }
}
