//! Cron expressions in the `coder` provider's dialects: with seconds for scripts, without for prebuilt workspaces.

use crate::go;

/// Fields of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Second, minute, hour, day, month and optionally weekday; or `@daily` and the like.
    Script,
    /// Minute, hour, day, month and optionally weekday; or `@daily` and the like.
    Unix,
    /// Minute, hour, day, month and weekday.
    Prebuild,
}

struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const SECOND: Bounds = numbers(0, 59);
const MINUTE: Bounds = numbers(0, 59);
const HOUR: Bounds = numbers(0, 23);
const DAY: Bounds = numbers(1, 31);
const MONTH: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const WEEKDAY: Bounds = Bounds {
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

const fn numbers(min: u64, max: u64) -> Bounds {
    Bounds {
        min,
        max,
        names: &[],
    }
}

impl Form {
    fn fields(self) -> &'static [Bounds] {
        match self {
            Self::Script => &[SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY],
            Self::Unix | Self::Prebuild => &[MINUTE, HOUR, DAY, MONTH, WEEKDAY],
        }
    }

    fn optional_weekday(self) -> bool {
        self != Self::Prebuild
    }
}

/// Checks whether `expression` is valid.
///
/// # Errors
/// The problem, as text for the author.
///
/// # Source
/// The grammar of `github.com/robfig/cron/v3` with the options of the provider's `script.go` and
/// `workspace_preset.go`.
pub(super) fn check(expression: &str, form: Form) -> Result<(), String> {
    let expression = without_timezone(expression)?;
    if expression.starts_with('@') {
        return descriptor(expression, form);
    }
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let most = form.fields().len();
    let least = most - usize::from(form.optional_weekday());
    if !(least..=most).contains(&fields.len()) {
        return Err(wrong_count(least, most, &fields));
    }
    let mut pairs = fields.iter().zip(form.fields());
    pairs.try_for_each(|(field, bounds)| field.split(',').try_for_each(|part| range(part, bounds)))
}

fn wrong_count(least: usize, most: usize, fields: &[&str]) -> String {
    let found = fields.len();
    let fields = fields.join(" ");
    if least == most {
        format!("expected exactly {least} fields, found {found}: [{fields}]")
    } else {
        format!("expected {least} to {most} fields, found {found}: [{fields}]")
    }
}

fn without_timezone(expression: &str) -> Result<&str, String> {
    if expression.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let Some(zone) = ["TZ=", "CRON_TZ="]
        .iter()
        .find_map(|prefix| expression.strip_prefix(prefix))
    else {
        return Ok(expression);
    };
    let (zone, rest) = zone.split_once(' ').unwrap_or((zone, ""));
    go::check_timezone(zone).map_err(|error| format!("provided bad location {zone}: {error}"))?;
    Ok(rest.trim())
}

fn descriptor(text: &str, form: Form) -> Result<(), String> {
    match text {
        _ if form == Form::Prebuild => Err(format!("parser does not accept descriptors: {text}")),
        "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly" => {
            Ok(())
        }
        _ => match text.strip_prefix("@every ") {
            Some(duration) => go::check_duration(duration)
                .map_err(|error| format!("failed to parse duration {text}: {error}")),
            None => Err(format!("unrecognized descriptor: {text}")),
        },
    }
}

/// Checks `*`, `4`, `4-8`, `*/2`, `4/2` or `4-8/2`, with names in place of numbers where they exist.
fn range(part: &str, bounds: &Bounds) -> Result<(), String> {
    // There may be nothing between two commas, as long as the field itself is present.
    if part.is_empty() {
        return Ok(());
    }
    let mut slashes = part.split('/');
    let span = slashes.next().unwrap_or_default();
    let step = slashes.next();
    if slashes.next().is_some() {
        return Err(format!("too many slashes: {part}"));
    }
    let (start, end) = span_of(span, part, bounds)?;
    let (step, end) = match step {
        Some(step) if !span.contains('-') => (number(step)?, bounds.max.max(end)),
        Some(step) => (number(step)?, end),
        None => (1, end),
    };
    in_bounds(start, end, step, bounds).map_err(|problem| format!("{problem}: {part}"))
}

fn span_of(span: &str, part: &str, bounds: &Bounds) -> Result<(u64, u64), String> {
    let ends: Vec<&str> = span.split('-').collect();
    match ends.as_slice() {
        ["*" | "?", ..] => Ok((bounds.min, bounds.max)),
        [one] => number_or_name(one, bounds).map(|n| (n, n)),
        [low, high] => Ok((number_or_name(low, bounds)?, number_or_name(high, bounds)?)),
        _ => Err(format!("too many hyphens: {part}")),
    }
}

fn in_bounds(start: u64, end: u64, step: u64, bounds: &Bounds) -> Result<(), String> {
    let Bounds { min, max, .. } = *bounds;
    if start < min {
        return Err(format!(
            "beginning of range ({start}) below minimum ({min})"
        ));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max})"));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end})"
        ));
    }
    if step == 0 {
        return Err("step of range should be a positive number".to_owned());
    }
    Ok(())
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(index) => Ok(bounds.min + u64::try_from(index).unwrap_or(u64::MAX)),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let value: i64 = text
        .parse()
        .map_err(|_| format!("failed to parse int from {text}"))?;
    u64::try_from(value).map_err(|_| format!("negative number ({value}) not allowed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_may_have_seconds_names_steps_and_descriptors() {
        for good in [
            "0 0 22 * * *",
            "*/5 * * * * mon-fri",
            "0 30 9 1,15 jan-JUN 1-5",
            "0 0 22 * *",
            "@daily",
            "@every 1h30m",
            "TZ=Europe/Berlin 0 0 22 * * *",
            "? ? ? ? ? ?",
            "5/15 * * * * *",
        ] {
            assert_eq!(check(good, Form::Script), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        for (bad, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected 5 to 6 fields, found 4: [* * * *]"),
            ("60 * * * * *", "end of range (60) above maximum (59): 60"),
            ("* * * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * * *",
                "step of range should be a positive number: */0",
            ),
            ("1-2-3 * * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * * *", "too many slashes: 1/2/3"),
            ("x * * * * *", "failed to parse int from x"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(check(bad, Form::Script), Err(why.to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_prebuild_schedule_has_exactly_five_fields_and_no_descriptor() {
        assert_eq!(check("* 8-18 * * 1-5", Form::Prebuild), Ok(()));
        for bad in ["* 8-18 * *", "0 * 8-18 * * 1-5", "@daily"] {
            assert!(check(bad, Form::Prebuild).is_err(), "{bad}");
        }
    }
}
