//! Progress of a sync on stderr: bars on a terminal, plain lines elsewhere.
//!
//! On a terminal retries are shown in the bar of their file, or in one line below all bars, so that a long outage
//! does not push everything else off the screen.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    cli::output,
    mirror::fetch::{FetchError, Watch},
    rules::text::visible,
};

/// Progress display of a sync.
pub(super) struct Bars {
    /// Bars on the terminal; `None` without one.
    screen: Option<MultiProgress>,
    files: Mutex<HashMap<String, ProgressBar>>,
    retries: Mutex<Retries>,
}

/// Retries that happened during the sync.
#[derive(Default)]
struct Retries {
    /// Number of retries of each item.
    counts: HashMap<String, u32>,
    /// Items whose bar shows a retry.
    shown: HashSet<String>,
    /// Line about items without a bar.
    line: Option<ProgressBar>,
}

impl Retries {
    fn add(&mut self, what: &str) -> u32 {
        let count = self.counts.entry(what.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Returns the number of retries, for the end; `None` if there were none.
    fn summary(&self) -> Option<String> {
        let all: u32 = self.counts.values().sum();
        let times = if all == 1 { "time" } else { "times" };
        let things = self.counts.len();
        match self
            .counts
            .iter()
            .max_by_key(|(name, count)| (**count, Reverse(*name)))
        {
            None => None,
            Some((only, _)) if things == 1 => Some(format!("{only} was retried {all} {times}")),
            Some((most, count)) => Some(format!(
                "{things} things were retried {all} {times}, {most} most often ({count})"
            )),
        }
    }
}

/// Text in the bar of a file that is being retried.
fn again(what: &str, count: u32, error: &FetchError, pause: Duration) -> String {
    let seconds = pause.as_secs_f64();
    format!("{what}: retry {count} in {seconds:.1} s ({error})")
}

impl Bars {
    pub(super) fn new() -> Self {
        Self {
            screen: io::stderr().is_terminal().then(MultiProgress::new),
            files: Mutex::default(),
            retries: Mutex::default(),
        }
    }

    /// Removes all bars from the terminal.
    pub(super) fn end(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.drain().for_each(|(_, bar)| bar.finish_and_clear());
        drop(files);
        if self.screen.is_none() {
            return; // Each retry was printed when it happened.
        }
        self.clear_line();
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(summary) = std::mem::take(&mut *retries).summary() {
            self.say(&format!("    {summary}"));
        }
    }

    /// Removes the line about items without a bar, because the work has gone on.
    fn clear_line(&self) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = retries.line.take() {
            line.finish_and_clear();
        }
    }

    /// Shows in the bar of a file that it goes on.
    fn goes_on(&self, name: &str, bar: &ProgressBar) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if retries.shown.remove(name) {
            bar.set_style(style(bar.length()));
            bar.set_message(name.to_owned());
        }
    }

    fn say(&self, text: &str) {
        match &self.screen {
            // A failure means that the terminal is gone, so there is nobody to tell.
            Some(screen) => drop(screen.println(text)),
            None => output::note(text),
        }
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    bar.with_style(style(total)).with_message(name.to_owned())
}

fn style(total: Option<u64>) -> ProgressStyle {
    styled(match total {
        Some(_) => "    {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "    {msg} {spinner} {bytes} {bytes_per_sec}",
    })
}

/// Style of a line of text, cut at the edge of the terminal.
fn text_style() -> ProgressStyle {
    styled("    {wide_msg}")
}

fn styled(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constant")
}

impl Watch for Bars {
    fn phase(&self, what: &str) {
        self.clear_line();
        self.say(&format!("==> {what}"));
    }

    fn arrived(&self, name: &str, bytes: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = files.remove(name) {
            bar.finish_and_clear();
        }
        drop(files);
        self.clear_line();
        self.say(&format!("    {name} ({})", HumanBytes(bytes)));
    }

    fn note(&self, text: &str) {
        self.say(&format!("    note: {text}"));
    }

    fn advanced(&self, name: &str, bytes: u64, total: Option<u64>) {
        let Some(screen) = &self.screen else {
            return;
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || screen.add(bar(name, total));
        let bar = files.entry(name.to_owned()).or_insert_with(fresh);
        bar.set_position(bytes);
        self.goes_on(name, bar);
    }

    fn trying_again(&self, what: &str, error: &FetchError, pause: Duration) {
        let Some(screen) = &self.screen else {
            let seconds = pause.as_secs_f64();
            return output::note(&format!("    {what}: {error}; retrying in {seconds:.1} s"));
        };
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let count = retries.add(what);
        let text = visible(&again(what, count, error, pause)).into_owned();
        if let Some(bar) = files.get(what) {
            retries.shown.insert(what.to_owned());
            bar.set_style(text_style());
            return bar.set_message(text);
        }
        let fresh = || screen.add(ProgressBar::new_spinner().with_style(text_style()));
        let line = retries.line.get_or_insert_with(fresh);
        line.set_message(text);
        line.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_was_retried_most_often() {
        let mut retries = Retries::default();
        assert_eq!(retries.summary(), None);

        assert_eq!((retries.add("b.zip"), retries.add("b.zip")), (1, 2));
        assert_eq!(retries.summary().unwrap(), "b.zip was retried 2 times");
        retries.add("a.zip");

        let expected = "2 things were retried 3 times, b.zip most often (2)";
        assert_eq!(retries.summary().unwrap(), expected);
    }
}
