//! Schedules of scripts that run at set times.
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

/// Number of fields in an expression without a weekday.
const WITHOUT_WEEKDAY: usize = 5;

/// Times at which a script runs.
pub struct Schedule(Cron);

impl Schedule {
    /// Parses a template's expression.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn parse(expression: &str) -> Result<Self, CronError> {
        let parser = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .sloppy_ranges(true)
            .build();
        let mut fields = expression
            .split_whitespace()
            .map(values)
            .collect::<Result<Vec<_>, _>>()?;
        if fields.len() == WITHOUT_WEEKDAY {
            fields.push("*".to_owned());
        }
        Ok(Self(parser.parse(&fields.join(" "))?))
    }

    /// Returns the first of its times after `now`; `None` if there never is one.
    pub fn after<Tz: TimeZone>(&self, now: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        self.0.find_next_occurrence(now, false).ok()
    }
}

/// Removes the empty values between the commas of a field. A field without any other value would never match, and be
/// searched for until the end of time; so would one of only a sign that the parser knows beyond the grammar.
fn values(field: &str) -> Result<String, CronError> {
    let is_known = |it: char| it.is_ascii_alphanumeric() || "*?,-/".contains(it);
    if let Some(odd) = field.chars().find(|it| !is_known(*it)) {
        let reason = format!("`{field}` has `{odd}`, which means nothing in a schedule");
        return Err(CronError::InvalidPattern(reason));
    }
    let values: Vec<&str> = field.split(',').filter(|it| !it.is_empty()).collect();
    match values.is_empty() {
        true => Err(CronError::InvalidPattern(format!("`{field}` has no value"))),
        false => Ok(values.join(",")),
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
            ("0 ,0,,30 * * * *", "Sat 2026-11-28 10:30:00"),
            ("0 0 12 1 JAN ?", "Fri 2027-01-01 12:00:00"),
        ] {
            assert_eq!(next(expression, now), expected, "{expression}");
        }
    }

    #[test]
    fn a_day_that_never_comes_is_not_waited_for() {
        let schedule = Schedule::parse("0 0 0 30 2 *").unwrap();

        assert_eq!(schedule.after(&DateTime::UNIX_EPOCH), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let is_long = "0 0 9 * * 1 2026";
        for expression in [
            "",
            "* * * *",
            "61 * * * * *",
            is_long,
            "often",
            ", 23 3 * *",
            "02 0 0 3 5 +",
            "0 0 0 * * 1#2",
        ] {
            assert!(Schedule::parse(expression).is_err(), "{expression:?}");
        }
    }
}
