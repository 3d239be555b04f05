//! Values in Go's notation, because authors know the reference's texts.

use serde_json::{Number, Value};

/// Returns a text in quotes, as `%q` prints it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            letter if letter < ' ' || letter == '\u{7f}' => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            // The escapes of both languages differ only for invisible characters, which Rust's own escapes reveal.
            letter if letter.escape_debug().len() > 1 && letter != '\'' => {
                let code = u32::from(letter);
                quoted.push_str(&if code < 0x1_0000 {
                    format!("\\u{code:04x}")
                } else {
                    format!("\\U{code:08x}")
                });
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns a JSON value as `%v` prints it.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => self::number(number),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(self::value).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members = members
                .into_iter()
                .map(|(name, item)| format!("{name}:{}", self::value(item)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" "))
        }
    }
}

/// Returns a number as `%v` prints a `float64`, Go's type for all numbers in JSON.
pub(super) fn number(number: &Number) -> String {
    let Some(number) = number.as_f64() else {
        return number.to_string();
    };
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific
        .split_once('e')
        .expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_look_as_go_prints_them() {
        let cases = [
            ("0", "0"),
            ("1000000", "1e+06"),
            ("123456789", "1.23456789e+08"),
            ("999999", "999999"),
            ("1.5e22", "1.5e+22"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("-3.25", "-3.25"),
        ];
        for (json, text) in cases {
            assert_eq!(value(&serde_json::from_str(json).unwrap()), text);
        }
    }

    #[test]
    fn texts_and_collections_look_as_go_prints_them() {
        assert_eq!(
            quoted("a'b\u{7f}\u{ad}\u{200b}\u{1f600}\u{1}é\"\n"),
            r#""a'b\x7f\u00ad\u200b😀\x01é\"\n""#
        );
        assert_eq!(
            value(&json!({"b": [1, null], "a": true})),
            "map[a:true b:[1 <nil>]]"
        );
    }
}
