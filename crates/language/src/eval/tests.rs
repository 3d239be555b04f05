use proptest::prelude::*;
use serde_json::json;

use super::*;

fn variables() -> BTreeMap<String, Value> {
    let value = json!({
        "region": {"value": "us"},
        "list": ["a", "b", "c"],
        "nested": [{"x": 1}, {"x": 2}],
    });
    BTreeMap::from([("var".to_owned(), value)])
}

fn eval(source: &str) -> Result<Value, String> {
    let expr = hcl_edit::parser::parse_expr(source).map_err(|error| error.to_string())?;
    let (variables, fuel) = (variables(), Fuel::new());
    evaluate(&expr, &Scope::with_variables(&variables, &fuel)).map_err(|error| error.to_string())
}

#[test]
fn conditions_may_call_further_functions() {
    let cases = [
        (
            "alltrue([true, true]) && !alltrue([true, false, null])",
            json!(true),
        ),
        ("anytrue([false, true]) && !anytrue([])", json!(true)),
        ("sum([1, 2.5])", json!(3.5)),
        ("[one([]), one([1])]", json!([null, 1])),
        (
            "startswith(\"abc\", \"ab\") && endswith(\"abc\", \"bc\") && strcontains(\"abc\", \"b\")",
            json!(true),
        ),
        ("nonsensitive(sensitive(\"x\"))", json!("x")),
        (
            "timecmp(\"2020-01-01T00:00:00Z\", \"2020-01-01T01:00:00+01:00\")",
            json!(0),
        ),
        (
            "timecmp(\"2020-01-01T00:00:00Z\", \"2020-01-02T00:00:00Z\")",
            json!(-1),
        ),
    ];
    for (source, expected) in cases {
        let value = evaluate_condition(source, &variables());
        assert_eq!(value.as_ref(), Ok(&expected), "{source}");
    }
    for wrong in [
        "one([1, 2])",
        "sum([])",
        "sum([\"a\"])",
        "alltrue([1, \"x\"])",
        "timecmp(\"x\", \"y\")",
    ] {
        assert!(evaluate_condition(wrong, &variables()).is_err(), "{wrong}");
    }
}

#[track_caller]
fn assert_values(cases: &[(&str, Value)]) {
    for (source, expected) in cases {
        assert_eq!(eval(source).as_ref(), Ok(expected), "{source}");
    }
}

#[track_caller]
fn assert_errors(cases: &[(&str, &str)]) {
    for (source, expected) in cases {
        let error = eval(source).unwrap_err();
        assert!(error.contains(expected), "{source}: {error}");
    }
}

#[test]
fn operators_work_as_in_terraform() {
    assert_values(&[
        ("1 + 2 * 3", json!(7)),
        ("7 / 2", json!(3.5)),
        ("6 / 2", json!(3)),
        ("7 % 4", json!(3)),
        ("-(2)", json!(-2)),
        ("\"1\" + 1", json!(2)),
        ("12345678901234 * 1", json!(12_345_678_901_234_i64)),
        (
            "9223372036854775807 + 1",
            json!(9_223_372_036_854_775_807.0),
        ),
        ("!true || \"true\"", json!(true)),
        ("1 < 2 && 2 >= 2", json!(true)),
        ("\"1\" == 1", json!(false)),
        ("true ? \"a\" : var.none", json!("a")),
        (
            "[for x in var.list : upper(x) if x != \"b\"]",
            json!(["A", "C"]),
        ),
        (
            "{for i, x in var.list : x => i}",
            json!({"a": 0, "b": 1, "c": 2}),
        ),
        (
            "{for x in [\"a\", \"a\"] : x => 1...}",
            json!({"a": [1, 1]}),
        ),
    ]);
    assert_errors(&[
        ("1 / 0", "Division by zero"),
        ("[] + 1", "a number is required"),
        ("{for x in [1, 1] : x => x}", "Duplicate object key"),
        ("[for x in 1 : x]", "Iteration over non-iterable value"),
    ]);
}

#[test]
fn templates_work_as_in_terraform() {
    assert_values(&[
        ("\"${\"devel\"}${\"opers\"}\"", json!("developers")),
        ("\"${var.list}\"", json!(["a", "b", "c"])),
        ("\"n: ${1 + 1}, ${true}, $${x}\"", json!("n: 2, true, ${x}")),
        ("\"a ${~ \"b\" ~} c\"", json!("abc")),
        ("\"%{ if 1 < 2 }yes%{ else }no%{ endif }\"", json!("yes")),
        (
            "\"%{ for x in var.list ~} ${x}, %{~ endfor }\"",
            json!("a,b,c,"),
        ),
        ("<<-EOT\n    a\n      b\n    EOT", json!("a\n  b\n")),
    ]);
    assert_errors(&[(
        "\"x${var.list}\"",
        "Cannot include the given value in a string template",
    )]);
}

