//! Functions of strings and regular expressions.

use regex::Regex;
use serde_json::{Map, Value};

use super::{Args, Called, args::list_of};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    let text = |change: fn(&str) -> String| args.text(0).map(|text| Value::String(change(&text)));
    Some(match name {
        "lower" => text(str::to_lowercase),
        "upper" => text(str::to_uppercase),
        "title" => text(title),
        "strrev" => text(|text| text.chars().rev().collect()),
        "chomp" => text(|text| text.trim_end_matches(['\n', '\r']).to_owned()),
        "trimspace" => text(|text| text.trim().to_owned()),
        "trim" => both(args, |text, set| {
            text.trim_matches(|c| set.contains(c)).to_owned()
        }),
        "trimprefix" => both(args, |text, end| {
            text.strip_prefix(end).unwrap_or(text).to_owned()
        }),
        "trimsuffix" => both(args, |text, end| {
            text.strip_suffix(end).unwrap_or(text).to_owned()
        }),
        "basename" => text(basename),
        "dirname" => text(dirname),
        "indent" => indent(args),
        "join" => join(args),
        "split" => split(args),
        "replace" => replace(args),
        "substr" => substr(args),
        "regex" => regex(args),
        "regexall" => regex_all(args),
        _ => return None,
    })
}

fn both(args: &Args<'_>, change: fn(&str, &str) -> String) -> Called {
    Ok(Value::String(change(&args.text(0)?, &args.text(1)?)))
}

fn title(text: &str) -> String {
    let mut previous = ' ';
    let mut upper = |c: char| {
        let is_start = !(previous.is_alphanumeric() || previous == '_' || previous == '\'');
        previous = c;
        if is_start {
            c.to_uppercase().next().unwrap_or(c)
        } else {
            c
        }
    };
    text.chars().map(&mut upper).collect()
}

fn basename(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".".to_owned(),
        "" => "/".to_owned(),
        path => path.rsplit('/').next().unwrap_or(path).to_owned(),
    }
}

fn dirname(path: &str) -> String {
    match path.rsplit_once('/') {
        None => ".".to_owned(),
        Some((dir, _)) if dir.trim_end_matches('/').is_empty() => "/".to_owned(),
        Some((dir, _)) => dir.trim_end_matches('/').to_owned(),
    }
}

fn indent(args: &Args<'_>) -> Called {
    let (count, text) = (args.whole(0)?, args.text(1)?);
    let count = usize::try_from(count).map_err(|_| "the number of spaces must not be negative")?;
    args.reserve(count.saturating_mul(text.matches('\n').count() + 1))?;
    let break_and_spaces = format!("\n{}", " ".repeat(count));
    Ok(Value::String(text.replace('\n', &break_and_spaces)))
}

fn join(args: &Args<'_>) -> Called {
    let (separator, mut texts) = (args.text(0)?, Vec::new());
    for index in 1..args.all().len() {
        texts.extend(args.texts(index)?);
    }
    args.reserve(separator.len().saturating_mul(texts.len()))?;
    Ok(Value::String(texts.join(&separator)))
}

fn split(args: &Args<'_>) -> Called {
    let (separator, text) = (args.text(0)?, args.text(1)?);
    args.reserve(text.len())?;
    if separator.is_empty() {
        return Ok(list_of(text.chars().map(String::from)));
    }
    Ok(list_of(text.split(&separator).map(str::to_owned)))
}

/// Replaces text; a pattern between slashes is a regular expression.
fn replace(args: &Args<'_>) -> Called {
    let (text, pattern, to) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let places = match pattern.is_empty() {
        true => text.len() + 1,
        false => text.len() / pattern.len() + 1,
    };
    let is_regex = pattern.len() > 1 && pattern.starts_with('/') && pattern.ends_with('/');
    let places = if is_regex { text.len() + 1 } else { places };
    args.reserve(places.saturating_mul(to.len() + 1))?;
    if !is_regex {
        return Ok(Value::String(text.replace(&pattern, &to)));
    }
    let regex = compile(&pattern[1..pattern.len() - 1], args)?;
    // A reference to a group can repeat the text once for each position.
    let references = to.matches('$').count();
    args.reserve(places.saturating_mul(references.saturating_mul(text.len())))?;
    Ok(Value::String(
        regex.replace_all(&text, to.as_str()).into_owned(),
    ))
}

/// Cost of compiling a regular expression, which may take milliseconds, however short it is: two hundred in one
/// evaluation are enough.
const COMPILE_UNITS: usize = 100_000;

fn compile(pattern: &str, args: &Args<'_>) -> Result<Regex, String> {
    args.reserve(COMPILE_UNITS)?;
    let mut builder = regex::RegexBuilder::new(pattern);
    let built = builder.size_limit(1024 * 1024).build();
    built.map_err(|_| format!("invalid regular expression {pattern:?}"))
}

/// Returns a part of a string, in characters. A negative offset counts from the end, a length of -1 means the rest.
fn substr(args: &Args<'_>) -> Called {
    let (text, offset, length) = (args.text(0)?, args.whole(1)?, args.whole(2)?);
    let count = text.chars().count();
    let offset = match usize::try_from(offset) {
        Ok(offset) => offset,
        Err(_) => count.saturating_sub(usize::try_from(offset.unsigned_abs()).unwrap_or(count)),
    };
    let length = usize::try_from(length).unwrap_or(count);
    Ok(Value::String(
        text.chars().skip(offset).take(length).collect(),
    ))
}

fn regex(args: &Args<'_>) -> Called {
    let (regex, text) = (compile(&args.text(0)?, args)?, args.text(1)?);
    let captures = regex.captures(&text);
    let captures = captures.ok_or("pattern did not match any part of the given string")?;
    Ok(captured(&regex, &captures))
}

fn regex_all(args: &Args<'_>) -> Called {
    let (regex, text) = (compile(&args.text(0)?, args)?, args.text(1)?);
    args.reserve((text.len() + 1).saturating_mul(regex.captures_len()))?;
    let matches = regex.captures_iter(&text);
    Ok(Value::Array(
        matches
            .map(|captures| captured(&regex, &captures))
            .collect(),
    ))
}

/// Returns a map of named groups, or a list of groups, or the whole match if there are no groups.
fn captured(regex: &Regex, captures: &regex::Captures<'_>) -> Value {
    let group = |found: Option<regex::Match<'_>>| {
        found.map_or(Value::Null, |found| {
            Value::String(found.as_str().to_owned())
        })
    };
    let named: Map<String, Value> = regex
        .capture_names()
        .flatten()
        .map(|name| (name.to_owned(), group(captures.name(name))))
        .collect();
    match (named.is_empty(), captures.len()) {
        (false, _) => Value::Object(named),
        (true, 1) => group(captures.get(0)),
        (true, _) => Value::Array(captures.iter().skip(1).map(group).collect()),
    }
}
