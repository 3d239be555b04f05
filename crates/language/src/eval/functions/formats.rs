//! `format` and `formatlist`: the verbs of Go's `fmt`.

use serde_json::Value;

use super::{
    super::{json_text, operators, text},
    Args, Called,
};

/// Maximum width of a field.
const MAX_WIDTH: usize = 1024;

pub(super) fn call(name: &str, args: &Args<'_>) -> Option<Called> {
    Some(match name {
        "format" => args
            .text(0)
            .and_then(|spec| format(&spec, args.rest(1)))
            .map(Value::String),
        "formatlist" => format_list(args),
        _ => return None,
    })
}

/// Formats lists of equal length element by element; single values are repeated.
fn format_list(args: &Args<'_>) -> Called {
    let (spec, values) = (args.text(0)?, args.rest(1));
    let lengths = values.iter().filter_map(Value::as_array).map(Vec::len);
    let length = lengths.clone().max().unwrap_or(1);
    if lengths.clone().any(|other| other != length) {
        return Err("all lists must have the same length".to_owned());
    }
    let mut lines = Vec::with_capacity(length);
    for index in 0..length {
        args.reserve(spec.len() + values.len())?;
        let pick = |value: &Value| match value.as_array() {
            Some(items) => items[index].clone(),
            None => value.clone(),
        };
        let picked: Vec<Value> = values.iter().map(pick).collect();
        lines.push(Value::String(format(&spec, &picked)?));
    }
    Ok(Value::Array(lines))
}

fn format(spec: &str, values: &[Value]) -> Result<String, String> {
    let (mut out, mut chars, mut next) = (String::new(), spec.chars().peekable(), 0);
    let mut is_explicit = false;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let verb = Verb::read(&mut chars)?;
        if verb.kind == '%' {
            out.push('%');
            continue;
        }
        if let Some(index) = verb.index {
            next = index;
            is_explicit = true;
        }
        let value = values.get(next);
        let value = value.ok_or_else(|| format!("not enough arguments for %{}", verb.kind))?;
        next += 1;
        out.push_str(&verb.apply(value)?);
    }
    match is_explicit || next >= values.len() {
        true => Ok(out),
        false => Err("too many arguments".to_owned()),
    }
}

#[derive(Default)]
struct Verb {
    flags: String,
    width: Option<usize>,
    precision: Option<usize>,
    index: Option<usize>,
    kind: char,
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

impl Verb {
    fn read(chars: &mut Chars<'_>) -> Result<Self, String> {
        let mut verb = Self::default();
        while let Some(flag) = chars.next_if(|c| "+-# 0".contains(*c)) {
            verb.flags.push(flag);
        }
        verb.width = number(chars)?;
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(chars)?.unwrap_or(0));
        }
        if chars.next_if_eq(&'[').is_some() {
            let index = number(chars)?.and_then(|index| index.checked_sub(1));
            verb.index = Some(index.ok_or("indexes of arguments begin with 1")?);
            chars
                .next_if_eq(&']')
                .ok_or("unterminated index of an argument")?;
        }
        verb.kind = chars
            .next()
            .ok_or("unterminated verb at the end of the format")?;
        Ok(verb)
    }

    fn apply(&self, value: &Value) -> Result<String, String> {
        let unsupported =
            |what: &str| format!("unsupported value for %{}: {what} required", self.kind);
        let number = || operators::to_number(value).map_err(|_| unsupported("a number"));
        let whole = || {
            let number = number()?;
            number.as_i64().ok_or_else(|| unsupported("a whole number"))
        };
        let float = || number().map(|number| operators::as_float(&number));
        let body = match self.kind {
            'v' if self.flags.contains('#') => json_text(value),
            'v' => text(value).unwrap_or_else(|| json_text(value)),
            't' => {
                let value = operators::to_bool(value).map_err(|_| unsupported("a bool"))?;
                value.to_string()
            }
            's' => self.cut(&text(value).ok_or_else(|| unsupported("a string"))?),
            'q' => json_text(&Value::String(
                text(value).ok_or_else(|| unsupported("a string"))?,
            )),
            'd' => self.signed(&whole()?.to_string()),
            'b' => self.signed(&radix(whole()?, |n| format!("{n:b}"))),
            'o' => self.signed(&radix(whole()?, |n| format!("{n:o}"))),
            'x' | 'X' => self.signed(&self.hex(value, whole)?),
            'f' | 'F' => self.signed(&format!("{:.*}", self.precision.unwrap_or(6), float()?)),
            'e' | 'E' => self.signed(&self.scientific(float()?)),
            'g' | 'G' => self.signed(&self.shortest(float()?)),
            other => return Err(format!("unsupported verb %{other}")),
        };
        Ok(self.pad(body))
    }

    fn cut(&self, text: &str) -> String {
        text.chars()
            .take(self.precision.unwrap_or(usize::MAX))
            .collect()
    }

    fn hex(
        &self,
        value: &Value,
        whole: impl Fn() -> Result<i64, String>,
    ) -> Result<String, String> {
        let digits = match value.as_str() {
            Some(text) => hex::encode(text),
            None => radix(whole()?, |n| format!("{n:x}")),
        };
        Ok(if self.kind == 'X' {
            digits.to_uppercase()
        } else {
            digits
        })
    }

    fn scientific(&self, value: f64) -> String {
        let digits = format!("{:.*e}", self.precision.unwrap_or(6), value);
        let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        let digits = format!("{mantissa}e{sign}{exponent:0>2}");
        if self.kind == 'E' {
            digits.to_uppercase()
        } else {
            digits
        }
    }

    /// Formats a number in the shortest form; very large and very small numbers get an exponent.
    fn shortest(&self, value: f64) -> String {
        let magnitude = value.abs();
        if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
            let digits = format!("{value:e}");
            let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            return format!("{mantissa}e{exponent:+03}");
        }
        value.to_string()
    }

    fn signed(&self, digits: &str) -> String {
        match (
            digits.starts_with('-'),
            self.flags.contains('+'),
            self.flags.contains(' '),
        ) {
            (false, true, _) => format!("+{digits}"),
            (false, false, true) => format!(" {digits}"),
            _ => digits.to_owned(),
        }
    }

    fn pad(&self, body: String) -> String {
        let missing = self.width.unwrap_or(0).saturating_sub(body.chars().count());
        let is_number = !matches!(self.kind, 's' | 'q' | 'v' | 't');
        if self.flags.contains('-') {
            return body + &" ".repeat(missing);
        }
        if self.flags.contains('0') && is_number {
            let sign = body.len() - body.trim_start_matches(['-', '+', ' ']).len();
            let (sign, digits) = body.split_at(sign);
            return format!("{sign}{}{digits}", "0".repeat(missing));
        }
        " ".repeat(missing) + &body
    }
}

fn radix(value: i64, digits: fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", digits(value.unsigned_abs()))
}

fn number(chars: &mut Chars<'_>) -> Result<Option<usize>, String> {
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    if digits.is_empty() {
        return Ok(None);
    }
    let parsed = digits.parse().ok().filter(|number| *number <= MAX_WIDTH);
    parsed
        .map(Some)
        .ok_or_else(|| format!("{digits} is more than the {MAX_WIDTH} allowed here"))
}
