//! Schemas that providers themselves tell: those of a directory, asked once for each package.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use super::{Bench, of_rule};

const TEMPLATE: &str = "terraform {\n  required_providers {\n    demo = {\n      source  = \"acme/demo\"\n      version = \"~> 3.1\"\n    }\n  }\n}\nresource \"demo_box\" \"a\" {\n  name  = \"x\"\n  sise  = 3\n}\n";

const SCHEMA: &str = r#"{"schema": {"resource_schemas": {"demo_box": {"version": 0, "block": {"attributes": {
    "name": {"type": "string", "required": true}, "size": {"type": "number", "optional": true}, "id": {"type": "string", "computed": true},
    "ports": {"type": ["list", "number"], "computed": true}}}}}}}"#;

const PACKAGE: &str = "plugins/registry.terraform.io/acme/demo";

/// A template, and a directory with a provider for it, which is served from `schema.json` beside the directory.
fn bench(template: &str) -> Bench {
    let bench = Bench::new(&[("t/main.tf", template), ("schema.json", SCHEMA)]);
    for version in ["3.0.0", "3.1.4", "4.0.0"] {
        let name = format!("{PACKAGE}/{version}/linux_amd64/terraform-provider-demo_v{version}");
        let program = format!(
            "#!/bin/sh\nexec '{}' terraform-provider-mock '{}'\n",
            env!("CARGO_BIN_EXE_outpost"),
            bench.path("schema.json").display()
        );
        bench.write(&name, &program);
        fs::set_permissions(bench.path(&name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    bench
}

fn source_of_schema(result: &Value) -> &Value {
    &result["templates"][0]["mocked_providers"][0]["schema"]
}

#[test]
fn a_provider_of_a_directory_is_asked_once_for_its_schema() {
    let bench = bench(TEMPLATE);
    let typo = ("main.tf".to_owned(), 11);

    let (result, code) = bench.check(&["--plugin-dir", "plugins", "t"]);
    assert_eq!(
        (source_of_schema(&result), code),
        (&"store".into(), 1),
        "{result}"
    );
    assert!(of_rule(&result, "invalid").contains(&typo), "{result}");

    // Without its file the provider could not answer again.
    fs::remove_file(bench.path("schema.json")).unwrap();
    let (result, _) = bench.check(&["--plugin-dir", "plugins", "t"]);
    assert_eq!(source_of_schema(&result), "store", "{result}");
    assert!(of_rule(&result, "invalid").contains(&typo), "{result}");
}

#[test]
fn a_provider_that_does_not_answer_is_a_reason_why_the_check_is_incomplete() {
    let bench = bench(TEMPLATE);
    fs::remove_file(bench.path("schema.json")).unwrap();

    let (result, code) = bench.check(&["--plugin-dir", "plugins", "t"]);

    assert_eq!(
        (source_of_schema(&result), code),
        (&"inferred".into(), 3),
        "{result}"
    );
}

#[test]
fn an_exported_schema_serves_a_check_where_no_provider_is() {
    let bench = bench(TEMPLATE);

    let exported = bench.run(&[
        "schema",
        "export",
        "--plugin-dir",
        "plugins",
        "--file",
        "out.json",
        "t",
    ]);

    assert!(exported.status.success(), "{exported:?}");
    let document: Value = serde_json::from_str(&bench.read("out.json")).unwrap();
    let schema = &document["provider_schemas"]["registry.terraform.io/acme/demo"];
    assert_eq!(document["format_version"], "1.0");
    assert_eq!(
        schema["resource_schemas"]["demo_box"]["block"]["attributes"]["ports"]["type"],
        serde_json::json!(["list", "number"])
    );
    let (result, _) = bench.check(&["--schema", "out.json", "t"]);
    assert_eq!(source_of_schema(&result), "file");
    assert!(
        of_rule(&result, "invalid").contains(&("main.tf".to_owned(), 11)),
        "{result}"
    );
}

#[test]
fn an_export_names_the_provider_that_no_place_has() {
    let bench = Bench::new(&[("t/main.tf", TEMPLATE), ("plugins/empty/x", "")]);

    let exported = bench.run(&["schema", "export", "t"]);
    let stderr = String::from_utf8_lossy(&exported.stderr);
    assert_eq!(exported.status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("registry.terraform.io/acme/demo") && stderr.contains("--online"),
        "{stderr}"
    );

    let exported = bench.run(&["schema", "export", "--plugin-dir", "plugins", "t"]);
    let stderr = String::from_utf8_lossy(&exported.stderr);
    assert_eq!(exported.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("has no provider for"), "{stderr}");
}

#[test]
fn scenarios_are_played_with_the_types_that_a_provider_tells() {
    let template = TEMPLATE.replace("  sise  = 3\n", "");
    let template = format!("{template}output \"ports\" {{\n  value = demo_box.a.ports\n}}\n");
    let bench = bench(&template);
    bench.write(
        "t/a.coder.hcl",
        "run \"start\" {\n  assert {\n    condition     = length(output.ports) == 0\n    error_message = \"a list\"\n  }\n}\n",
    );

    let tested = bench.run(&["test", "--plugin-dir", "plugins", "t"]);

    assert!(tested.status.success(), "{tested:?}");
}
