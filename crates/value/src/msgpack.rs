//! Values as msgpack, the form in which Terraform sends them to providers.
//!
//! Unknown values are extensions (0, or 12 with refinements), a value of an open type is a pair of its type's JSON
//! and itself, and a number is an integer or a double if that is exact, else its decimal text.

mod read;
mod write;

use rmp::Marker;

use super::{MAX_DEPTH, Path, Type, TypeError, Value};

/// Returned if bytes are not a value of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind}", place(.path))]
pub struct MsgpackError {
    /// Path in the value.
    pub path: Path,
    kind: Kind,
}

fn place(path: &Path) -> String {
    match path.0.as_slice() {
        [] => String::new(),
        _ => format!("{path}: "),
    }
}

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("input ends too early")]
    Short,
    #[error("{extra} bytes are left over")]
    Trailing { extra: usize },
    #[error("expected {expected}, found {found:?}")]
    Mismatch {
        expected: &'static str,
        found: Marker,
    },
    #[error("string is not UTF-8")]
    Text,
    #[error("not a number")]
    Number,
    #[error("unknown extension {0}")]
    Extension(i8),
    #[error("no such attribute")]
    Unexpected,
    #[error("missing")]
    Missing,
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("{0}")]
    Type(TypeError),
}

impl Value {
    /// Parses a value of the type `of`, which must consist of all `bytes`.
    ///
    /// # Errors
    /// [`MsgpackError`] with the path if the bytes are not such a value, or are nested too deep.
    pub fn from_msgpack(of: &Type, bytes: &[u8]) -> Result<Self, MsgpackError> {
        read::read(of, bytes)
    }

    /// Returns the bytes of a value of the type `of`. Missing attributes of objects are null.
    pub fn to_msgpack(&self, of: &Type) -> Vec<u8> {
        let mut bytes = Vec::new();
        write::write(self, of, &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests;
