use super::*;

const BASE: &str = r#"
provider "foo" {}
resource "foo_bar" "baz" {
  name = "foobar"
}
variable "region" {
  type    = string
  default = "us"
}
variable "unrelated" {
  type = bool
}
data "coder_parameter" "unrelated" {
  name    = "unrelated"
  type    = "list(string)"
  default = jsonencode(["a", "b"])
}
data "coder_parameter" "az" {
  name    = "az"
  type    = "string"
  default = "a"
}
"#;

fn module(text: &str) -> Module {
    Module::parse([("main.tf", text)]).unwrap()
}

fn with_tags(tags: &str) -> Module {
    module(&format!(
        "{BASE}\ndata \"coder_workspace_tags\" \"tags\" {{\n tags = {{\n{tags}\n }}\n}}\n"
    ))
}

fn evaluated(tags: &str) -> BTreeMap<String, String> {
    workspace_tags_evaluated(&with_tags(tags)).unwrap()
}

fn error(module: &Module) -> String {
    workspace_tags_evaluated(module).unwrap_err().to_string()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn values_are_returned_as_they_are_written() {
    let module = with_tags(
        r#"  "cluster" = "developers"
  "os"      = data.coder_parameter.os_selector.value
  "debug"   = "${data.coder_parameter.feature_debug_enabled.value}+12345" # why
  cache     = data.coder_parameter.c.value == "true" ? "nix-with-cache" : "no-cache"
  "x"       : (1 + 2) , "y" = [
    1 ]"#,
    );

    let expected = map(&[
        ("cluster", r#""developers""#),
        ("os", "data.coder_parameter.os_selector.value"),
        (
            "debug",
            r#""${data.coder_parameter.feature_debug_enabled.value}+12345""#,
        ),
        (
            "cache",
            r#"data.coder_parameter.c.value == "true" ? "nix-with-cache" : "no-cache""#,
        ),
        ("x", "(1 + 2)"),
        ("y", "[\n    1 ]"),
    ]);
    assert_eq!(workspace_tags_raw(&module).unwrap(), expected);
}

#[test]
fn tags_come_from_all_files_but_json() {
    let block = |key: &str| {
        format!("data \"coder_workspace_tags\" \"{key}\" {{\n tags = {{\n \"{key}\" = 1\n }}\n}}\n")
    };
    let json = r#"{"data": {"coder_workspace_tags": {"c": {"tags": {"c": "1"}}}}}"#;
    let module = Module::parse([
        ("a.tf", block("a").as_str()),
        ("b.tf", &block("b")),
        ("c.tf.json", json),
    ]);

    let tags = workspace_tags_raw(&module.unwrap()).unwrap();

    assert_eq!(tags, map(&[("a", "1"), ("b", "1")]));
}

#[test]
fn without_tags_there_is_nothing_to_evaluate() {
    assert_eq!(
        workspace_tags_evaluated(&module(BASE)).unwrap(),
        BTreeMap::new()
    );
    assert_eq!(
        workspace_tags_evaluated(&module("")).unwrap(),
        BTreeMap::new()
    );
}

#[test]
fn a_tag_twice_is_an_error() {
    let in_one_block = with_tags("\"debug\" = \"yes\"\n\"debug\" = \"no\"");
    let block = "data \"coder_workspace_tags\" \"NAME\" {\n tags = {\n \"debug\" = 1\n }\n}\n";
    let in_two_blocks = module(&(block.replace("NAME", "a") + &block.replace("NAME", "b")));

    for module in [in_one_block, in_two_blocks] {
        let error = workspace_tags_raw(&module).unwrap_err().to_string();
        assert_eq!(error, "workspace tag \"debug\" is defined multiple times");
    }
}

#[test]
fn tags_must_be_an_argument_with_a_map() {
    let block = |body: &str| {
        module(&format!(
            "data \"coder_workspace_tags\" \"t\" {{\n{body}\n}}\n"
        ))
    };

    for body in ["", "tags {\n cluster = \"developers\"\n}"] {
        assert_eq!(
            error(&block(body)),
            "\"tags\" attribute is required by coder_workspace_tags"
        );
    }
    let expected = "\"tags\" attribute is expected to be a key-value map";
    assert_eq!(error(&block("tags = merge({}, {})")), expected);
}

#[test]
fn defaults_of_variables_and_parameters_are_used() {
    let tags = evaluated(
        r#""platform" = "kubernetes",
    "cluster"  = "${"devel"}${"opers"}"
    "region"   = var.region
    "az"       = data.coder_parameter.az.value"#,
    );

    let expected = [
        ("platform", "kubernetes"),
        ("cluster", "developers"),
        ("region", "us"),
        ("az", "a"),
    ];
    assert_eq!(tags, map(&expected));
}

#[test]
fn two_parameters_in_one_value_are_both_known() {
    let more = "data \"coder_parameter\" \"b\" {\n default = \"2\"\n}\n";
    let module = module(&format!(
        "{BASE}{more}data \"coder_workspace_tags\" \"t\" {{\n tags = {{\n both = \"${{data.coder_parameter.az.value}}-${{data.coder_parameter.b.value}}\"\n }}\n}}\n"
    ));

    assert_eq!(
        workspace_tags_evaluated(&module).unwrap(),
        map(&[("both", "a-2")])
    );
}

#[test]
fn a_parameter_may_refer_to_a_variable_but_not_to_a_parameter() {
    let with_default = |default: &str| {
        module(&format!(
            "{BASE}data \"coder_parameter\" \"p\" {{\n default = {default}\n}}\ndata \"coder_workspace_tags\" \"t\" {{\n tags = {{\n p = data.coder_parameter.p.value\n }}\n}}\n"
        ))
    };

    let tags = workspace_tags_evaluated(&with_default("var.region")).unwrap();
    assert_eq!(tags, map(&[("p", "us")]));

    let error = error(&with_default("data.coder_parameter.az.value"));
    assert!(
        error.contains("Unknown variable; There is no variable named \"data\"."),
        "{error}"
    );
}

#[test]
fn a_parameter_without_default_is_empty() {
    let module = module(
        "data \"coder_parameter\" \"p\" {}\ndata \"coder_workspace_tags\" \"t\" {\n tags = {\n p = data.coder_parameter.p.value\n }\n}\n",
    );

    assert_eq!(
        workspace_tags_evaluated(&module).unwrap(),
        map(&[("p", "")])
    );
}

#[test]
fn only_parameters_that_are_needed_are_evaluated() {
    let module = module(
        "data \"coder_parameter\" \"p\" {\n default = file(\"x\")\n}\ndata \"coder_workspace_tags\" \"t\" {\n tags = {\n a = 1\n }\n}\n",
    );

    assert_eq!(
        workspace_tags_evaluated(&module).unwrap(),
        map(&[("a", "1")])
    );
}

#[test]
fn other_data_sources_and_resources_are_refused() {
    assert_eq!(
        error(&with_tags(
            "\"hostname\" = data.local_file.hostname.content"
        )),
        "invalid workspace tag value \"data.local_file.hostname.content\": only the \"coder_parameter\" data source is supported here"
    );
    let error = error(&with_tags("\"foobarbaz\" = foo_bar.baz.name"));
    assert!(
        error.contains("There is no variable named \"foo_bar\""),
        "{error}"
    );
}

#[test]
fn functions_may_be_used_unless_they_read_files() {
    let tags = evaluated(
        r#""region" = try(split(".", var.region)[1], "placeholder")
    "az"     = try(split(".", data.coder_parameter.az.value)[1], "placeholder")
    "upper"  = upper(data.coder_parameter.az.value)"#,
    );
    assert_eq!(
        tags,
        map(&[
            ("region", "placeholder"),
            ("az", "placeholder"),
            ("upper", "A")
        ])
    );

    let error = error(&with_tags("\"some_path\" = pathexpand(\"~/file.txt\")"));
    assert!(
        error.contains("function \"pathexpand\" may not be used here"),
        "{error}"
    );
}

#[test]
fn all_types_become_text() {
    let module = module(
        r#"
variable "stringvar" { default = "a" }
variable "numvar" { default = 1 }
variable "largevar" { default = 12345678901234 }
variable "boolvar" { default = true }
variable "listvar" { default = ["a"] }
variable "mapvar" { default = {"a": "b"} }
variable "nullvar" { default = null }
data "coder_parameter" "numparam" { default = 1 }
data "coder_parameter" "boolparam" { default = true }
data "coder_parameter" "listparam" { default = "[\"a\", \"b\"]" }
data "coder_workspace_tags" "tags" {
  tags = {
    "stringvar" = var.stringvar
    "numvar"    = var.numvar
    "largevar"  = var.largevar
    "boolvar"   = var.boolvar
    "listvar"   = var.listvar
    "mapvar"    = var.mapvar
    "nullvar"   = var.nullvar
    "numparam"  = data.coder_parameter.numparam.value
    "boolparam" = data.coder_parameter.boolparam.value
    "listparam" = data.coder_parameter.listparam.value
    "number"    = 12345678901234
  }
}
"#,
    );

    let expected = map(&[
        ("stringvar", "a"),
        ("numvar", "1"),
        ("largevar", "12345678901234"),
        ("boolvar", "true"),
        ("listvar", r#"["a"]"#),
        ("mapvar", r#"{"a":"b"}"#),
        ("nullvar", ""),
        ("numparam", "1"),
        ("boolparam", "true"),
        ("listparam", r#"["a", "b"]"#),
        ("number", "12345678901234"),
    ]);
    assert_eq!(workspace_tags_evaluated(&module).unwrap(), expected);
}

#[test]
fn lists_and_other_maps_are_no_tags() {
    let list = error(&with_tags("\"x\" = [1]"));
    assert!(
        list.contains("only primitive types are supported - bool, number, and string"),
        "{list}"
    );

    let other = error(&with_tags("\"x\" = {a = \"b\"}"));
    assert!(other.contains("map does not have key 'value'"), "{other}");
}

#[test]
fn names_that_begin_alike_are_told_apart() {
    let module = module(
        "variable \"a\" {\n default = \"1\"\n}\nvariable \"ab\" {\n default = \"ab\"\n}\ndata \"coder_workspace_tags\" \"t\" {\n tags = {\n \"foo\": \"bar\",\n \"a\": var.a,\n }\n}\n",
    );

    assert_eq!(
        workspace_tags_evaluated(&module).unwrap(),
        map(&[("foo", "bar"), ("a", "1")])
    );
}
