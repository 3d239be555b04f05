//! Parser from msgpack to values.

use std::collections::BTreeMap;

use rmp::{Marker, decode};

use super::{Kind, MsgpackError};
use crate::{MAX_DEPTH, Number, Object, Path, Type, Value};

/// Extension type of a value of which nothing is known.
const UNKNOWN: i8 = 0;
/// Extension type of an unknown value with refinements (Terraform 1.6): read as unknown.
const REFINED_UNKNOWN: i8 = 12;

pub(super) fn read(of: &Type, bytes: &[u8]) -> Result<Value, MsgpackError> {
    let mut reader = Reader {
        bytes,
        path: Path::root(),
    };
    match reader.value(of, 0) {
        Ok(value) if reader.bytes.is_empty() => Ok(value),
        Ok(_) => Err(reader.fail(Kind::Trailing {
            extra: reader.bytes.len(),
        })),
        Err(kind) => Err(reader.fail(kind)),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// Path of the current value; after an error, that of the error.
    path: Path,
}

impl<'a> Reader<'a> {
    fn fail(&mut self, kind: Kind) -> MsgpackError {
        MsgpackError {
            path: std::mem::take(&mut self.path),
            kind,
        }
    }

    fn value(&mut self, of: &Type, depth: usize) -> Result<Value, Kind> {
        if depth > MAX_DEPTH {
            return Err(Kind::TooDeep);
        }
        let marker = Marker::from_u8(*self.bytes.first().ok_or(Kind::Short)?);
        match marker {
            Marker::Null => {
                self.take(1)?;
                Ok(Value::Null)
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => self.extension(),
            _ => self.known(of, marker, depth),
        }
    }

    fn known(&mut self, of: &Type, marker: Marker, depth: usize) -> Result<Value, Kind> {
        match of {
            Type::Bool => match marker {
                Marker::True | Marker::False => {
                    self.take(1)?;
                    Ok(Value::Bool(marker == Marker::True))
                }
                found => Err(mismatch("a boolean", found)),
            },
            Type::Number => self.number(marker),
            Type::String => Ok(Value::String(self.text()?.to_owned())),
            Type::Dynamic => self.dynamic(depth),
            Type::List(of) => Ok(Value::List(self.elements(of, depth)?)),
            Type::Set(of) => Ok(Value::set(self.elements(of, depth)?)),
            Type::Tuple(types) => self.tuple(types, depth),
            Type::Map(of) => self.map(of, depth),
            Type::Object {
                attributes,
                optional: _,
            } => self.object(attributes, depth),
        }
    }

    fn extension(&mut self) -> Result<Value, Kind> {
        let meta = decode::read_ext_meta(&mut self.bytes).map_err(|_| Kind::Short)?;
        self.take(meta.size as usize)?;
        match meta.typeid {
            UNKNOWN | REFINED_UNKNOWN => Ok(Value::Unknown),
            other => Err(Kind::Extension(other)),
        }
    }

    fn number(&mut self, marker: Marker) -> Result<Value, Kind> {
        let number = match marker {
            Marker::F32 => Number::from_f64(
                decode::read_f32(&mut self.bytes)
                    .map_err(|_| Kind::Short)?
                    .into(),
            ),
            Marker::F64 => {
                Number::from_f64(decode::read_f64(&mut self.bytes).map_err(|_| Kind::Short)?)
            }
            // Such a number may be larger than those that are read as `i64` below.
            Marker::U64 => Some(Number::from(
                decode::read_u64(&mut self.bytes).map_err(|_| Kind::Short)?,
            )),
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                self.text()?.parse().ok()
            }
            found => {
                let number: i64 =
                    decode::read_int(&mut self.bytes).map_err(|error| match error {
                        decode::NumValueReadError::TypeMismatch(_) => mismatch("a number", found),
                        _ => Kind::Short,
                    })?;
                Some(number.into())
            }
        };
        number.map(Value::Number).ok_or(Kind::Number)
    }

    fn text(&mut self) -> Result<&'a str, Kind> {
        let length =
            decode::read_str_len(&mut self.bytes).map_err(|error| length(error, "a string"))?;
        std::str::from_utf8(self.take(length as usize)?).map_err(|_| Kind::Text)
    }

    fn dynamic(&mut self, depth: usize) -> Result<Value, Kind> {
        let pair = "a pair of a type and a value";
        match decode::read_array_len(&mut self.bytes) {
            Ok(2) => {}
            Ok(count) => {
                return Err(mismatch(
                    pair,
                    Marker::FixArray(u8::try_from(count).unwrap_or(u8::MAX)),
                ));
            }
            Err(error) => return Err(length(error, pair)),
        }
        let size =
            decode::read_bin_len(&mut self.bytes).map_err(|error| length(error, "a type"))?;
        let of = Type::from_json(self.take(size as usize)?).map_err(Kind::Type)?;
        let value = self.value(&of, depth + 1)?;
        Ok(Value::Dynamic(Box::new((of, value))))
    }

    fn elements(&mut self, of: &Type, depth: usize) -> Result<Vec<Value>, Kind> {
        let count = self.count()?;
        let mut elements = Vec::with_capacity(count);
        for index in 0..count {
            elements.push(self.within(
                |path| path.index(index),
                |reader| reader.value(of, depth + 1),
            )?);
        }
        Ok(elements)
    }

    fn tuple(&mut self, types: &[Type], depth: usize) -> Result<Value, Kind> {
        let count = self.count()?;
        if count != types.len() {
            return Err(Kind::Unexpected);
        }
        let mut elements = Vec::with_capacity(count);
        for (index, of) in types.iter().enumerate() {
            elements.push(self.within(
                |path| path.index(index),
                |reader| reader.value(of, depth + 1),
            )?);
        }
        Ok(Value::List(elements))
    }

    fn map(&mut self, of: &Type, depth: usize) -> Result<Value, Kind> {
        let mut map = BTreeMap::new();
        for _ in 0..self.entries()? {
            let key = self.text()?;
            let value = self.within(|path| path.key(key), |reader| reader.value(of, depth + 1))?;
            map.insert(key.to_owned(), value);
        }
        Ok(Value::Map(map))
    }

    fn object(&mut self, attributes: &BTreeMap<String, Type>, depth: usize) -> Result<Value, Kind> {
        let mut object = Object::new();
        for _ in 0..self.entries()? {
            let name = self.text()?;
            let value = self.within(
                |path| path.attribute(name),
                |reader| match attributes.get(name) {
                    Some(of) => reader.value(of, depth + 1),
                    None => Err(Kind::Unexpected),
                },
            )?;
            object.set(name, value);
        }
        match attributes.keys().find(|name| !object.contains(name)) {
            Some(name) => self.within(|path| path.attribute(name), |_| Err(Kind::Missing)),
            None => Ok(Value::Object(object)),
        }
    }

    /// Reads something one step below; the path is restored only on success, so that an error keeps its path.
    fn within<T>(
        &mut self,
        step: impl FnOnce(&Path) -> Path,
        read: impl FnOnce(&mut Self) -> Result<T, Kind>,
    ) -> Result<T, Kind> {
        let below = step(&self.path);
        let here = std::mem::replace(&mut self.path, below);
        let value = read(self)?;
        self.path = here;
        Ok(value)
    }

    fn count(&mut self) -> Result<usize, Kind> {
        let count =
            decode::read_array_len(&mut self.bytes).map_err(|error| length(error, "a list"))?;
        self.plausible(count)
    }

    fn entries(&mut self) -> Result<usize, Kind> {
        let count =
            decode::read_map_len(&mut self.bytes).map_err(|error| length(error, "a map"))?;
        self.plausible(count)
    }

    /// Refuses a count that the remaining bytes cannot contain, before memory is allocated for it.
    fn plausible(&self, count: u32) -> Result<usize, Kind> {
        let count = count as usize;
        (count <= self.bytes.len())
            .then_some(count)
            .ok_or(Kind::Short)
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8], Kind> {
        let (taken, rest) = self.bytes.split_at_checked(size).ok_or(Kind::Short)?;
        self.bytes = rest;
        Ok(taken)
    }
}

fn mismatch(expected: &'static str, found: Marker) -> Kind {
    Kind::Mismatch { expected, found }
}

fn length(error: decode::ValueReadError, expected: &'static str) -> Kind {
    match error {
        decode::ValueReadError::TypeMismatch(found) => mismatch(expected, found),
        decode::ValueReadError::InvalidMarkerRead(_)
        | decode::ValueReadError::InvalidDataRead(_) => Kind::Short,
    }
}
