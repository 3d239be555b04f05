//! Tests of script orders, on a clock of their own.

use outpost_wire::proto::coder::agent::v2::WorkspaceAgentScriptDependency as Dependency;

use super::*;

fn script(address: &str, after: &[(&str, Requirement)]) -> Script {
    let dependency = |(address, requirement): &(&str, Requirement)| Dependency {
        prerequisite_resource_address: (*address).to_owned(),
        requirement: (*requirement).into(),
    };
    Script {
        display_name: address.trim_start_matches("coder_script.").to_owned(),
        resource_address: address.to_owned(),
        dependencies: after.iter().map(dependency).collect(),
        ..Script::default()
    }
}

fn order(scripts: &[Script]) -> Order {
    Order::new(scripts, Instant::now()).unwrap()
}

fn events(order: &mut Order) -> Vec<Event> {
    std::iter::from_fn(|| order.poll_event()).collect()
}

use Requirement::{Completion, Success};

#[test]
fn a_script_runs_once_everything_before_it_has_ended() {
    let mut order = order(&[
        script(
            "coder_script.c",
            &[("coder_script.b", Success), ("coder_script.a", Success)],
        ),
        script("coder_script.a", &[]),
        script("coder_script.b", &[]),
        Script::default(),
    ]);
    assert_eq!(
        events(&mut order),
        [Event::Run(1), Event::Run(2), Event::Run(3)]
    );

    order.handle_end(1, Ended::Succeeded);
    order.handle_end(3, Ended::Failed);
    assert_eq!(events(&mut order), []);
    order.handle_end(2, Ended::Succeeded);
    assert_eq!(events(&mut order), [Event::Run(0)]);
    assert_eq!(order.poll_timeout(), None);
}

#[test]
fn success_skips_after_anything_else_and_completion_runs_after_anything() {
    for ended in [Ended::Failed, Ended::TimedOut] {
        let mut order = order(&[
            script("coder_script.clone", &[]),
            script("coder_script.install", &[("coder_script.clone", Success)]),
            script("coder_script.report", &[("coder_script.clone", Completion)]),
        ]);
        events(&mut order);

        order.handle_end(0, ended);

        let why = "Skipping script: dependency \"clone\" failed.".to_owned();
        assert_eq!(events(&mut order), [Event::Skip(1, why), Event::Run(2)]);
    }
}

#[test]
fn a_skip_goes_on_as_a_skip_and_counts_as_completion() {
    let mut order = order(&[
        script("coder_script.a", &[]),
        script("coder_script.b", &[("coder_script.a", Success)]),
        script("coder_script.c", &[("coder_script.b", Completion)]),
        script("coder_script.d", &[("coder_script.b", Success)]),
    ]);
    events(&mut order);

    order.handle_end(0, Ended::Failed);

    let skip =
        |script, what: &str| Event::Skip(script, format!("Skipping script: dependency {what}."));
    assert_eq!(
        events(&mut order),
        [
            skip(1, "\"a\" failed"),
            Event::Run(2),
            skip(3, "\"b\" was skipped")
        ]
    );
}

#[test]
fn one_failure_skips_although_something_else_still_runs() {
    let mut order = order(&[
        script("coder_script.slow", &[]),
        script("coder_script.bad", &[]),
        script(
            "coder_script.c",
            &[
                ("coder_script.slow", Success),
                ("coder_script.bad", Success),
            ],
        ),
    ]);
    events(&mut order);

    order.handle_end(1, Ended::Failed);

    let why = "Skipping script: dependency \"bad\" failed.".to_owned();
    assert_eq!(events(&mut order), [Event::Skip(2, why)]);
}

#[test]
fn a_script_that_waits_says_for_what_every_thirty_seconds() {
    let start = Instant::now();
    let scripts = [
        script("coder_script.z_clone", &[]),
        script("coder_script.a_auth", &[]),
        script(
            "coder_script.install",
            &[
                ("coder_script.z_clone", Success),
                ("coder_script.a_auth", Completion),
            ],
        ),
    ];
    let mut order = Order::new(&scripts, start).unwrap();
    events(&mut order);
    let line = |who: &str| Event::Wait(2, format!("Waiting for dependencies: {who}... (30s)"));

    assert_eq!(order.poll_timeout(), Some(start + Duration::from_secs(30)));
    order.handle_timeout(start + Duration::from_millis(29_999));
    assert_eq!(events(&mut order), []);
    order.handle_timeout(start + Duration::from_secs(30));
    order.handle_timeout(start + Duration::from_secs(30));
    assert_eq!(
        events(&mut order),
        [line("\"coder_script.a_auth\", \"coder_script.z_clone\"")]
    );
    order.handle_end(1, Ended::TimedOut);
    order.handle_timeout(start + Duration::from_secs(125));
    assert_eq!(events(&mut order), [line("\"coder_script.z_clone\"")]);
    assert_eq!(order.poll_timeout(), Some(start + Duration::from_secs(150)));
    order.handle_end(0, Ended::Succeeded);
    assert_eq!(
        (events(&mut order), order.poll_timeout()),
        (vec![Event::Run(2)], None)
    );
}

#[test]
fn a_cancelled_order_neither_runs_nor_skips_what_waits() {
    let mut order = order(&[
        script("coder_script.a", &[]),
        script("coder_script.b", &[("coder_script.a", Success)]),
        script("coder_script.c", &[("coder_script.a", Completion)]),
    ]);
    assert_eq!(events(&mut order), [Event::Run(0)]);

    order.cancel();
    order.handle_end(0, Ended::Failed);

    assert_eq!((events(&mut order), order.poll_timeout()), (vec![], None));
}

#[test]
fn scripts_that_could_never_run_as_they_should_are_refused_before_any_runs() {
    let mut nameless = script("", &[("coder_script.clone", Success)]);
    nameless.display_name = "install".to_owned();
    let clone = || script("coder_script.clone", &[]);
    let mut odd = script("coder_script.install", &[("coder_script.clone", Success)]);
    odd.dependencies[0].requirement = 7;
    let cases = [
        (
            vec![nameless],
            "script \"install\" has dependencies but no Terraform resource address",
        ),
        (
            vec![clone(), clone()],
            "duplicate script resource address \"coder_script.clone\"",
        ),
        (
            vec![script(
                "coder_script.install",
                &[("coder_script.clone", Success)],
            )],
            "script \"coder_script.install\" depends on \"coder_script.clone\", which is not part of this \
             lifecycle execution",
        ),
        (
            vec![clone(), odd],
            "script \"coder_script.install\" dependency on \"coder_script.clone\": unsupported requirement \"7\"",
        ),
        (
            vec![
                clone(),
                script("coder_script.a", &[("coder_script.b", Success)]),
                script("coder_script.b", &[("coder_script.a", Completion)]),
            ],
            "script \"coder_script.a\" depends on itself through its dependencies",
        ),
    ];
    for (scripts, why) in cases {
        let error = Order::new(&scripts, Instant::now()).unwrap_err();
        assert_eq!(error.to_string(), why);
    }
}
