//! How a sync goes on, on stderr: bars on a terminal, plain lines elsewhere.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    cli::output,
    mirror::fetch::{FetchError, Watch},
};

/// Shows what a sync does.
pub(super) struct Bars {
    /// `None` if nobody looks at a terminal.
    screen: Option<MultiProgress>,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self {
            screen: io::stderr().is_terminal().then(MultiProgress::new),
            files: Mutex::default(),
        }
    }

    /// Removes all bars.
    pub(super) fn end(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.drain().for_each(|(_, bar)| bar.finish_and_clear());
    }

    fn say(&self, text: &str) {
        match &self.screen {
            // If the terminal is gone, nobody is there to be told.
            Some(screen) => drop(screen.println(text)),
            None => output::note(text),
        }
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "    {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "    {msg} {spinner} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    bar.with_style(style).with_message(name.to_owned())
}

impl Watch for Bars {
    fn phase(&self, what: &str) {
        self.say(&format!("==> {what}"));
    }

    fn arrived(&self, name: &str, bytes: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = files.remove(name) {
            bar.finish_and_clear();
        }
        drop(files);
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
    }

    fn trying_again(&self, what: &str, error: &FetchError, pause: Duration) {
        let seconds = pause.as_secs_f64();
        self.say(&format!("    {what}: {error}; retrying in {seconds:.1} s"));
    }
}