#[test]
fn traversals_work_as_in_terraform() {
    assert_values(&[
        ("var.region", json!({"value": "us"})),
        ("var.region.value", json!("us")),
        ("var.list[1]", json!("b")),
        ("var.list.2", json!("c")),
        ("var[\"list\"][0]", json!("a")),
        ("var.nested[*].x", json!([1, 2])),
        ("var.nested.*.x", json!([1, 2])),
        ("var.region[*].value", json!(["us"])),
    ]);
    assert_errors(&[
        (
            "foo_bar.baz.name",
            "There is no variable named \"foo_bar\".",
        ),
        ("var.none", "does not have an attribute named \"none\""),
        ("var.list[3]", "does not identify an element"),
        ("var.list[-1]", "does not identify an element"),
        ("var.list.a", "does not have any attributes"),
    ]);
}

#[test]
fn try_and_can_survive_errors() {
    assert_values(&[
        (
            "try(split(\".\", var.region)[1], \"placeholder\")",
            json!("placeholder"),
        ),
        ("try(var.region.value, \"x\")", json!("us")),
        ("can(var.none)", json!(false)),
        ("can(var.list)", json!(true)),
    ]);
    assert_errors(&[
        ("try(var.none, var.nothing)", "nothing"),
        ("try()", "at least one argument"),
    ]);
}

#[test]
fn functions_that_read_files_are_forbidden() {
    assert_errors(&[
        (
            "pathexpand(\"~/x\")",
            "function \"pathexpand\" may not be used here",
        ),
        (
            "file(\"/etc/passwd\")",
            "function \"file\" may not be used here",
        ),
        (
            "startswith(\"a\", \"b\")",
            "There is no function named \"startswith\".",
        ),
        ("bcrypt(\"a\")", "not supported in tags"),
    ]);
}

#[test]
fn functions_of_strings() {
    assert_values(&[
        ("upper(\"ä\")", json!("Ä")),
        ("title(\"hello wOrld\")", json!("Hello WOrld")),
        ("strrev(\"abc\")", json!("cba")),
        ("chomp(\"a\\r\\n\\n\")", json!("a")),
        ("trim(\"xxaxx\", \"x\")", json!("a")),
        ("trimprefix(\"aab\", \"a\")", json!("ab")),
        ("trimsuffix(\"a.tf\", \".tf\")", json!("a")),
        ("trimspace(\" a\\n\")", json!("a")),
        ("basename(\"/a/b/\")", json!("b")),
        ("dirname(\"/a/b\")", json!("/a")),
        ("indent(2, \"a\\nb\")", json!("a\n  b")),
        ("join(\"-\", var.list)", json!("a-b-c")),
        ("join(\"-\", [1], [true])", json!("1-true")),
        ("split(\",\", \"a,b\")", json!(["a", "b"])),
        ("replace(\"a.b.c\", \".\", \"-\")", json!("a-b-c")),
        (
            "replace(\"a1b22\", \"/[0-9]+/\", \"<$0>\")",
            json!("a<1>b<22>"),
        ),
        ("substr(\"hello\", 1, 3)", json!("ell")),
        ("substr(\"hello\", -2, -1)", json!("lo")),
        ("regex(\"[a-z]+\", \"12ab\")", json!("ab")),
        ("regex(\"(\\\\d)(\\\\d)\", \"12\")", json!(["1", "2"])),
        ("regex(\"(?P<y>\\\\d)\", \"1\")", json!({"y": "1"})),
        ("regexall(\"[a-z]\", \"1a2b\")", json!(["a", "b"])),
        (
            "format(\"%s-%03d-%.2f-%q-%v%%\", \"a\", 7, 1.5, \"b\", [1])",
            json!("a-007-1.50-\"b\"-[1]%"),
        ),
        (
            "formatlist(\"%s-%s\", [\"a\", \"b\"], \"x\")",
            json!(["a-x", "b-x"]),
        ),
    ]);
    assert_errors(&[
        ("format(\"%s\")", "not enough arguments"),
        ("format(\"a\", 1)", "too many arguments"),
        ("format(\"%999999999d\", 1)", "allowed here"),
        ("regex(\"(\", \"a\")", "invalid regular expression"),
        ("regex(\"b\", \"a\")", "did not match"),
        ("upper([])", "argument 1 must be a string"),
        ("upper()", "argument 1 is missing"),
    ]);
}

