//! Functions that encode values as text, and decode them.

use std::io::Write;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value};

use super::{super::json_text, Args, Called};

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "base64encode" => args.text(0).map(|text| STANDARD.encode(text).into()),
        "base64decode" => decode(args),
        "base64gzip" => gzip(args),
        "jsonencode" => args.value(0).map(|value| json_text(value).into()),
        "jsondecode" => args.text(0).and_then(|text| {
            serde_json::from_str(&text).map_err(|error| format!("invalid JSON: {error}"))
        }),
        "csvdecode" => args.text(0).and_then(|text| csv(&text)),
        "urlencode" => args.text(0).map(|text| url(&text).into()),
        _ => return None,
    })
}

fn decode(args: &Args<'_>) -> Called {
    let bytes = STANDARD
        .decode(args.text(0)?)
        .map_err(|_| "invalid base64 data")?;
    let text = String::from_utf8(bytes);
    text.map(Value::String)
        .map_err(|_| "the decoded data is not UTF-8".to_owned())
}

/// Cost of a compressor's tables in units of the budget.
const GZIP_UNITS: usize = 1_000;

fn gzip(args: &Args<'_>) -> Called {
    args.reserve(GZIP_UNITS)?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let packed = encoder
        .write_all(args.text(0)?.as_bytes())
        .and_then(|()| encoder.finish());
    packed
        .map(|packed| STANDARD.encode(packed).into())
        .map_err(|error| format!("failed to compress: {error}"))
}

/// Escapes everything but letters, digits and `-_.~`; a space becomes a plus sign.
fn url(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Returns one map for each line; the first line has the keys.
fn csv(text: &str) -> Called {
    let mut records = csv_records(text)?.into_iter();
    let names = records.next().ok_or("missing header line")?;
    let mut rows = Vec::new();
    for record in records {
        if record.len() != names.len() {
            return Err("wrong number of fields".to_owned());
        }
        let values = record.into_iter().map(Value::String);
        let row: Map<String, Value> = names.iter().cloned().zip(values).collect();
        rows.push(Value::Object(row));
    }
    Ok(Value::Array(rows))
}

fn csv_records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut chars, mut is_quoted) = (text.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if is_quoted => is_quoted = false,
            c if is_quoted => field.push(c),
            '"' if field.is_empty() => is_quoted = true,
            ',' => record.push(std::mem::take(&mut field)),
            '\r' if chars.peek() == Some(&'\n') => {}
            // Empty lines are not records.
            '\n' if record.is_empty() && field.is_empty() => {}
            '\n' => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    if is_quoted {
        return Err("a quoted field does not end".to_owned());
    }
    if !record.is_empty() || !field.is_empty() {
        record.push(field);
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn csv_fields_may_be_quoted() {
        let parsed = csv("a,b\r\n1,\"x, \"\"y\"\"\nz\"\n\n2,\n").unwrap();

        assert_eq!(
            parsed,
            serde_json::json!([{"a": "1", "b": "x, \"y\"\nz"}, {"a": "2", "b": ""}])
        );
        assert!(csv("a\n1,2").is_err() && csv("a\n\"1").is_err() && csv("").is_err());
    }

    #[test]
    fn urls_are_escaped_as_go_escapes_queries() {
        assert_eq!(url("a b/ä~*"), "a+b%2F%C3%A4~%2A");
    }

    #[test]
    fn gzip_can_be_undone() {
        let fuel = super::super::super::Fuel::new();
        let scope = super::super::Scope::literal(&fuel);
        let packed = gzip(&Args::new(vec!["text".into()], &scope)).unwrap();

        let bytes = STANDARD.decode(packed.as_str().unwrap()).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "text");
    }
}
