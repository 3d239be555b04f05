//! Conversions, held against the reference's.
//!
//! Its cases lie beside the repository in `../shared/goldens` (or in `$OUTPOST_SHARED/goldens`); without them the
//! test says so.

use std::{
    fs,
    path::{Path, PathBuf},
};

use outpost::terraform::{
    graph::Graph,
    plan::Plan,
    reference_json,
    resources::{self, ConvertError, Converted},
    state::State,
};

#[test]
fn every_case_of_the_reference_converts_equally() {
    let shared = std::env::var_os("OUTPOST_SHARED").map(PathBuf::from);
    let shared =
        shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let Ok(cases) = fs::read_dir(shared.join("goldens")) else {
        println!("skipped: no cases of the reference beside the repository");
        return;
    };
    let mut compared = 0;
    for case in cases.map(|case| case.unwrap().path()) {
        for step in ["plan", "state"] {
            let expected: serde_json::Value = serde_json::from_slice(
                &fs::read(case.join(format!("converted_state.{step}.golden"))).unwrap(),
            )
            .unwrap();
            let converted = convert(&case, step);
            assert_eq!(
                reference_json::render(&converted),
                expected,
                "{} {step}",
                case.display()
            );
            let again = convert(&case, step);
            assert_eq!(
                reference_json::render(&converted),
                reference_json::render(&again)
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 40, "twenty cases, plan and state each");
}

fn convert(case: &Path, step: &str) -> Result<Converted, ConvertError> {
    let name = case.file_name().unwrap().to_str().unwrap();
    let json = fs::read(case.join(format!("{name}.tf{step}.json"))).unwrap();
    let dot = fs::read_to_string(case.join(format!("{name}.tf{step}.dot"))).unwrap();
    let graph = Graph::parse(&dot).unwrap();
    match step {
        "plan" => resources::convert(Plan::parse(&json).unwrap().modules(), &graph),
        _ => resources::convert(State::parse(&json).unwrap().modules(), &graph),
    }
}
