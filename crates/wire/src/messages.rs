//! Conversion between Coder's messages and our own types, in both directions. Generated types stop here.
//!
//! What comes in is checked: an error names the message and the field. What goes out always fits.

mod job;
mod outcome;
mod resource;
mod template;
mod update;

use jiff::Timestamp;
use prost_types::Timestamp as WireTimestamp;

pub use self::outcome::{addresses, set_addresses};

/// A field whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` of the message has an invalid value: {value}")]
pub struct FieldError {
    /// Path of the field, such as `metadata.workspace_transition`.
    pub field: &'static str,
    /// Value of the field, never a secret.
    pub value: String,
}

impl FieldError {
    fn new(field: &'static str, value: impl ToString) -> Self {
        Self {
            field,
            value: value.to_string(),
        }
    }

    fn missing(field: &'static str) -> Self {
        Self::new(field, "nothing")
    }
}

/// Returns the value of an enum, by its number.
fn known<T: TryFrom<i32>>(field: &'static str, number: i32) -> Result<T, FieldError> {
    T::try_from(number).map_err(|_| FieldError::new(field, number))
}

fn all<A, B, E>(items: Vec<A>, convert: impl Fn(A) -> Result<B, E>) -> Result<Vec<B>, E> {
    items.into_iter().map(convert).collect()
}

fn into_all<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(B::from).collect()
}

fn millis(field: &'static str, value: i64) -> Result<Timestamp, FieldError> {
    Timestamp::from_millisecond(value).map_err(|_| FieldError::new(field, value))
}

fn to_wire_time(time: Timestamp) -> WireTimestamp {
    // Protobuf timestamps need nonnegative nanoseconds, even before 1970.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    let borrow = i64::from(nanos < 0);
    WireTimestamp {
        seconds: seconds - borrow,
        nanos: nanos + i32::from(nanos < 0) * 1_000_000_000,
    }
}

fn from_wire_time(
    field: &'static str,
    time: Option<WireTimestamp>,
) -> Result<Timestamp, FieldError> {
    let time = time.ok_or_else(|| FieldError::missing(field))?;
    Timestamp::new(time.seconds, time.nanos).map_err(|_| FieldError::new(field, time.seconds))
}

#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
