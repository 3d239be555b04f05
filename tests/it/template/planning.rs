//! Plans with mocked providers: what the engine complains of is found, and nothing of a template runs.

use std::fs;

use serde_json::Value;

use super::{AGENT, Bench, PROVIDERS, examples, found, of_rule};

const MACHINE: &str = "data \"coder_workspace\" \"me\" {}\nresource \"terraform_data\" \"machine\" {\n  count = data.coder_workspace.me.start_count\n  input = coder_agent.main.init_script\n}\nresource \"terraform_data\" \"home\" {}\n";

#[test]
fn our_examples_have_no_errors_and_plan_without_their_providers() {
    let bench = Bench::new(&[("x", "")]);
    let names = fs::read_dir(examples())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let paths: Vec<String> = names
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();

    let (result, code) = bench.check(&paths);

    let errors: Vec<&Value> = result["templates"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|it| it["findings"].as_array().unwrap())
        .filter(|it| it["severity"] == "error")
        .collect();
    assert_eq!((errors, code), (vec![], 0));
    let docker = result["templates"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["directory"].as_str().unwrap().ends_with("/docker"))
        .unwrap();
    assert_eq!(
        docker["mocked_providers"],
        serde_json::json!([{"source": "registry.terraform.io/kreuzwerker/docker", "schema": "inferred"}])
    );
    assert_eq!(
        (&docker["resources"], &docker["agents"]),
        (&2.into(), &1.into())
    );
    assert!(!docker["engine"]["version"].as_str().unwrap().is_empty());
}

#[test]
fn what_only_a_plan_finds_has_the_line_that_the_engine_names() {
    let broken = format!(
        "{PROVIDERS}{AGENT}{MACHINE}output \"a\" {{\n  value = terraform_data.nothing.id\n}}\n"
    );
    let bench = Bench::new(&[("t/main.tf", &broken)]);

    let (result, code) = bench.check(&["t"]);

    assert_eq!(
        of_rule(&result, "invalid"),
        [("main.tf".to_owned(), 20)],
        "{result}"
    );
    assert_eq!(code, 1);
}

#[test]
fn a_plan_that_fails_for_a_stopped_workspace_only_is_found() {
    let broken = format!(
        "{PROVIDERS}{AGENT}{MACHINE}output \"a\" {{\n  value = terraform_data.machine[0].id\n}}\n"
    );
    let bench = Bench::new(&[("t/main.tf", &broken)]);

    let (result, _) = bench.check(&["t"]);

    assert_eq!(
        of_rule(&result, "invalid"),
        [("main.tf".to_owned(), 20)],
        "{result}"
    );
    let findings = result["templates"][0]["findings"].as_array().unwrap();
    let finding = findings.iter().find(|it| it["rule"] == "invalid").unwrap();
    assert!(
        finding["message"]
            .as_str()
            .unwrap()
            .starts_with("a stopped workspace cannot be planned: "),
        "{finding}"
    );
}

#[test]
fn what_a_rule_says_better_is_said_once() {
    let broken = format!("{PROVIDERS}{}{MACHINE}", AGENT.replace("amd64", "sparc"));
    let bench = Bench::new(&[("t/main.tf", &broken)]);

    let (result, _) = bench.check(&["t"]);

    assert_eq!(of_rule(&result, "agent-arch-mismatch").len(), 1);
    assert_eq!(of_rule(&result, "invalid"), [], "{result}");
}

#[test]
fn a_schema_of_a_file_refuses_what_an_inferred_one_cannot() {
    let template = "terraform {\n  required_providers {\n    demo = {\n      source  = \"acme/demo\"\n      version = \"~> 3.1\"\n    }\n  }\n}\nresource \"demo_box\" \"a\" {\n  name  = \"x\"\n  sise  = 3\n}\ndata \"demo_zone\" \"z\" {}\noutput \"z\" {\n  value = upper(data.demo_zone.z.names[0])\n}\n";
    let schema = r#"{"provider_schemas": {"registry.terraform.io/acme/demo": {"resource_schemas": {"demo_box": {"version": 0, "block": {"attributes": {
        "name": {"type": "string", "required": true}, "size": {"type": "number", "optional": true}, "id": {"type": "string", "computed": true}}}}},
        "data_source_schemas": {"demo_zone": {"version": 0, "block": {"attributes": {"names": {"type": ["list", "string"], "computed": true}}}}}}}}"#;
    let bench = Bench::new(&[("t/main.tf", template), ("schema.json", schema)]);

    let (result, _) = bench.check(&["t"]);
    assert_eq!(of_rule(&result, "invalid"), [], "{result}");
    assert_eq!(
        result["templates"][0]["mocked_providers"][0]["schema"],
        "inferred"
    );

    let (result, _) = bench.check(&["--schema", "schema.json", "t"]);
    assert_eq!(
        result["templates"][0]["mocked_providers"][0]["schema"],
        "file"
    );
    assert!(
        of_rule(&result, "invalid").contains(&("main.tf".to_owned(), 11)),
        "{result}"
    );
}

