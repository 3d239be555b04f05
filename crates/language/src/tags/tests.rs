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

fn error(module: &Module) -> String {
    workspace_tags_raw(module).unwrap_err().to_string()
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
