//! Serialization of values as msgpack.

use rmp::{Marker, encode};

use crate::{Number, Object, Type, Value};

/// Reason why writing to a vector cannot fail.
const INFALLIBLE: &str = "a vector takes all bytes";

pub(super) fn write(value: &Value, of: &Type, bytes: &mut Vec<u8>) {
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
