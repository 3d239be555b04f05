//! Conversion of a plan and of a state with 1,000 resources: agents with apps, facts, modules, counted machines.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::fmt::Write;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use outpost::terraform::{
    graph::Graph,
    plan::Plan,
    resources::{self, Converted},
    state::State,
};
use serde_json::{Value, json};

/// Groups of ten resources each.
const GROUPS: usize = 100;

fn conversion(criterion: &mut Criterion) {
    let dot = graph();
    let graph = Graph::parse(&dot).expect("the graph is well-formed");
    let plan = document(false);
    let state = document(true);
    assert_eq!(made(&plan, &graph), (3 * GROUPS, GROUPS, 3 * GROUPS));
    criterion.bench_function("parse graph of 1000 resources", |bencher| {
        bencher.iter(|| Graph::parse(&dot));
    });
    criterion.bench_function("parse plan of 1000 resources", |bencher| {
        bencher.iter(|| Plan::parse(&plan));
    });
    criterion.bench_function("convert plan of 1000 resources", |bencher| {
        let plan = Plan::parse(&plan).expect("the plan is well-formed");
        bencher.iter(|| resources::convert(plan.modules(), &graph, Some(plan.configuration())));
    });
    criterion.bench_function("parse state of 1000 resources", |bencher| {
        bencher.iter(|| State::parse(&state));
    });
    criterion.bench_function("convert state of 1000 resources", |bencher| {
        let parse = || State::parse(&state).expect("the state is well-formed");
        bencher.iter_batched_ref(
            parse,
            |state| resources::convert(state.modules(), &graph, None),
            BatchSize::LargeInput,
        );
    });
}

/// How many resources, agents and apps a plan becomes: a bench of nothing would be fast, too.
fn made(plan: &[u8], graph: &Graph) -> (usize, usize, usize) {
    let plan = Plan::parse(plan).expect("the plan is well-formed");
    let converted: Converted =
        resources::convert(plan.modules(), graph, Some(plan.configuration())).expect("it converts");
    let agents = || {
        converted
            .resources
            .iter()
            .flat_map(|resource| &resource.agents)
    };
    let apps = agents().map(|agent| agent.apps.len()).sum();
    (converted.resources.len(), agents().count(), apps)
}

fn document(is_state: bool) -> Vec<u8> {
    let modules: Vec<_> = (0..GROUPS / 2)
        .map(|group| module(group, is_state))
        .collect();
    let root: Vec<_> = (GROUPS / 2..GROUPS)
        .flat_map(|group| members(group, "", is_state))
        .collect();
    let root = json!({"root_module": {"resources": root, "child_modules": modules}});
    let document = if is_state {
        json!({"format_version": "1.0", "values": root})
    } else {
        json!({"format_version": "1.2", "planned_values": root})
    };
    document.to_string().into_bytes()
}

fn module(group: usize, is_state: bool) -> Value {
    let address = format!("module.m{group}");
    let members = members(group, &format!("{address}."), is_state);
    json!({"address": address, "resources": members})
}

/// A machine with its agent, three apps, a script, a variable, facts, a disk and a network.
fn members(group: usize, prefix: &str, is_state: bool) -> Vec<Value> {
    let agent_id = format!("00000000-0000-4000-8000-{group:012}");
    // Only a state knows ids; in a plan of the same size agents are found by name, so they have them here, too.
    let id = |value: &mut Value| value["agent_id"] = json!(agent_id);
    let resource = |kind: &str, name: &str, mut values: Value| {
        if ["coder_app", "coder_script", "coder_env"].contains(&kind)
            && (is_state || !prefix.is_empty())
        {
            id(&mut values);
        }
        json!({"address": format!("{prefix}{kind}.{name}"), "mode": "managed", "type": kind, "name": name, "values": values})
    };
    let agent = |is_known: bool| {
        let mut values = json!({"arch": "amd64", "os": "linux", "auth": "token", "dir": "/home/dev",
            "env": {"A": "b", "C": "d"}, "connection_timeout": 120, "startup_script": "#!/bin/sh\nexec true\n",
            "metadata": [{"key": "cpu", "display_name": "CPU", "script": "top", "interval": 10, "timeout": 1}]});
        if is_known {
            values["id"] = json!(agent_id);
            values["token"] = json!(agent_id);
        }
        values
    };
    let mut all = vec![
        resource(
            "coder_agent",
            &format!("a{group}"),
            agent(is_state || !prefix.is_empty()),
        ),
        resource(
            "aws_instance",
            &format!("vm{group}"),
            json!({"instance_type": "t3.large", "ami": "ami-1", "tags": {"a": "b"}}),
        ),
        resource(
            "aws_ebs_volume",
            &format!("disk{group}"),
            json!({"size": 30, "type": "gp3"}),
        ),
        resource(
            "aws_network_interface",
            &format!("net{group}"),
            json!({"subnet_id": "subnet-1"}),
        ),
        resource(
            "coder_script",
            &format!("s{group}"),
            json!({"display_name": "S", "script": "true", "run_on_start": true}),
        ),
        resource(
            "coder_env",
            &format!("e{group}"),
            json!({"name": "PATH", "value": "/bin"}),
        ),
        resource(
            "coder_metadata",
            &format!("m{group}"),
            json!({"daily_cost": 3, "item": [{"key": "k", "value": "v"}]}),
        ),
    ];
    all.extend((0..3).map(|app| {
        let slug = format!("app-{group}-{app}");
        let values = json!({"id": agent_id, "slug": slug, "display_name": slug, "url": "http://localhost:8080",
            "share": "owner", "healthcheck": [{"url": "http://localhost:8080/health", "interval": 5, "threshold": 6}]});
        resource("coder_app", &slug, values)
    }));
    all
}

fn graph() -> String {
    let mut dot = String::from("digraph {\n\tcompound = \"true\"\n\tsubgraph \"root\" {\n");
    for group in 0..GROUPS {
        let prefix = if group < GROUPS / 2 {
            format!("module.m{group}.")
        } else {
            String::new()
        };
        let agent = format!("{prefix}coder_agent.a{group}");
        let machine = format!("{prefix}aws_instance.vm{group}");
        let mut edges = vec![(machine.clone(), agent.clone())];
        for kind in ["aws_ebs_volume.disk", "aws_network_interface.net"] {
            edges.push((machine.clone(), format!("{prefix}{kind}{group}")));
        }
        edges.push((format!("{prefix}coder_metadata.m{group}"), machine.clone()));
        for part in [
            format!("coder_script.s{group}"),
            format!("coder_env.e{group}"),
        ] {
            edges.push((format!("{prefix}{part}"), agent.clone()));
        }
        for app in 0..3 {
            edges.push((
                format!("{prefix}coder_app.app-{group}-{app}"),
                agent.clone(),
            ));
        }
        for (from, to) in edges {
            for node in [&from, &to] {
                let _ = writeln!(
                    dot,
                    "\t\t\"[root] {node} (expand)\" [label = \"{node}\", shape = \"box\"]"
                );
            }
            let _ = writeln!(
                dot,
                "\t\t\"[root] {from} (expand)\" -> \"[root] {to} (expand)\""
            );
        }
    }
    dot.push_str("\t}\n}\n");
    dot
}

criterion_group!(benches, conversion);
criterion_main!(benches);