#[test]
fn functions_of_collections() {
    assert_values(&[
        ("length(var.list)", json!(3)),
        ("length(\"äö\")", json!(2)),
        ("keys({b = 1, a = 2})", json!(["a", "b"])),
        ("values({b = 1, a = 2})", json!([2, 1])),
        ("lookup({a = 1}, \"b\", 2)", json!(2)),
        ("merge({a = 1}, {a = 2, b = 3})", json!({"a": 2, "b": 3})),
        ("zipmap([\"a\"], [1])", json!({"a": 1})),
        (
            "transpose({a = [\"x\", \"y\"], b = [\"x\"]})",
            json!({"x": ["a", "b"], "y": ["a"]}),
        ),
        ("coalesce(\"\", null, \"a\")", json!("a")),
        ("coalescelist([], [1])", json!([1])),
        ("compact([\"a\", \"\", null])", json!(["a"])),
        ("concat([1], [2, 3])", json!([1, 2, 3])),
        ("contains(var.list, \"b\")", json!(true)),
        ("index(var.list, \"b\")", json!(1)),
        ("element(var.list, 4)", json!("b")),
        ("chunklist([1, 2, 3], 2)", json!([[1, 2], [3]])),
        ("flatten([[1, [2]], 3])", json!([1, 2, 3])),
        ("reverse([1, 2])", json!([2, 1])),
        ("slice([1, 2, 3], 1, 3)", json!([2, 3])),
        ("sort([\"b\", \"a\"])", json!(["a", "b"])),
        ("range(3)", json!([0, 1, 2])),
        ("range(3, 0)", json!([3, 2, 1])),
        ("range(0, 1, 0.5)", json!([0, 0.5])),
        ("matchkeys([1, 2], [\"a\", \"b\"], [\"b\"])", json!([2])),
        ("distinct([2, 1, 2])", json!([2, 1])),
        ("toset([\"b\", \"a\", \"b\"])", json!(["a", "b"])),
        ("setunion([1], [2, 1])", json!([1, 2])),
        ("setintersection([1, 2], [2])", json!([2])),
        ("setsubtract([1, 2], [2])", json!([1])),
        ("setproduct([1, 2], [\"a\"])", json!([[1, "a"], [2, "a"]])),
        ("max([1, 3, 2]...)", json!(3)),
        ("list(1, 2)", json!([1, 2])),
        ("map(\"a\", 1)", json!({"a": 1})),
    ]);
    assert_errors(&[
        ("element([], 0)", "empty list"),
        ("slice([1], 0, 2)", "no elements 0 to 2"),
        ("range(2000)", "more than 1024"),
        ("range(0, 1, 0)", "step"),
        ("index([1], 2)", "item not found"),
        ("lookup({}, \"a\")", "failed to find key"),
    ]);
}

#[test]
fn functions_of_numbers() {
    assert_values(&[
        ("abs(-2)", json!(2)),
        ("ceil(1.2)", json!(2)),
        ("floor(-1.2)", json!(-2)),
        ("log(16, 2)", json!(4)),
        ("pow(2, 10)", json!(1024)),
        ("signum(-3)", json!(-1)),
        ("signum(0)", json!(0)),
        ("max(1, 2.5)", json!(2.5)),
        ("min(\"1\", 2)", json!(1)),
        ("parseint(\"ff\", 16)", json!(255)),
        ("tonumber(\"1.5\")", json!(1.5)),
        ("tobool(\"true\")", json!(true)),
        ("tostring(1.0)", json!("1")),
        ("tostring(null)", json!(null)),
    ]);
    assert_errors(&[
        ("parseint(\"x\", 10)", "cannot parse"),
        ("tonumber(\"x\")", "cannot be converted"),
    ]);
}