#[test]
fn nothing_of_a_template_runs() {
    let bench = Bench::new(&[("x", "")]);
    let witness = |name: &str| bench.path(name).display().to_string();
    let program = |name: &str| format!("#!/bin/sh\ntouch '{}'\nexit 1\n", witness(name));
    let template = format!(
        "terraform {{\n  required_providers {{\n    coder = {{\n      source = \"coder/coder\"\n      version = \"~> 2.4\"\n    }}\n    fake = {{\n      source = \"acme/fake\"\n      version = \"~> 1.0\"\n    }}\n    external = {{\n      source = \"hashicorp/external\"\n      version = \"~> 2.0\"\n    }}\n  }}\n}}\n{AGENT}{MACHINE}resource \"terraform_data\" \"run\" {{\n  provisioner \"local-exec\" {{\n    command = \"touch {}\"\n  }}\n}}\ndata \"external\" \"run\" {{\n  program = [\"touch\", \"{}\"]\n}}\nresource \"fake_thing\" \"a\" {{}}\noutput \"x\" {{\n  value = data.external.run.result\n}}\n",
        witness("by-provisioner"),
        witness("by-external"),
    );
    bench.write("t/main.tf", &template);
    let platform = "linux_amd64";
    for place in [
        format!(
            "t/.terraform/providers/registry.terraform.io/acme/fake/1.0.0/{platform}/terraform-provider-fake_v1.0.0"
        ),
        format!(
            "t/terraform.d/plugins/registry.terraform.io/acme/fake/1.0.0/{platform}/terraform-provider-fake_v1.0.0"
        ),
    ] {
        use std::os::unix::fs::PermissionsExt as _;
        bench.write(&place, &program("by-provider"));
        fs::set_permissions(bench.path(&place), fs::Permissions::from_mode(0o755)).unwrap();
    }

    let (result, code) = bench.check(&["t"]);

    assert_eq!(of_rule(&result, "invalid"), [], "{result}");
    assert_eq!(code, 0, "{:?}", found(&result));
    for name in ["by-provisioner", "by-external", "by-provider"] {
        assert!(!bench.path(name).exists(), "{name}");
    }
}

#[test]
fn modules_that_terraform_left_in_the_directory_are_checked_and_planned() {
    let call = "module \"ide\" {\n  source   = \"registry.example.com/acme/ide/coder\"\n  version  = \"1.2.0\"\n  agent_id = coder_agent.main.id\n}\n";
    let main = [PROVIDERS, AGENT, MACHINE, call].concat();
    let manifest = r#"{"Modules":[{"Key":"","Source":"","Dir":"."},{"Key":"ide","Source":"registry.example.com/acme/ide/coder","Version":"1.2.0","Dir":".terraform/modules/ide"}]}"#;
    let app = [
        PROVIDERS,
        "variable \"agent_id\" {}\nresource \"coder_app\" \"ide\" {\n  agent_id = var.agent_id\n  slug     = \"Not A Slug\"\n  url      = \"http://localhost:1\"\n}\nresource \"terraform_data\" \"extra\" {}\n",
    ]
    .concat();
    let bench = Bench::new(&[
        ("main.tf", &main),
        (".terraform/modules/modules.json", manifest),
        (".terraform/modules/ide/apps.tf", &app),
    ]);

    let (result, code) = bench.check(&["."]);
    assert_eq!(
        (code, of_rule(&result, "app-slug-invalid")),
        (3, Vec::new())
    );
    let (result, code) = bench.check(&["--installed-modules", "."]);

    assert_eq!(code, 1, "{result}");
    let line = 1 + app
        .lines()
        .position(|it| it.contains("Not A Slug"))
        .unwrap() as u64;
    let slug = ("apps.tf".to_owned(), line);
    assert_eq!(of_rule(&result, "app-slug-invalid"), [slug]);
    let template = &result["templates"][0];
    let findings = template["findings"].as_array().unwrap();
    let slug = findings
        .iter()
        .find(|it| it["rule"] == "app-slug-invalid")
        .unwrap();
    assert_eq!(slug["module"], "registry.example.com/acme/ide/coder");
    assert_eq!(slug["address"], "module.ide.coder_app.ide");
}

#[test]
fn a_function_that_refuses_a_made_up_value_is_no_error_of_the_template() {
    let locals = "data \"http\" \"sizes\" { url = \"https://sizes.example\" }\nlocals {\n  sizes = jsondecode(data.http.sizes.response_body).sizes\n  wrong = jsondecode(\"{\")\n}\noutput \"sizes\" { value = local.sizes }\n";
    let bench = Bench::new(&[
        (
            "good/main.tf",
            &[
                PROVIDERS,
                AGENT,
                MACHINE,
                &locals.replace("  wrong = jsondecode(\"{\")\n", ""),
            ]
            .concat(),
        ),
        (
            "bad/main.tf",
            &[
                PROVIDERS,
                AGENT,
                MACHINE,
                "output \"x\" { value = jsondecode(\"{\") }\n",
            ]
            .concat(),
        ),
    ]);

    let (result, code) = bench.check(&["good"]);
    assert_eq!(
        (code, of_rule(&result, "invalid")),
        (3, Vec::new()),
        "{result}"
    );

    let (result, code) = bench.check(&["bad"]);
    assert_eq!(
        (code, of_rule(&result, "invalid").len()),
        (1, 1),
        "{result}"
    );
}
