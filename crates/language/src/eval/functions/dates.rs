//! Functions of dates and times.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::Offset};
use serde_json::Value;

use super::{Args, Called};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "timestamp" => Ok(write(Timestamp::now(), Offset::UTC).into()),
        "timeadd" => add(args),
        "formatdate" => format(args),
        _ => return None,
    })
}

/// Parses a time of RFC 3339 with its offset, which a timestamp alone does not contain.
fn parse(text: &str) -> Result<(Timestamp, Offset), String> {
    let wrong = || format!("not a valid RFC 3339 timestamp: {text:?}");
    let time: Timestamp = text.parse().map_err(|_| wrong())?;
    let offset = match text.get(text.len().saturating_sub(6)..) {
        Some(offset) if offset.starts_with(['+', '-']) => offset,
        _ => return Ok((time, Offset::UTC)),
    };
    let (hours, minutes) = offset[1..].split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str| digits.parse::<i32>().map_err(|_| wrong());
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    let seconds = if offset.starts_with('-') {
        -seconds
    } else {
        seconds
    };
    Ok((time, Offset::from_seconds(seconds).map_err(|_| wrong())?))
}

fn write(time: Timestamp, offset: Offset) -> String {
    let local = offset.to_datetime(time);
    let zone = match offset.seconds() {
        0 => "Z".to_owned(),
        _ => zone(offset, ":"),
    };
    format!("{}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S"))
}

fn zone(offset: Offset, separator: &str) -> String {
    let minutes = offset.seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    let minutes = minutes.abs();
    format!("{sign}{:02}{separator}{:02}", minutes / 60, minutes % 60)
}

fn add(args: &Args<'_>) -> Called {
    let (time, offset) = parse(&args.text(0)?)?;
    let sum = time.checked_add(duration(&args.text(1)?)?);
    let sum = sum.map_err(|_| "the result is out of range".to_owned())?;
    Ok(write(sum, offset).into())
}

/// Parses Go's durations: `-1h30m`, `1.5s`, `100ms`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(wrong)?;
        let amount: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = &rest[digits..];
        let length = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        seconds += amount * unit_seconds(&unit[..length]).ok_or_else(wrong)?;
        rest = &unit[length..];
    }
    match text.is_empty() {
        true => Err(wrong()),
        false => SignedDuration::try_from_secs_f64(sign * seconds).map_err(|_| wrong()),
    }
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" | "μs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

/// Formats a date. Runs of one letter are replaced by parts of the date, quotes enclose literal text, everything else
/// is literal.
fn format(args: &Args<'_>) -> Called {
    let (spec, (time, offset)) = (args.text(0)?, parse(&args.text(1)?)?);
    let local = offset.to_datetime(time);
    let (mut out, mut rest) = (String::new(), spec.as_str());
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let end = quoted.find('\'').ok_or("unterminated literal '")?;
            // Two quotes stand for one quote.
            out.push_str(if end == 0 { "'" } else { &quoted[..end] });
            rest = &quoted[end + 1..];
            continue;
        }
        let length = rest.len() - rest.trim_start_matches(first).len();
        let (run, next) = rest.split_at(length);
        match first.is_ascii_alphabetic() {
            true => out.push_str(&part(run, local, offset)?),
            false => out.push_str(run),
        }
        rest = next;
    }
    Ok(Value::String(out))
}

fn part(run: &str, local: DateTime, offset: Offset) -> Result<String, String> {
    let spec = match run {
        "YYYY" => "%Y",
        "YY" => "%y",
        "MMMM" => "%B",
        "MMM" => "%b",
        "MM" => "%m",
        "M" => "%-m",
        "DD" => "%d",
        "D" => "%-d",
        "EEEE" => "%A",
        "EEE" => "%a",
        "hh" => "%H",
        "h" => "%-H",
        "HH" => "%I",
        "H" => "%-I",
        "AA" => "%p",
        "aa" => return Ok(local.strftime("%p").to_string().to_lowercase()),
        "mm" => "%M",
        "m" => "%-M",
        "ss" => "%S",
        "s" => "%-S",
        "ZZZZZ" => return Ok(zone(offset, ":")),
        "ZZZZ" => return Ok(zone(offset, "")),
        "ZZZ" if offset.seconds() == 0 => return Ok("UTC".to_owned()),
        "ZZZ" => return Ok(zone(offset, "")),
        "Z" if offset.seconds() == 0 => return Ok("Z".to_owned()),
        "Z" => return Ok(zone(offset, ":")),
        other => return Err(format!("invalid date format verb {other:?}")),
    };
    Ok(local.strftime(spec).to_string())
}