#[test]
fn functions_of_encodings_hashes_networks_and_dates() {
    assert_values(&[
        ("base64encode(\"a\")", json!("YQ==")),
        ("base64decode(\"YQ==\")", json!("a")),
        (
            "jsonencode({b = \"<\", a = [1]})",
            json!("{\"a\":[1],\"b\":\"\\u003c\"}"),
        ),
        ("jsondecode(\"[1]\")", json!([1])),
        ("csvdecode(\"a,b\\n1,2\")", json!([{"a": "1", "b": "2"}])),
        ("urlencode(\"a b\")", json!("a+b")),
        ("md5(\"\")", json!("d41d8cd98f00b204e9800998ecf8427e")),
        (
            "sha1(\"\")",
            json!("da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ),
        (
            "base64sha256(\"\")",
            json!("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
        ),
        ("length(sha512(\"\")) + length(sha256(\"\"))", json!(192)),
        (
            "uuidv5(\"dns\", \"www.example.com\")",
            json!("2ed6657d-e927-568b-95e1-2665a8aea6a2"),
        ),
        ("cidrhost(\"10.12.112.0/20\", 268)", json!("10.12.113.12")),
        ("cidrhost(\"10.0.0.0/24\", -2)", json!("10.0.0.254")),
        (
            "cidrhost(\"fd00:fd12:3456:7890::/72\", 34)",
            json!("fd00:fd12:3456:7890::22"),
        ),
        ("cidrnetmask(\"172.16.0.0/12\")", json!("255.240.0.0")),
        ("cidrsubnet(\"10.1.2.0/24\", 4, 15)", json!("10.1.2.240/28")),
        (
            "cidrsubnets(\"10.1.0.0/16\", 4, 4, 8, 4)",
            json!([
                "10.1.0.0/20",
                "10.1.16.0/20",
                "10.1.32.0/24",
                "10.1.48.0/20"
            ]),
        ),
        (
            "timeadd(\"2017-11-22T00:00:00Z\", \"1h30m\")",
            json!("2017-11-22T01:30:00Z"),
        ),
        (
            "timeadd(\"2017-11-22T00:00:00+02:00\", \"-90s\")",
            json!("2017-11-21T23:58:30+02:00"),
        ),
        (
            "formatdate(\"DD MMM YYYY hh:mm ZZZ\", \"2018-01-02T23:12:01Z\")",
            json!("02 Jan 2018 23:12 UTC"),
        ),
        (
            "formatdate(\"EEEE, DD-MMM-YY 'at' H:mmAA\", \"2018-01-02T23:12:01-08:00\")",
            json!("Tuesday, 02-Jan-18 at 11:12PM"),
        ),
    ]);
    assert_errors(&[
        ("base64decode(\"%\")", "invalid base64"),
        ("cidrhost(\"10.0.0.0/24\", 256)", "does not accommodate"),
        ("cidrsubnet(\"10.0.0.0/24\", 9, 0)", "address space"),
        ("cidrsubnets(\"10.0.0.0/24\", 1, 1, 1)", "address space"),
        ("timeadd(\"x\", \"1h\")", "RFC 3339"),
        (
            "timeadd(\"2017-11-22T00:00:00Z\", \"1x\")",
            "invalid duration",
        ),
        ("formatdate(\"QQ\", \"2018-01-02T23:12:01Z\")", "verb"),
    ]);
}

#[test]
fn formats_follow_go() {
    assert_values(&[
        ("format(\"%[2]s%[1]s\", \"a\", \"b\")", json!("ba")),
        ("format(\"|%-4s|%4s|\", \"a\", \"b\")", json!("|a   |   b|")),
        (
            "format(\"%x %X %b %o %+d\", 255, 255, 5, 8, 1)",
            json!("ff FF 101 10 +1"),
        ),
        (
            "format(\"%t %e %g\", true, 12345.678, 1e30)",
            json!("true 1.234568e+04 1e+30"),
        ),
        ("format(\"%#v %v\", {a = 1}, null)", json!("{\"a\":1} null")),
        ("format(\"%05.1f %.2s\", -1.25, \"abc\")", json!("-01.2 ab")),
    ]);
}

#[test]
fn work_is_bounded() {
    assert_errors(&[
        (
            "[for a in range(1000) : [for b in range(1000) : [for c in range(1000) : c]]]",
            "too large",
        ),
        (
            "setproduct(range(1000), range(1000), range(1000))",
            "too large",
        ),
        (
            "[for a in range(1000) : [for b in range(1000) : regexall(\"\\\\w{20}\", \"\")]]",
            "too large",
        ),
    ]);
}

#[test]
fn numbers_are_written_with_all_their_digits() {
    assert_eq!(
        text(&json!(12_345_678_901_234_i64)),
        Some("12345678901234".to_owned())
    );
    assert_eq!(text(&json!(0.1)), Some("0.1".to_owned()));
    assert_eq!(
        text(&json!(1e21)),
        Some("1000000000000000000000".to_owned())
    );
}

proptest! {
    #[test]
    fn any_expression_has_a_value_or_an_error(source in "[a-z0-9\"${}()\\[\\].,:?+*/<>=!&|% -]{0,60}") {
        let _ = eval(&source);
    }

    #[test]
    fn any_format_has_a_result_or_an_error(spec in "[%a-z0-9.#+ \\[\\]-]{0,20}", value in -1e9f64..1e9) {
        let _ = eval(&format!("format({spec:?}, {value}, \"x\")"));
        let _ = eval(&format!("formatdate({spec:?}, \"2018-01-02T23:12:01Z\")"));
    }
}
