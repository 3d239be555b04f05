//! Schedules of prebuilt workspaces: each covers whole hours, and no two may require a number of workspaces at the
//! same time.

use std::collections::BTreeSet;

use crate::cron::{self, Form};

/// Checks whether one schedule of a preset is well-formed.
///
/// # Errors
/// The problem, as text for the author.
pub(super) fn check(cron: &str) -> Result<(), String> {
    let fields: Vec<&str> = cron.split_whitespace().collect();
    let failed = |why: &str| Err(format!("cron spec failed validation: {why}"));
    match fields.as_slice() {
        ["*", _, _, _, _] => {}
        [_, _, _, _, _] => return failed("minute field should be *"),
        _ => return failed("cron specification should consist of 5 fields"),
    }
    cron::check(cron, Form::Prebuild).map_err(|error| format!("failed to parse cron spec: {error}"))
}

/// Checks that no two of `crons`, which [`check`] accepted, are active at the same time.
///
/// # Errors
/// The pair that overlaps, or a field that is not a list of numbers and ranges: names and steps, though valid in
/// cron, cannot be compared.
///
/// # Source
/// The provider's `provider/helpers/schedule_validation.go`: days overlap if the weekdays do where a day of the month
/// is `*`, if the days of the month do where a weekday is `*`, else if either does.
pub(super) fn check_overlaps(crons: &[&str]) -> Result<(), String> {
    for (index, first) in crons.iter().enumerate() {
        for second in &crons[index + 1..] {
            let both = overlap(first, second).map_err(|e| format!("invalid schedule: {e}"))?;
            if both {
                return Err(format!("schedules overlap: {first} and {second}"));
            }
        }
    }
    Ok(())
}

fn overlap(first: &str, second: &str) -> Result<bool, String> {
    let a: Vec<&str> = first.split_whitespace().collect();
    let b: Vec<&str> = second.split_whitespace().collect();
    let (&[_, hours1, day1, month1, week1], &[_, hours2, day2, month2, week2]) =
        (a.as_slice(), b.as_slice())
    else {
        return Err("expected 5 fields".to_owned());
    };
    let named = |what: &'static str| move |e: String| format!("invalid {what} range: {e}");
    Ok(common(month1, month2, 12).map_err(named("month"))?
        && days_overlap((day1, week1), (day2, week2)).map_err(named("day"))?
        && common(hours1, hours2, 23).map_err(named("hour"))?)
}

/// Returns whether the days of the month or the weekdays of two schedules overlap: cron runs when either matches.
fn days_overlap((day1, week1): (&str, &str), (day2, week2): (&str, &str)) -> Result<bool, String> {
    if day1 == "*" || day2 == "*" {
        return common(week1, week2, 6);
    }
    if week1 == "*" || week2 == "*" {
        return common(day1, day2, 31);
    }
    let days = common(day1, day2, 31)?;
    Ok(common(week1, week2, 6)? || days)
}

fn common(first: &str, second: &str, max: u32) -> Result<bool, String> {
    let (first, second) = (values(first, max)?, values(second, max)?);
    Ok(!first.is_disjoint(&second))
}

fn values(field: &str, max: u32) -> Result<BTreeSet<u32>, String> {
    if field == "*" {
        return Ok((0..=max).collect());
    }
    let mut found = BTreeSet::new();
    for part in field.split(',') {
        let (start, end) = part.split_once('-').unwrap_or((part, part));
        let (start, end) = (number(start)?, number(end)?);
        if end > max || start > end {
            return Err(format!(
                "invalid range {start}-{end}: values must be between 0 and {max}"
            ));
        }
        found.extend(start..=end);
    }
    Ok(found)
}

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("invalid value {text:?}: expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_covers_whole_hours() {
        assert_eq!(check("* 8-18 * * 1-5"), Ok(()));
        assert!(check("30 8-18 * * 1-5").unwrap_err().contains("minute"));
        assert!(check("* 8-18 * *").unwrap_err().contains("5 fields"));
        assert!(check("* 25 * * *").unwrap_err().contains("above maximum"));
    }

    #[test]
    fn overlapping_schedules_are_found() {
        for (first, second) in [
            ("* 9-14 * * 1-5", "* 12-18 * * 1-5"),
            ("* * * * 1-5", "* 9-18 * * 1-5"),
            ("* 9-18 1 * 1-4", "* 9-18 1 * 3-5"),
            ("* 9-18 1 * 1,3,5", "* 9-18 1 * 2,4,6"),
            ("* 9-18 1-15 * *", "* 9-18 10-20 * 3"),
            ("* 9-11,13-15 * * 1-5", "* 10-12,14-16 * * 1-5"),
        ] {
            let error = check_overlaps(&["* 3 * 1 0", first, second]).unwrap_err();
            assert_eq!(error, format!("schedules overlap: {first} and {second}"));
        }
    }

    #[test]
    fn schedules_side_by_side_are_fine() {
        for (first, second) in [
            ("* 9-12 * * 1-5", "* 13-18 * * 1-5"),
            ("* 9-18 * * 1,3,5", "* 9-18 * * 2,4,6"),
            ("* 9-18 1 * 1-3", "* 9-18 2 * 4-5"),
            ("* 9-18 1-15 * *", "* 9-18 16-31 * *"),
            ("* 9-18 * 1-6 *", "* 9-18 * 7-12 *"),
        ] {
            assert_eq!(check_overlaps(&[first, second]), Ok(()), "{first} {second}");
        }
    }

    #[test]
    fn a_field_that_cannot_be_compared_is_an_error() {
        let error = check_overlaps(&["* 9-18 * * mon", "* 9-18 * * 1"]).unwrap_err();

        assert!(
            error.starts_with("invalid schedule: invalid day range"),
            "{error}"
        );
    }
}
