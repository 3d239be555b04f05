//! Behaviour of Go's standard library that the provider depends on: numbers, URLs, regular expressions.

mod regex;
mod url;

use std::time::Duration;

pub(super) use self::{
    regex::regex,
    url::{Url, check_external, parse_url},
};

/// Returns whether `text` is a number for `strconv.ParseFloat`.
pub(super) fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => true,
        // Go accepts it only without a sign.
        "nan" => text.len() == 3,
        lower => match lower.strip_prefix("0x") {
            Some(hex) => is_hex_number(hex),
            None => is_decimal_number(lower),
        },
    }
}

fn is_decimal_number(text: &str) -> bool {
    let underscores_ok = text
        .split('_')
        .collect::<Vec<_>>()
        .windows(2)
        .all(|pair| pair[0].ends_with(is_digit) && pair[1].starts_with(is_digit));
    let digits = text.replace('_', "");
    let plain = digits.bytes().all(|b| b"0123456789.e+-".contains(&b));
    let signed = digits.starts_with(['+', '-']);
    let value = digits.parse::<f64>();
    underscores_ok && plain && !signed && value.is_ok_and(f64::is_finite)
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// Returns whether a text consists of hexadecimal digits with at most one point, followed by the required binary
/// exponent.
fn is_hex_number(text: &str) -> bool {
    let Some((mantissa, exponent)) = text.split_once('p') else {
        return false;
    };
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let digits = mantissa.replacen('.', "", 1);
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && !exponent.is_empty()
        && exponent.bytes().all(|b| b.is_ascii_digit())
}

/// Parses an integer as `strconv.Atoi` does.
pub(super) fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Returns whether `text` is a boolean for `strconv.ParseBool`.
pub(super) fn is_bool(text: &str) -> bool {
    [
        "1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False",
    ]
    .contains(&text)
}

/// Parses a JSON array of strings. As in `encoding/json`, `null` is an empty array, or an empty string inside.
pub(super) fn string_list(text: &str) -> Option<Vec<String>> {
    let list: Option<Vec<Option<String>>> = serde_json::from_str(text).ok()?;
    let items = list.unwrap_or_default().into_iter();
    Some(items.map(Option::unwrap_or_default).collect())
}

/// Checks that `name` is in the IANA database, or one of the names that Go accepts without it.
///
/// # Errors
/// The text of the error of `time.LoadLocation`.
pub(super) fn check_timezone(name: &str) -> Result<(), String> {
    if ["", "UTC", "Local"].contains(&name) {
        return Ok(());
    }
    // The database here ignores case, Go's does not.
    let found = jiff::tz::TimeZone::get(name);
    let exact = found.is_ok_and(|zone| zone.iana_name() == Some(name));
    exact
        .then_some(())
        .ok_or_else(|| format!("unknown time zone {name}"))
}

/// Checks a duration such as `1h30m` or `-1.5s`.
///
/// # Errors
/// The text of the error of `time.ParseDuration`.
pub(super) fn check_duration(text: &str) -> Result<(), String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let invalid = || format!("time: invalid duration {text:?}");
    if unsigned == "0" {
        return Ok(());
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut rest = unsigned;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|c: char| c == '.' || is_digit(c))
                .len();
        let (number, tail) = rest.split_at(digits);
        let unit_length = tail.find(|c: char| c == '.' || is_digit(c));
        let (unit, tail) = tail.split_at(unit_length.unwrap_or(tail.len()));
        let number: f64 = number.parse().map_err(|_| invalid())?;
        seconds += number * unit_seconds(unit).ok_or_else(invalid)?;
        rest = tail;
    }
    // Go counts nanoseconds in 63 bits.
    let nanoseconds = Duration::try_from_secs_f64(seconds).map(|d| d.as_nanos());
    match nanoseconds {
        Ok(count) if count <= i64::MAX.unsigned_abs().into() => Ok(()),
        Ok(_) | Err(_) => Err(invalid()),
    }
}

fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1e-9),
        "us" | "µs" | "μs" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_go_takes_for_numbers() {
        for good in [
            "1",
            "-1.5",
            "+.5",
            "5.",
            "1e9",
            "1_000",
            "Inf",
            "-infinity",
            "NaN",
            "0x1p-2",
            "0X.8P1",
        ] {
            assert!(is_number(good), "{good}");
        }
        for bad in [
            "", "x", "1 ", "1e999", "_1", "1_", "1__0", "0x1", "-nan", "1,5", "--1",
        ] {
            assert!(!is_number(bad), "{bad}");
        }
    }

    #[test]
    fn lists_of_strings_may_be_null() {
        assert_eq!(string_list("null"), Some(vec![]));
        assert_eq!(
            string_list(r#"["a", null]"#),
            Some(vec!["a".into(), String::new()])
        );
        assert_eq!(string_list(r#"["a", 1]"#), None);
        assert_eq!(string_list("[] x"), None);
    }

    #[test]
    fn time_zones_are_those_of_iana_spelled_exactly() {
        for good in ["UTC", "", "Local", "Europe/Berlin", "America/New_York"] {
            assert_eq!(check_timezone(good), Ok(()), "{good}");
        }
        for bad in ["Mars/Base", "europe/berlin", "../etc/passwd"] {
            assert!(check_timezone(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        for good in ["1h30m", "0", "-1.5s", "100ms", "1µs"] {
            assert_eq!(
                check_duration(good.trim_start_matches('-')),
                Ok(()),
                "{good}"
            );
        }
        for bad in ["", "1", "1x", "h", "1h3", "9999999h"] {
            assert!(check_duration(bad).is_err(), "{bad}");
        }
    }
}
