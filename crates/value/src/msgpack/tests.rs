use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{Number, Object, Type, Value};

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
        "items: input ends too early"
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
