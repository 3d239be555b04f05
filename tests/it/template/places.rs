//! Places: in modules, in what `for_each` and `dynamic` make, and in JSON.

use super::{AGENT, Bench, PROVIDERS, of_rule};

fn check(files: &[(&str, &str)], rule: &str) -> Vec<(String, u64)> {
    let bench = Bench::new(files);
    let (result, _) = bench.check(&["--source-only", "t"]);
    of_rule(&result, rule)
}

fn at(file: &str, line: u64) -> Vec<(String, u64)> {
    vec![(file.to_owned(), line)]
}

#[test]
fn a_value_that_a_caller_gives_is_found_where_the_module_uses_it() {
    let main = format!(
        "{PROVIDERS}{AGENT}module \"a\" {{\n  source = \"./m\"\n  slug   = \"Bad_Slug\"\n  agent  = coder_agent.main.id\n}}\n"
    );
    let module = "variable \"slug\" {}\nvariable \"agent\" {}\nresource \"coder_app\" \"x\" {\n  agent_id = var.agent\n  slug = var.slug\n  url = \"http://localhost:1\"\n}\n";
    let files = [("t/main.tf", main.as_str()), ("t/m/main.tf", module)];

    assert_eq!(check(&files, "app-slug-invalid"), at("m/main.tf", 5));
    assert_eq!(check(&files, "app-without-agent"), []);
}

#[test]
fn all_that_for_each_makes_is_looked_at() {
    let main = format!(
        "{PROVIDERS}{AGENT}locals {{\n  apps = {{ a = \"code\", b = \"code\" }}\n}}\nresource \"coder_app\" \"x\" {{\n  for_each = local.apps\n  agent_id = coder_agent.main.id\n  slug     = each.value\n  url      = \"http://localhost:1\"\n}}\n"
    );

    assert_eq!(
        check(&[("t/main.tf", &main)], "app-slug-duplicate"),
        at("main.tf", 19)
    );
    let keyed = main.replace("each.value", "each.key");
    assert_eq!(check(&[("t/main.tf", &keyed)], "app-slug-duplicate"), []);
}

#[test]
fn options_that_a_dynamic_block_makes_are_looked_at() {
    let main = "data \"coder_parameter\" \"zone\" {\n  name    = \"zone\"\n  default = \"c\"\n  dynamic \"option\" {\n    for_each = [\"a\", \"b\"]\n    content {\n      name  = option.value\n      value = option.value\n    }\n  }\n}\n";

    assert_eq!(
        check(&[("t/main.tf", main)], "parameter-default-invalid"),
        at("main.tf", 3)
    );
    let good = main.replace("\"c\"", "\"b\"");
    assert_eq!(
        check(&[("t/main.tf", &good)], "parameter-default-invalid"),
        []
    );
}

#[test]
fn json_has_the_places_of_its_own_lines() {
    let json = "{\n  \"resource\": {\n    \"coder_agent\": {\n      \"main\": {\n        \"os\": \"linux\",\n        \"arch\": \"sparc\"\n      }\n    },\n    \"coder_app\": {\n      \"x\": {\n        \"agent_id\": \"${coder_agent.main.id}\",\n        \"slug\": \"Nope\",\n        \"url\": \"http://localhost:1\"\n      }\n    }\n  },\n  \"data\": {\n    \"coder_parameter\": {\n      \"p\": {\n        \"name\": \"p\",\n        \"type\": \"number\",\n        \"default\": \"x\",\n        \"validation\": {\"min\": 1}\n      }\n    }\n  }\n}\n";
    let files = [("t/main.tf.json", json)];

    assert_eq!(check(&files, "agent-arch-mismatch"), at("main.tf.json", 6));
    assert_eq!(check(&files, "app-slug-invalid"), at("main.tf.json", 12));
    assert_eq!(
        check(&files, "parameter-default-invalid"),
        at("main.tf.json", 22)
    );
    assert_eq!(check(&files, "app-without-agent"), []);
    assert_eq!(
        check(&files, "parameter-without-description"),
        at("main.tf.json", 19)
    );
}

#[test]
fn a_block_of_an_override_file_counts() {
    let files = [
        ("t/main.tf", AGENT),
        (
            "t/override.tf",
            "resource \"coder_agent\" \"main\" {\n  arch = \"mips\"\n}\n",
        ),
    ];

    assert_eq!(check(&files, "agent-arch-mismatch"), at("override.tf", 2));
}

#[test]
fn agents_that_exclude_each_other_may_share_a_name() {
    let module = "variable \"on\" {}\nresource \"coder_agent\" \"dev\" {\n  count = var.on ? 1 : 0\n  os    = \"linux\"\n  arch  = \"amd64\"\n}\n";
    let main = "data \"coder_parameter\" \"gpu\" {\n  name = \"gpu\"\n  type = \"bool\"\n  default = false\n}\nmodule \"a\" {\n  source = \"./m\"\n  on = data.coder_parameter.gpu.value == \"true\"\n}\nmodule \"b\" {\n  source = \"./m\"\n  on = data.coder_parameter.gpu.value != \"true\"\n}\n";

    assert_eq!(
        check(
            &[("t/main.tf", main), ("t/m/main.tf", module)],
            "agent-name-duplicate"
        ),
        []
    );
    let both = main
        .replace("data.coder_parameter.gpu.value == \"true\"", "true")
        .replace("data.coder_parameter.gpu.value != \"true\"", "true");
    assert_eq!(
        check(
            &[("t/main.tf", &both), ("t/m/main.tf", module)],
            "agent-name-duplicate"
        ),
        at("m/main.tf", 2)
    );
}
