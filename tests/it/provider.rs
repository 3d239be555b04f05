//! The built-in `coder` provider as Terraform sees it, beside the original where Go can build it.

pub mod lab;
mod normal;

use std::collections::BTreeSet;

use serde_json::Value;

use self::{
    lab::{Lab, Provider, template},
    normal::{Finding, findings, normalised},
};

/// Templates below `testdata/provider` that plan and apply.
const GOOD: [&str; 3] = ["minimal", "full", "edges"];

/// What a build says about its workspace.
const BUILD: [(&str, &str); 20] = [
    ("CODER_AGENT_URL", "https://coder.example.com:8443"),
    (
        "CODER_WORKSPACE_BUILD_ID",
        "5d1d5a6a-5fbc-4d11-a1a1-000000000001",
    ),
    ("CODER_WORKSPACE_ID", "5d1d5a6a-5fbc-4d11-a1a1-000000000002"),
    ("CODER_WORKSPACE_NAME", "dev"),
    ("CODER_WORKSPACE_OWNER", "ann"),
    ("CODER_WORKSPACE_OWNER_EMAIL", "ann@example.com"),
    ("CODER_WORKSPACE_OWNER_NAME", "Ann"),
    ("CODER_WORKSPACE_OWNER_GROUPS", r#"["a","b"]"#),
    (
        "CODER_WORKSPACE_OWNER_RBAC_ROLES",
        r#"[{"name":"member"},{"name":"x","org_id":"y"}]"#,
    ),
    ("CODER_WORKSPACE_OWNER_LOGIN_TYPE", "oidc"),
    ("CODER_WORKSPACE_OWNER_SESSION_TOKEN", "session"),
    (
        "CODER_WORKSPACE_TEMPLATE_ID",
        "5d1d5a6a-5fbc-4d11-a1a1-000000000003",
    ),
    ("CODER_WORKSPACE_TEMPLATE_NAME", "template"),
    ("CODER_WORKSPACE_TEMPLATE_VERSION", "v1"),
    (
        "CODER_AGENT_SCRIPT_linux_amd64",
        "curl ${ACCESS_URL}bin/x; export AUTH=${AUTH_TYPE}",
    ),
    ("CODER_EXTERNAL_AUTH_ACCESS_TOKEN_github", "github-token"),
    ("CODER_TASK_ID", "5d1d5a6a-5fbc-4d11-a1a1-000000000004"),
    ("CODER_TASK_PROMPT", "do it"),
    // The parameter `string`.
    (
        "CODER_PARAMETER_473287f8298dba7163a897908958f7c0eae733e25d2e027992ea2edc9bed2fa8",
        "from the user",
    ),
    // The agents' token.
    (
        "CODER_RUNNING_WORKSPACE_AGENT_TOKEN_e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "5d1d5a6a-5fbc-4d11-a1a1-000000000005",
    ),
];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    BUILD.iter().chain(more).copied().collect()
}

#[test]
fn every_template_plans_applies_and_plans_again_without_a_change() {
    for case in GOOD {
        let lab = Lab::new(&template(case), &Provider::builtin());

        lab.init();
        lab.plan(&[]);
        lab.apply(&[]);

        assert!(!lab.has_changes(&[]), "{case}");
    }
}

#[test]
fn the_environment_reaches_the_template() {
    let lab = Lab::new(&template("minimal"), &Provider::builtin());
    lab.init();

    let plan = lab.plan(&BUILD);

    let data = |address: &str| prior(&plan, address);
    assert_eq!(data("data.coder_workspace.me")["name"], "dev");
    assert_eq!(data("data.coder_workspace_owner.me")["groups"][1], "b");
    assert_eq!(
        data("data.coder_parameter.string")["value"],
        "from the user"
    );
    assert_eq!(
        data("data.coder_external_auth.github")["access_token"],
        "github-token"
    );
    lab.apply(&BUILD);
    let state = lab.state();
    let agent = &resource(&state, "coder_agent.main")["values"];
    assert_eq!(agent["token"], "5d1d5a6a-5fbc-4d11-a1a1-000000000005");
    let script = "curl https://coder.example.com:8443/bin/x; export AUTH=token";
    assert_eq!(agent["init_script"], script);
}

#[test]
fn the_schema_is_that_of_the_original() {
    let Some(real) = Provider::real() else { return };

    let [ours, theirs] = [Provider::builtin(), real].map(|provider| {
        let lab = Lab::new(&template("minimal"), &provider);
        lab.init();
        let mut schema = lab.json(&["providers", "schema", "-json"], &[]);
        normal::drop_descriptions(&mut schema);
        schema
    });

    normal::assert_equal("schema", &ours, &theirs);
}

