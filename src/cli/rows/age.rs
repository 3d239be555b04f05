//! Points in time, as they are printed.

use jiff::Timestamp;

/// Converts milliseconds to a point in time, which JSON prints in RFC 3339 and tables as an age.
pub(in crate::cli) fn time(milliseconds: i64) -> Option<Timestamp> {
    (milliseconds != 0)
        .then(|| Timestamp::from_millisecond(milliseconds).ok())
        .flatten()
}

/// Formats the age of a point in time, such as `3m`; empty for never.
pub(in crate::cli) fn age(time: Option<Timestamp>) -> String {
    let Some(time) = time else {
        return String::new();
    };
    brief(Timestamp::now().duration_since(time).as_secs())
}

/// Formats an age and the time itself; empty for never.
pub(in crate::cli) fn ago(time: Option<Timestamp>) -> String {
    let text = |at: Timestamp| {
        let at_utc = at.strftime("%Y-%m-%d %H:%M:%S UTC");
        format!("{} ago ({at_utc})", age(time))
    };
    time.map(text).unwrap_or_default()
}

/// Formats the time until then, such as `3m`.
pub(in crate::cli) fn time_until(time: Option<Timestamp>) -> String {
    let Some(time) = time else {
        return String::new();
    };
    brief(time.duration_since(Timestamp::now()).as_secs())
}

/// Formats seconds in the largest unit that fits at least once.
fn brief(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = UNITS.into_iter().find(|(unit, _)| seconds >= *unit);
    let (unit, name) = unit.unwrap_or((1, "s"));
    format!("{}{name}", seconds.max(0) / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_the_largest_unit_that_fits() {
        for (seconds, expected) in [
            (-5, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7_199, "1h"),
            (86_400 * 40, "40d"),
            (86_400 * 800, "2y"),
        ] {
            assert_eq!(brief(seconds), expected);
        }
    }
}
