//! A job's log on stderr while it runs: a bar with the stage on a terminal, plain lines elsewhere.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{follow::Show, output};
use crate::proto::{outpost::v1::LogLine, provisioner::LogLevel};

/// Number of lines that are not shown but remembered, in case the job fails.
const REMEMBERED: usize = 100;

/// Display of a job's log.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    stage: Option<(String, Instant)>,
    steps: Steps,
    lowest: LogLevel,
    /// Latest lines of this stage that were not shown, from INFO on.
    hidden: VecDeque<String>,
}

impl Progress {
    /// Creates a display that shows as much as `show` says.
    pub(super) fn new(show: Show) -> Self {
        Self {
            bar: io::stderr().is_terminal().then(bar),
            stage: None,
            steps: Steps::default(),
            lowest: match show {
                Show::Stages => LogLevel::Warn,
                Show::Log => LogLevel::Info,
                Show::Everything => LogLevel::Trace,
            },
            hidden: VecDeque::new(),
        }
    }

    /// Shows one entry of the log, which may have several lines.
    pub(super) fn show(&mut self, line: &LogLine) {
        if self
            .stage
            .as_ref()
            .is_none_or(|(stage, _)| *stage != line.stage)
        {
            self.end_stage();
            self.stage = Some((line.stage.clone(), Instant::now()));
            self.say(&format!("==> {}", line.stage));
        }
        self.steps.read(&line.output);
        let is_shown = line.level() >= self.lowest;
        for text in line.output.lines() {
            match is_shown {
                true => self.say(&format!("    {text}")),
                false if line.level() >= LogLevel::Info => self.remember(text),
                false => {}
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}{}", line.stage, self.steps));
        }
    }

    /// Shows the lines of the current stage that were not shown so far.
    pub(super) fn show_hidden(&mut self) {
        for text in std::mem::take(&mut self.hidden) {
            self.say(&format!("    {text}"));
        }
    }

    fn remember(&mut self, text: &str) {
        if self.hidden.len() == REMEMBERED {
            self.hidden.pop_front();
        }
        self.hidden.push_back(text.to_owned());
    }

    fn end_stage(&mut self) {
        self.hidden.clear();
        let Some((_, began)) = self.stage.take() else {
            return;
        };
        self.steps = Steps::default();
        let took = began.elapsed();
        if took >= Duration::from_secs(1) {
            self.say(&format!("    ({:.1} s)", took.as_secs_f64()));
        }
    }

    /// Prints a note beside the log.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => output::note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end_stage();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .expect("the template is constant");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Number of resources that the engine has finished, read from its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps {
    done: u32,
    planned: u32,
}

impl Steps {
    fn read(&mut self, output: &str) {
        for line in output.lines() {
            if let Some(counts) = line.trim_start().strip_prefix("Plan: ") {
                *self = Self {
                    done: 0,
                    planned: sum_of_numbers(counts),
                };
            } else if [
                ": Creation complete",
                ": Destruction complete",
                ": Modifications complete",
            ]
            .iter()
            .any(|end| line.contains(end))
            {
                self.done += 1;
            }
        }
    }
}

impl std::fmt::Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.done, self.planned) {
            (0, _) => Ok(()),
            (done, 0) => write!(f, " ({done} done)"),
            (done, planned) => write!(f, " ({done} of {planned})"),
        }
    }
}

/// Sum of the numbers in a text: 4 for `3 to add, 0 to change, 1 to destroy.`.
fn sum_of_numbers(text: &str) -> u32 {
    text.split_whitespace()
        .filter_map(|word| word.parse::<u32>().ok())
        .fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_count_what_the_engine_is_done_with() {
        let mut steps = Steps::default();

        steps.read("Plan: 2 to add, 0 to change, 1 to destroy.");
        steps.read("a.b: Creating...\na.b: Creation complete after 0s [id=1]");
        steps.read("c.d[0]: Destruction complete after 2s");

        assert_eq!(
            steps,
            Steps {
                done: 2,
                planned: 3
            }
        );
        assert_eq!(steps.to_string(), " (2 of 3)");
    }
}