#[test]
fn plans_and_states_are_those_of_the_original() {
    let Some(real) = Provider::real() else { return };
    let stop = with(&[("CODER_WORKSPACE_TRANSITION", "stop")]);
    let prebuild = with(&[("CODER_WORKSPACE_IS_PREBUILD", "true")]);
    let claim = with(&[("CODER_WORKSPACE_IS_PREBUILD_CLAIM", "true")]);
    for case in GOOD {
        for environment in [
            vec![],
            with(&[]),
            stop.clone(),
            prebuild.clone(),
            claim.clone(),
        ] {
            let [ours, theirs] = [&Provider::builtin(), &real].map(|provider| {
                let lab = Lab::new(&template(case), provider);
                lab.init();
                let plan = lab.plan(&environment);
                lab.apply(&environment);
                (normalised(plan), normalised(lab.state()))
            });
            normal::assert_equal(&format!("plan of {case}"), &ours.0, &theirs.0);
            normal::assert_equal(&format!("state of {case}"), &ours.1, &theirs.1);
        }
    }
}

#[test]
fn a_state_of_one_provider_plans_with_the_other_without_a_change() {
    let Some(real) = Provider::real() else { return };
    let builtin = Provider::builtin();
    for case in GOOD {
        for (first, second) in [(&real, &builtin), (&builtin, &real)] {
            let mut lab = Lab::new(&template(case), first);
            lab.init();
            lab.plan(&BUILD);
            lab.apply(&BUILD);

            lab.switch_to(second);
            lab.init();

            assert!(
                !lab.has_changes(&BUILD),
                "{case}: {first:?}, then {second:?}"
            );
        }
    }
}

#[test]
fn mistakes_are_found_where_the_original_finds_them() {
    let Some(real) = Provider::real() else { return };
    for (case, command) in [
        ("invalid-config", ["validate", "-json"].as_slice()),
        ("invalid-plan", &["plan", "-json", "-input=false"]),
        (
            "invalid-apply",
            &["apply", "-json", "-input=false", "-auto-approve"],
        ),
    ] {
        let [ours, theirs]: [BTreeSet<Finding>; 2] =
            [&Provider::builtin(), &real].map(|provider| {
                let lab = Lab::new(&template(case), provider);
                lab.init();
                findings(&lab.output(command))
            });
        let only_ours: Vec<_> = ours.difference(&theirs).collect();
        let only_theirs: Vec<_> = theirs.difference(&ours).collect();
        assert!(
            only_ours.is_empty() && only_theirs.is_empty(),
            "{case}: only ours {only_ours:#?}, only theirs {only_theirs:#?}"
        );
        assert!(
            ours.iter().any(|finding| finding.is_error),
            "{case} has no mistake"
        );
    }
}

#[test]
fn every_type_takes_the_controls_that_it_takes_in_the_original() {
    let Some(real) = Provider::real() else { return };
    let source = every_control();

    let [ours, theirs] = [&Provider::builtin(), &real].map(|provider| {
        let lab = Lab::new(&source, provider);
        lab.init();
        findings(&lab.output(&["plan", "-json", "-input=false"]))
    });

    assert_eq!(ours, theirs);
}

/// A parameter of every type with every control, with options and without.
fn every_control() -> String {
    let mut source = lab::HEADER.to_owned();
    for (kind, value) in [
        ("string", "a"),
        ("number", "1"),
        ("bool", "true"),
        ("list(string)", "[]"),
    ] {
        for control in [
            "",
            "radio",
            "slider",
            "input",
            "dropdown",
            "checkbox",
            "switch",
            "multi-select",
            "tag-select",
            "textarea",
            "error",
        ] {
            for with_option in [false, true] {
                let name = format!("{kind}-{control}-{with_option}").replace(['(', ')'], "-");
                let form = match control {
                    "" => String::new(),
                    _ => format!("form_type = \"{control}\"\n"),
                };
                let option = match with_option {
                    true => format!("option {{\nname = \"x\"\nvalue = \"{value}\"\n}}\n"),
                    false => String::new(),
                };
                source += &format!(
                    "data \"coder_parameter\" \"{name}\" {{\nname = \"{name}\"\ntype = \"{kind}\"\n\
                     default = \"{value}\"\n{form}{option}}}\n"
                );
            }
        }
    }
    source
}

fn prior<'a>(plan: &'a Value, address: &str) -> &'a Value {
    &resource(&plan["prior_state"], address)["values"]
}

fn resource<'a>(state: &'a Value, address: &str) -> &'a Value {
    let resources = state["values"]["root_module"]["resources"]
        .as_array()
        .unwrap();
    resources.iter().find(|r| r["address"] == address).unwrap()
}
