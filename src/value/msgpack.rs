//! Values as msgpack, the way Terraform sends them to providers.
//!
//! Unknown values are extensions (0, or 12 with what is known beside), a value of an open type is a pair of its
//! type's JSON and itself, and a number is an integer or a double if that is exact, else its decimal text.

use std::collections::BTreeMap;

use rmp::{Marker, decode, encode};

use super::{MAX_DEPTH, Number, Object, Path, Type, TypeError, Value};

/// Extension type of a value of which nothing is known.
const UNKNOWN: i8 = 0;
/// Extension type of an unknown value with refinements (Terraform 1.6): read as unknown.
const REFINED_UNKNOWN: i8 = 12;

/// Why bytes are no value of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("{}{kind}", place(.path))]
pub struct MsgpackError {
    /// Where in the value.
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
    #[error("the bytes end too early")]
    Short,
    #[error("{extra} bytes are left over")]
    Trailing { extra: usize },
    #[error("expected {expected}, found {found:?}")]
    Mismatch {
        expected: &'static str,
        found: Marker,
    },
    #[error("a text that is not UTF-8")]
    Text,
    #[error("a number that is none")]
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
    /// Reads a value of the type `of`; all of `bytes` must belong to it.
    ///
    /// # Errors
    /// [`MsgpackError`] with the place if the bytes are something else or nested too deep.
    pub fn from_msgpack(of: &Type, bytes: &[u8]) -> Result<Self, MsgpackError> {
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

    /// Writes it as a value of the type `of`. Missing attributes of objects are null.
    pub fn to_msgpack(&self, of: &Type) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(self, of, &mut bytes);
        bytes
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    /// Where we are; it stays where an error happened.
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
            decode::read_str_len(&mut self.bytes).map_err(|error| length(error, "a text"))?;
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

    /// Reads something one step below; the path is put back only if that works.
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

    /// Refuses a count that the bytes at hand cannot hold, before memory is set aside for it.
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

/// Why writing to a vector is expected to work.
const INFALLIBLE: &str = "a vector takes all bytes";

fn write(value: &Value, of: &Type, bytes: &mut Vec<u8>) {
    match (value, of) {
        (Value::Null, _) => encode::write_nil(bytes).expect(INFALLIBLE),
        (Value::Unknown, _) => bytes.extend([Marker::FixExt1.to_u8(), 0, 0]),
        (Value::Dynamic(inner), _) => write_dynamic(&inner.0, &inner.1, bytes),
        (Value::Bool(flag), _) => encode::write_bool(bytes, *flag).expect(INFALLIBLE),
        (Value::Number(number), _) => write_number(number, bytes),
        (Value::String(text), _) => encode::write_str(bytes, text).expect(INFALLIBLE),
        (Value::List(elements) | Value::Set(elements), of) => write_elements(elements, of, bytes),
        (Value::Map(elements), of) => {
            encode::write_map_len(bytes, count(elements.len())).expect(INFALLIBLE);
            for (key, value) in elements {
                encode::write_str(bytes, key).expect(INFALLIBLE);
                write(value, element_type(of, 0), bytes);
            }
        }
        (Value::Object(object), of) => write_object(object, of, bytes),
    }
}

fn write_number(number: &Number, bytes: &mut Vec<u8>) {
    if let Some(number) = number.as_i64() {
        encode::write_sint(bytes, number).expect(INFALLIBLE);
    } else if let Some(number) = number.as_exact_f64() {
        encode::write_f64(bytes, number).expect(INFALLIBLE);
    } else {
        encode::write_str(bytes, &number.to_string()).expect(INFALLIBLE);
    }
}

fn write_dynamic(of: &Type, value: &Value, bytes: &mut Vec<u8>) {
    let notation = of.to_json().to_string();
    encode::write_array_len(bytes, 2).expect(INFALLIBLE);
    encode::write_bin(bytes, notation.as_bytes()).expect(INFALLIBLE);
    write(value, of, bytes);
}

fn write_elements(elements: &[Value], of: &Type, bytes: &mut Vec<u8>) {
    encode::write_array_len(bytes, count(elements.len())).expect(INFALLIBLE);
    for (index, element) in elements.iter().enumerate() {
        write(element, element_type(of, index), bytes);
    }
}

fn write_object(object: &Object, of: &Type, bytes: &mut Vec<u8>) {
    let Type::Object { attributes, .. } = of else {
        return encode::write_nil(bytes).expect(INFALLIBLE);
    };
    encode::write_map_len(bytes, count(attributes.len())).expect(INFALLIBLE);
    for (name, of) in attributes {
        encode::write_str(bytes, name).expect(INFALLIBLE);
        write(object.get(name), of, bytes);
    }
}

fn element_type(of: &Type, index: usize) -> &Type {
    match of {
        Type::List(of) | Type::Set(of) | Type::Map(of) => of,
        Type::Tuple(types) => types.get(index).unwrap_or(&Type::Dynamic),
        Type::Bool | Type::Number | Type::String | Type::Dynamic | Type::Object { .. } => {
            &Type::Dynamic
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("messages are far smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn everything() -> Type {
        let block = Type::object([("key", Type::String), ("on", Type::Bool)]);
        Type::object([
            ("count", Type::Number),
            ("env", Type::map(Type::String)),
            ("item", Type::list(block.clone())),
            ("late", Type::String),
            ("open", Type::Dynamic),
            ("volume", Type::set(block)),
        ])
    }

    fn block(key: &str, on: bool) -> Value {
        Object::from([("key", Value::from(key)), ("on", on.into())]).into()
    }

    fn sample() -> Value {
        let env = BTreeMap::from([("A".to_owned(), Value::from("1"))]);
        let open = (Type::list(Type::Number), Value::List(vec![7.into()]));
        Object::from([
            ("count", Value::from(-3)),
            ("env", Value::Map(env)),
            (
                "item",
                Value::List(vec![block("b", true), block("a", false)]),
            ),
            ("late", Value::Unknown),
            ("open", Value::Dynamic(Box::new(open))),
            ("volume", Value::set([block("b", true), block("a", false)])),
        ])
        .into()
    }

    #[test]
    fn a_value_of_every_kind_reads_back() {
        let bytes = sample().to_msgpack(&everything());

        assert_eq!(
            Value::from_msgpack(&everything(), &bytes).unwrap(),
            sample()
        );
    }

    #[test]
    fn the_bytes_are_those_that_terraform_writes() {
        // Made by cty's msgpack package, as Terraform 1.11 sends them.
        let vectors: [(Type, Value, &str); 10] = [
            (Type::String, Value::Null, "c0"),
            (Type::String, Value::Unknown, "d40000"),
            (Type::Bool, true.into(), "c3"),
            (Type::Number, 1.into(), "01"),
            (Type::Number, (-33).into(), "d0df"),
            (
                Type::Number,
                Number::from_f64(1.5).into(),
                "cb3ff8000000000000",
            ),
            (
                Type::Number,
                "18446744073709551616".parse::<Number>().unwrap().into(),
                "b43138343436373434303733373039353531363136",
            ),
            (Type::list(Type::String), Value::texts(["a"]), "91a161"),
            (
                Type::object([("a", Type::Bool)]),
                Object::from([("a", false)]).into(),
                "81a161c2",
            ),
            (
                Type::Dynamic,
                Value::Dynamic(Box::new((Type::String, "x".into()))),
                "92c40822737472696e6722a178",
            ),
        ];
        for (of, value, hex) in vectors {
            assert_eq!(hex::encode(value.to_msgpack(&of)), hex, "{value:?}");
            assert_eq!(
                Value::from_msgpack(&of, &hex::decode(hex).unwrap()).unwrap(),
                value
            );
        }
    }

    #[test]
    fn an_unknown_value_of_which_something_is_known_is_unknown() {
        let refined = [0xc7, 0x03, 0x0c, 0x81, 0x01, 0xc2];

        assert_eq!(
            Value::from_msgpack(&Type::String, &refined).unwrap(),
            Value::Unknown
        );
    }

    #[test]
    fn errors_say_where_and_what() {
        let of = Type::object([("items", Type::list(Type::object([("on", Type::Bool)])))]);
        let error = |hex: &str| {
            let bytes = hex::decode(hex).unwrap();
            Value::from_msgpack(&of, &bytes).unwrap_err().to_string()
        };

        assert_eq!(
            error("81a56974656d739181a26f6e01"),
            "items[0].on: expected a boolean, found FixPos(1)"
        );
        assert_eq!(error("81a56974656d739180"), "items[0].on: missing");
        assert_eq!(
            error("81a56974656d739181a161c0"),
            "items[0].a: no such attribute"
        );
        assert_eq!(
            error("81a56974656d73dd7fffffff"),
            "items: the bytes end too early"
        );
        assert_eq!(error("81a56974656d73c0c0"), "1 bytes are left over");
        assert_eq!(error("81a56974656d73d40500"), "items: unknown extension 5");
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let mut of = Type::Bool;
        for _ in 0..100 {
            of = Type::list(of);
        }
        let mut bytes = vec![0x91; 100];
        bytes.push(0xc3);

        let error = Value::from_msgpack(&of, &bytes).unwrap_err();

        assert!(
            error.to_string().ends_with("nested deeper than 64 levels"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = Value::from_msgpack(&everything(), &bytes) {
                let again = value.to_msgpack(&everything());
                prop_assert_eq!(Value::from_msgpack(&everything(), &again).unwrap(), value);
            }
        }
    }
}
