//! When a script runs by itself.
//!
//! # Source
//! coder `agent/agentscripts/agentscripts.go`: seconds come first and the weekday is optional; the grammar of
//! `github.com/robfig/cron/v3`, where Sunday is 0, and either the day or the weekday counts if both are limited.

use chrono::{DateTime, TimeZone};
use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};

/// Fields of an expression without a weekday.
const WITHOUT_WEEKDAY: usize = 5;

/// The times of a script.
pub struct Schedule(Cron);

impl Schedule {
    /// Reads a template's expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(expression: &str) -> Result<Self, CronError> {
        let parser = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .sloppy_ranges(true)
            .build();
        let is_short = expression.split_whitespace().count() == WITHOUT_WEEKDAY;
        let weekday = if is_short { " *" } else { "" };
        Ok(Self(parser.parse(&format!("{expression}{weekday}"))?))
    }

    /// The first of its times after `now`; `None` if there never is one.
    pub fn after<Tz: TimeZone>(&self, now: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        self.0.find_next_occurrence(now, false).ok()
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn next(expression: &str, now: &str) -> String {
        let now: DateTime<Utc> = now.parse().unwrap();
        let schedule = Schedule::parse(expression).unwrap();
        let next = schedule.after(&now).unwrap();
        next.format("%a %Y-%m-%d %H:%M:%S").to_string()
    }

    #[test]
    fn times_are_those_that_coder_s_agent_finds() {
        // A Saturday.
        let now = "2026-11-28T10:00:00Z";
        for (expression, expected) in [
            ("0 0 9 * * 1", "Mon 2026-11-30 09:00:00"),
            ("0 0 9 * * 0", "Sun 2026-11-29 09:00:00"),
            ("0 0 9 * * SUN", "Sun 2026-11-29 09:00:00"),
            ("0 0 9 * * 1-5", "Mon 2026-11-30 09:00:00"),
            ("*/15 * * * *", "Sat 2026-11-28 10:00:15"),
            ("30 5/10 * * * *", "Sat 2026-11-28 10:05:30"),
            ("0 0 12 1 * 1", "Mon 2026-11-30 12:00:00"),
            ("0 0 12 1 JAN ?", "Fri 2027-01-01 12:00:00"),
        ] {
            assert_eq!(next(expression, now), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for expression in ["", "* * * *", "61 * * * * *", "0 0 9 * * 1 2026", "often"] {
            assert!(Schedule::parse(expression).is_err(), "{expression:?}");
        }
    }
}
