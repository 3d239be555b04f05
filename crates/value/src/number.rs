//! Terraform's numbers: decimal, of any precision.

use std::{cmp::Ordering, fmt, str::FromStr};

/// A number. Whole numbers of 64 bits and doubles are stored as such, others as decimal text.
#[derive(Clone, Debug)]
pub struct Number(Repr);

#[derive(Clone, Debug)]
enum Repr {
    Int(i64),
    /// A finite number that is not a whole number in the range of `Int`.
    Float(f64),
    /// Decimal text of any other number.
    Text(String),
}

/// Maximum number of digits that are parsed; Terraform computes with 512 bits, which are 155 digits.
const MAX_DIGITS: usize = 1024;
/// Limit from which on a double cannot represent all whole numbers.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Number {
    /// Returns the number, if it is a whole one of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self.0 {
            Repr::Int(number) => Some(number),
            Repr::Float(_) | Repr::Text(_) => None,
        }
    }

    /// Returns the number as a double, if it is not a whole number of 64 bits and a double represents it exactly.
    pub(crate) fn as_exact_f64(&self) -> Option<f64> {
        match self.0 {
            Repr::Float(number) => Some(number),
            Repr::Int(_) | Repr::Text(_) => None,
        }
    }

    /// Returns the nearest double.
    pub(crate) fn as_f64(&self) -> f64 {
        match &self.0 {
            #[expect(clippy::cast_precision_loss, reason = "the nearest is asked for")]
            Repr::Int(number) => *number as f64,
            Repr::Float(number) => *number,
            Repr::Text(text) => text.parse().unwrap_or(f64::NAN),
        }
    }

    /// Returns whether the number has no fraction.
    pub fn is_whole(&self) -> bool {
        match &self.0 {
            Repr::Int(_) => true,
            Repr::Float(number) => number.fract() == 0.0,
            Repr::Text(text) => !text.contains('.'),
        }
    }

    /// Converts a double; `None` if it is infinite or not a number.
    pub fn from_f64(number: f64) -> Option<Self> {
        if !number.is_finite() {
            return None;
        }
        if number.fract() == 0.0 && number.abs() < EXACT {
            #[expect(clippy::cast_possible_truncation, reason = "just checked")]
            return Some(Self(Repr::Int(number as i64)));
        }
        Some(Self(Repr::Float(number)))
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self(Repr::Int(number))
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or_else(|_| Self(Repr::Text(number.to_string())), Self::from)
    }
}

/// Returned if a text is not a decimal number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a decimal number of at most {MAX_DIGITS} characters")]
pub struct NumberError;

impl FromStr for Number {
    type Err = NumberError;

    /// Parses numbers such as `-1.5e3`. If a double prints as the same text, it is stored as a double.
    fn from_str(text: &str) -> Result<Self, NumberError> {
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Self(Repr::Int(number)));
        }
        let decimal = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        if text.is_empty() || text.len() > MAX_DIGITS || !text.bytes().all(decimal) {
            return Err(NumberError);
        }
        let nearest: f64 = text.parse().map_err(|_| NumberError)?;
        let exact = Self::from_f64(nearest).filter(|number| number.to_string() == text);
        // Comparing a text with an exponent exactly would need arithmetic, so the nearest double is used.
        let rounded = || Self::from_f64(nearest).filter(|_| text.contains(['e', 'E']));
        Ok(exact
            .or_else(rounded)
            .unwrap_or_else(|| Self(Repr::Text(text.to_owned()))))
    }
}

/// Writes a JSON number.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Int(number) => write!(f, "{number}"),
            Repr::Float(number) => write!(f, "{number}"),
            Repr::Text(text) => f.write_str(text),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Int(left), Repr::Int(right)) => left.cmp(right),
            _ => {
                let by_value = self.as_f64().total_cmp(&other.as_f64());
                by_value.then_with(|| self.to_string().cmp(&other.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Number {
        text.parse().unwrap()
    }

    #[test]
    fn a_number_keeps_every_digit() {
        for text in [
            "0",
            "-1",
            "1.5",
            "9223372036854775807",
            "18446744073709551615",
            "0.1",
            "12345678901234567890123.5",
        ] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    #[test]
    fn whole_numbers_are_equal_however_they_were_written() {
        assert_eq!(Number::from_f64(3.0), Some(read("3")));
        assert_eq!(read("3e2"), read("300"));
        assert_ne!(
            read("12345678901234567890123"),
            read("12345678901234567890124")
        );
    }

    #[test]
    fn what_is_no_decimal_is_refused() {
        for text in [
            "",
            "abc",
            "0x10",
            "1 ",
            "NaN",
            "inf",
            "1.2.3",
            &"9".repeat(2000),
        ] {
            assert_eq!(text.parse::<Number>(), Err(NumberError), "{text}");
        }
    }
}
