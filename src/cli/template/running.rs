//! What runs now, on a terminal: a line on stderr that disappears at the end. Elsewhere nothing is shown.

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Names that fit on a line; further ones are counted.
const SHOWN: usize = 3;

/// The display, for a known number of things.
pub(super) struct Running {
    bar: Option<ProgressBar>,
    names: Mutex<Vec<String>>,
}

/// One thing that runs, until it is dropped.
pub(super) struct Started<'a> {
    all: &'a Running,
    name: String,
}

impl Running {
    /// A display for `total` things, such as `templates`.
    pub(super) fn new(total: usize, what: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| bar(total, what));
        Self {
            bar,
            names: Mutex::default(),
        }
    }

    /// Shows a name until what is returned is dropped.
    pub(super) fn start(&self, name: String) -> Started<'_> {
        self.change(|names| names.push(name.clone()));
        Started { all: self, name }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<String>)) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut names);
        if let Some(bar) = &self.bar {
            bar.set_message(message(&names));
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.all.change(|names| {
            let index = names.iter().position(|it| *it == self.name);
            index.map(|index| names.remove(index));
        });
        if let Some(bar) = &self.all.bar {
            bar.inc(1);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: usize, what: &str) -> ProgressBar {
    let template = format!("{{spinner}} {{pos}} of {{len}} {what} ({{elapsed}}) {{wide_msg}}");
    let style = ProgressStyle::with_template(&template).expect("the template is constant");
    let bar = ProgressBar::new(total as u64).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn message(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_now_is_named() {
        let running = Running::new(5, "templates");
        let names = || message(&running.names.lock().unwrap());
        let first = running.start("a".to_owned());
        let rest: Vec<_> = ["b", "c", "d", "a"]
            .map(|name| running.start(name.to_owned()))
            .into();
        assert_eq!(names(), "a, b, c, and 2 more");
        drop(rest);
        assert_eq!(names(), "a");
        drop(first);
        assert_eq!(names(), "");
    }
}
