use outpost_base::job::{Agent, Script, ScriptRequirement};
use serde_json::{Value, json};

use crate::{
    configuration::Configuration,
    graph::Graph,
    plan::Module,
    resources::{ConvertError, Converted, convert},
};

/// Terraform's description of a template in flat lists: the addresses contain the modules.
struct Template {
    resources: Vec<Value>,
    declared: Vec<Value>,
    calls: serde_json::Map<String, Value>,
    dot: String,
}

impl Template {
    /// Returns a template with two agents, each on a machine of its own, and two start scripts on the first.
    fn new() -> Self {
        let mut template = Self {
            resources: Vec::new(),
            declared: Vec::new(),
            calls: serde_json::Map::new(),
            dot: String::new(),
        };
        for agent in ["main", "other"] {
            let agent_address = format!("coder_agent.{agent}");
            let values = json!({"id": format!("{agent}-id"), "auth": "token"});
            template.add(&agent_address, values);
            template.add(&format!("null_resource.{agent}"), json!({}));
            template.edge(&format!("null_resource.{agent}"), &agent_address);
        }
        template.add("coder_script.a", at_start());
        template.add("coder_script.b", at_start());
        template
    }

    /// Adds an instance, and its block if it is in the root module.
    fn add(&mut self, address: &str, values: Value) -> &mut Self {
        let is_data = address.contains("data.");
        let path: Vec<_> = address.split(['.', '[']).collect();
        let after = path
            .iter()
            .rposition(|it| it.starts_with("coder_") || *it == "null_resource");
        let at = after.unwrap();
        let mode = if is_data { "data" } else { "managed" };
        let (kind, name) = (path[at], path[at + 1]);
        self.resources.push(json!({
            "address": address, "mode": mode, "type": kind, "name": name, "values": values,
        }));
        if !address.starts_with("module.") {
            let references: Vec<&str> = Vec::new();
            self.declare(mode, kind, name, &references);
        }
        self
    }

    fn declare(&mut self, mode: &str, kind: &str, name: &str, references: &[&str]) -> &mut Self {
        self.declared.push(json!({
            "mode": mode, "type": kind, "name": name,
            "expressions": {"agent_id": {"references": references}},
        }));
        self
    }

    fn edge(&mut self, from: &str, to: &str) {
        for node in [from, to] {
            self.dot += &format!("\"[root] {node} (expand)\" [label = \"{node}\"]\n");
        }
        self.dot += &format!("\"[root] {from} (expand)\" -> \"[root] {to} (expand)\"\n");
    }

    fn call(&mut self, name: &str, module: Value) -> &mut Self {
        self.calls
            .insert(name.to_owned(), json!({ "module": module }));
        self
    }

    fn rules(&mut self, rules: Value) -> &mut Self {
        self.add("data.coder_script_order.startup", json!({ "rule": rules }))
    }

    fn convert(&self) -> Result<Converted, ConvertError> {
        let module: Module = serde_json::from_value(json!({"resources": self.resources})).unwrap();
        let configuration = json!({
            "root_module": {"resources": self.declared, "module_calls": self.calls},
        });
        let configuration: Configuration = serde_json::from_value(configuration).unwrap();
        let graph = Graph::parse(&format!("digraph {{\n{}}}", self.dot)).unwrap();
        convert(&[module], &graph, Some(&configuration))
    }

    fn refused(&self) -> String {
        let text = self.convert().unwrap_err().to_string();
        text.strip_prefix("resolve script order: ")
            .unwrap()
            .to_owned()
    }

    /// Returns the error about a rule, without the words that name the rule.
    fn refused_rule(&self) -> String {
        let text = self.refused();
        let begin = "script order data source \"data.coder_script_order.startup\" rule 0: ";
        text.strip_prefix(begin).unwrap_or(&text).to_owned()
    }
}

fn at_start() -> Value {
    json!({"agent_id": "main-id", "run_on_start": true})
}

fn at_stop() -> Value {
    json!({"agent_id": "main-id", "run_on_stop": true})
}

fn rule(run: &[&str], after: &[&str]) -> Value {
    json!({"run": run, "after": after, "requires": "success", "phase": null})
}

fn agent(converted: &Converted) -> &Agent {
    let mut agents = converted.resources.iter().flat_map(|it| &it.agents);
    agents.find(|agent| agent.name == "main").unwrap()
}

/// Returns the scripts that each script of the agent waits for, with the requirements; scripts without an order have
/// no address.
fn waits(converted: &Converted) -> Vec<(String, Vec<(String, ScriptRequirement)>)> {
    let wait = |script: &Script| {
        let after = script.dependencies.iter();
        let after = after.map(|it| (it.prerequisite.clone(), it.requirement));
        (script.resource_address.clone(), after.collect())
    };
    agent(converted).scripts.iter().map(wait).collect()
}

#[test]
fn a_rule_makes_one_script_wait_for_another_and_leaves_the_rest_as_it_was() {
    let mut template = Template::new();
    template.add("coder_script.c", at_start());
    template.rules(json!([rule(&["coder_script.b"], &["coder_script.a"])]));

    let converted = template.convert().unwrap();

    let success = ScriptRequirement::Success;
    let after_a = vec![("coder_script.a".to_owned(), success)];
    assert_eq!(
        waits(&converted),
        [
            ("coder_script.a".to_owned(), vec![]),
            ("coder_script.b".to_owned(), after_a),
            (String::new(), vec![]),
        ]
    );
    assert_eq!(converted.warnings, Vec::<String>::new());
}

#[test]
fn rules_of_all_data_sources_add_up_and_dependencies_are_sorted() {
    let mut template = Template::new();
    template.add("coder_script.c", at_start());
    let mut anyhow = rule(&["coder_script.c"], &["coder_script.b"]);
    anyhow["requires"] = json!("completion");
    template.rules(json!([
        anyhow,
        rule(&["coder_script.b"], &["coder_script.a", "coder_script.a"])
    ]));
    let more = json!({"rule": [rule(&["coder_script.c"], &["coder_script.a"])]});
    template.add("data.coder_script_order.more", more);

    let waits = waits(&template.convert().unwrap());

    let expected = [
        ("coder_script.a".to_owned(), ScriptRequirement::Success),
        ("coder_script.b".to_owned(), ScriptRequirement::Completion),
    ];
    assert_eq!(waits[2].1, expected);
}

#[test]
fn a_selector_that_names_nothing_declared_is_refused() {
    let cases = [
        (
            "coder_script.nope",
            "run selector \"coder_script.nope\" does not name a declared coder_script resource",
        ),
        (
            "module.missing",
            "run selector \"module.missing\" does not name a declared child module call",
        ),
        (
            "module.left",
            "run selector \"module.left\" does not name a declared child module call",
        ),
        (
            "coder_script.counted[0]",
            "run selector \"coder_script.counted[0]\" expanded to no coder_script resources",
        ),
        (
            "coder_script.b[",
            "invalid run selector \"coder_script.b[\": parse script order selector \"coder_script.b[\": it is not an \
             address such as `coder_script.name`",
        ),
        (
            "coder_script",
            "invalid run selector \"coder_script\": script order selector \"coder_script\" must reference a \
             coder_script in the declaring module or an entire direct child module call",
        ),
        (
            "module.called.coder_script.x",
            "invalid run selector \"module.called.coder_script.x\": script order selector \
             \"module.called.coder_script.x\" must reference a coder_script in the declaring module or an entire \
             direct child module call",
        ),
        (
            "module.called[0]",
            "invalid run selector \"module.called[0]\": module selector \"module.called[0]\" must select all module \
             instances",
        ),
        (
            "coder_agent.main",
            "invalid run selector \"coder_agent.main\": script order selector \"coder_agent.main\" must select a \
             coder_script or module",
        ),
    ];
    for (selector, refused) in cases {
        let mut template = Template::new();
        template.declare("managed", "coder_script", "counted", &[]);
        template.call("called", json!({}));
        // A remainder of a module that is no longer called.
        template.add("module.left.coder_script.x", at_start());
        template.rules(json!([rule(&[selector], &["coder_script.a"])]));
        assert_eq!(template.refused_rule(), refused);
    }
}

#[test]
fn what_is_declared_may_have_no_instances() {
    for selector in ["coder_script.counted", "module.empty"] {
        let mut template = Template::new();
        template.declare("managed", "coder_script", "counted", &[]);
        template.call("empty", json!({}));
        template.rules(json!([rule(&[selector], &["coder_script.a"])]));

        let waits = waits(&template.convert().unwrap());

        assert!(waits.iter().all(|(address, _)| address.is_empty()));
    }
}

#[test]
fn a_rule_that_is_no_rule_is_refused() {
    let with = |key: &str, value: Value| {
        let mut rule = rule(&["coder_script.b"], &["coder_script.a"]);
        rule[key] = value;
        let mut template = Template::new();
        template.rules(json!([rule]));
        template.refused_rule()
    };

    assert_eq!(
        with("requires", json!("started")),
        "requires must be \"success\" or \"completion\", got \"started\""
    );
    assert_eq!(
        with("phase", json!("run")),
        "phase must be \"start\" or \"stop\", got \"run\""
    );
    assert_eq!(
        with("run", json!([])),
        "run must contain at least one selector"
    );
    assert_eq!(
        with("after", Value::Null),
        "after must contain at least one selector"
    );
    assert!(with("after", json!("coder_script.a")).starts_with("decode script order data source"));
    let mut template = Template::new();
    template.rules(json!([]));
    assert_eq!(
        template.refused(),
        "script order data source \"data.coder_script_order.startup\" must contain at least one rule"
    );
}

#[test]
fn a_data_source_that_is_declared_no_more_counts_no_more() {
    let mut template = Template::new();
    template.rules(json!([rule(&["coder_script.nope"], &["coder_script.a"])]));
    template.declared.retain(|block| block["mode"] != "data");

    assert!(template.convert().is_ok());
}

#[test]
fn scripts_that_wait_for_themselves_or_each_other_are_refused() {
    let mut itself = Template::new();
    itself.rules(json!([rule(
        &["coder_script.a"],
        &["coder_script.a", "coder_script.b"]
    )]));
    assert_eq!(
        itself.refused_rule(),
        "run selector \"coder_script.a\" and after selector \"coder_script.a\" both select script \"coder_script.a\"; \
         a script cannot depend on itself"
    );

    let mut each_other = Template::new();
    each_other.rules(json!([
        rule(&["coder_script.a"], &["coder_script.b"]),
        rule(&["coder_script.b"], &["coder_script.a"]),
    ]));
    assert_eq!(
        each_other.refused(),
        "script order dependency cycle: coder_script.a -> coder_script.b -> coder_script.a; cycle edges: \
         \"coder_script.b\" after \"coder_script.a\" from run selector \"coder_script.b\" and after selector \
         \"coder_script.a\" (data source \"data.coder_script_order.startup\" rule 1); \"coder_script.a\" after \
         \"coder_script.b\" from run selector \"coder_script.a\" and after selector \"coder_script.b\" (data source \
         \"data.coder_script_order.startup\" rule 0)"
    );
}

#[test]
fn one_pair_has_one_requirement() {
    let mut template = Template::new();
    let mut anyhow = rule(&["coder_script.b"], &["coder_script.a"]);
    anyhow["requires"] = json!("completion");
    template.rules(json!([
        rule(&["coder_script.b"], &["coder_script.a"]),
        anyhow
    ]));

    assert_eq!(
        template.refused(),
        "script order data source \"data.coder_script_order.startup\" rule 1: run selector \"coder_script.b\" and \
         after selector \"coder_script.a\" declare script \"coder_script.b\" after \"coder_script.a\" with requires \
         \"completion\", conflicting with requires \"success\" from data source \"data.coder_script_order.startup\" \
         rule 0"
    );
}

#[test]
fn one_agent_runs_all_scripts_of_a_rule_and_one_in_a_container_is_another() {
    let mut template = Template::new();
    let values = json!({"agent_id": "main-id", "subagent_id": "inner-id"});
    template.add("coder_devcontainer.inner", values);
    for (script, agent) in [("d", "other-id"), ("e", "inner-id"), ("f", "nobody")] {
        let values = json!({"agent_id": agent, "run_on_start": true});
        template.add(&format!("coder_script.{script}"), values);
    }
    let mut refused = |script: &str| {
        template
            .resources
            .retain(|it| it["type"] != "coder_script_order");
        template.rules(json!([rule(&[script], &["coder_script.a"])]));
        template.refused_rule()
    };

    let shared = "; scripts can be ordered only within the same agent or devcontainer subagent";
    assert_eq!(
        refused("coder_script.d"),
        format!(
            "selector \"coder_script.a\" expands to script \"coder_script.a\" executed by \"coder_agent.main\", but \
             selector \"coder_script.d\" expands to script \"coder_script.d\" executed by \"coder_agent.other\"{shared}"
        )
    );
    assert!(
        refused("coder_script.e")
            .ends_with(&format!("executed by \"coder_devcontainer.inner\"{shared}"))
    );
    assert_eq!(
        refused("coder_script.f"),
        "run selector \"coder_script.f\" selects script \"coder_script.f\", but it could not be associated with an \
         agent or devcontainer subagent"
    );
}

#[test]
fn scripts_of_a_rule_run_in_one_phase() {
    let mut template = Template::new();
    template.add("coder_script.bye", at_stop());
    let both = json!({"agent_id": "main-id", "run_on_start": true, "run_on_stop": true});
    template.add("coder_script.both", both);
    template.add(
        "coder_script.cron",
        json!({"agent_id": "main-id", "cron": "* * * * * *"}),
    );
    template.add("coder_script.never", json!({"agent_id": "main-id"}));
    let mut refused = |script: &str, phase: Option<&str>| {
        template
            .resources
            .retain(|it| it["type"] != "coder_script_order");
        let mut rule = rule(&[script], &["coder_script.a"]);
        rule["phase"] = json!(phase);
        template.rules(json!([rule]));
        template.refused_rule()
    };

    assert_eq!(
        refused("coder_script.bye", None),
        "after selector \"coder_script.a\" selects start script \"coder_script.a\", but run selector \
         \"coder_script.bye\" selects stop script \"coder_script.bye\"; coder_script resource selectors cannot mix \
         start and stop scripts"
    );
    assert_eq!(
        refused("coder_script.bye", Some("start")),
        "run selector \"coder_script.bye\" selects stop script \"coder_script.bye\", but the rule phase is \"start\""
    );
    for (script, reason) in [
        ("both", "has both run_on_start and run_on_stop enabled"),
        (
            "cron",
            "is cron-only; script ordering requires run_on_start or run_on_stop",
        ),
        ("never", "has neither run_on_start nor run_on_stop enabled"),
    ] {
        let address = format!("coder_script.{script}");
        assert_eq!(
            refused(&address, None),
            format!(
                "run selector \"{address}\" expanded to [\"{address}\"], but script \"{address}\" {reason}"
            )
        );
    }
}

/// Returns a template with a module that has a script for each phase, beside the root's own.
fn with_module() -> Template {
    let mut template = Template::new();
    template.call("tools", json!({}));
    template.add("module.tools.coder_script.up", at_start());
    template.add("module.tools.module.deep[0].coder_script.up", at_start());
    template.add("module.tools.coder_script.down", at_stop());
    template
}

#[test]
fn a_module_means_its_scripts_of_the_phase_and_says_so_if_it_was_guessed() {
    let mut template = with_module();
    template.rules(json!([rule(&["coder_script.b"], &["module.tools"])]));

    let converted = template.convert().unwrap();

    let waits = waits(&converted);
    let (_, after) = waits.iter().find(|(it, _)| it == "coder_script.b").unwrap();
    let after: Vec<_> = after.iter().map(|(address, _)| address.as_str()).collect();
    assert_eq!(
        after,
        [
            "module.tools.coder_script.up",
            "module.tools.module.deep[0].coder_script.up"
        ]
    );
    assert_eq!(
        converted.warnings,
        [
            "script order data source \"data.coder_script_order.startup\" rule 0 inferred phase \"start\" and omitted \
             scripts in the other phase from module selectors: \"module.tools\"; set phase = \"start\" explicitly to \
             make this filtering intentional"
        ]
    );
    let mut explicit = rule(&["coder_script.b"], &["module.tools"]);
    explicit["phase"] = json!("start");
    let mut template = with_module();
    template.rules(json!([explicit]));
    assert_eq!(template.convert().unwrap().warnings, Vec::<String>::new());
}

#[test]
fn modules_alone_do_not_tell_a_phase_if_they_have_both() {
    let mut template = with_module();
    template.call("other", json!({}));
    template.add("module.other.coder_script.up", at_start());
    template.rules(json!([rule(&["module.tools"], &["module.other"])]));
    assert_eq!(
        template.refused_rule(),
        "run selector \"module.tools\" selects start script \"module.tools.coder_script.up\", but run selector \
         \"module.tools\" selects stop script \"module.tools.coder_script.down\"; phase cannot be inferred from module \
         selectors that expand to both start and stop scripts; set phase to \"start\" or \"stop\""
    );
}

#[test]
fn selectors_count_from_the_module_that_declares_them_and_keys_pick_instances() {
    let mut template = Template::new();
    for key in ["[\"x.y\"]", "[\"z\"]"] {
        template.add(&format!("module.m[1].coder_script.s{key}"), at_start());
    }
    template.add("module.m[0].coder_script.s[\"z\"]", at_start());
    template.add("module.m[1].coder_script.a", at_start());
    let rules = json!({"rule": [rule(&["coder_script.a"], &["coder_script.s[\"z\"]"])]});
    template.add("module.m[1].data.coder_script_order.inside", rules);
    template.call(
        "m",
        json!({"resources": [
            {"mode": "data", "type": "coder_script_order", "name": "inside"},
            {"mode": "managed", "type": "coder_script", "name": "s"},
        ]}),
    );

    let waits = waits(&template.convert().unwrap());

    let ordered: Vec<_> = waits.iter().filter(|(it, _)| !it.is_empty()).collect();
    let z = "module.m[1].coder_script.s[\"z\"]".to_owned();
    let after = vec![(z.clone(), ScriptRequirement::Success)];
    assert_eq!(
        ordered,
        [
            &("module.m[1].coder_script.a".to_owned(), after),
            &(z, vec![])
        ]
    );
}

/// Returns scripts of a plan, before agents have ids: `a` refers to the agent through a local, `module.m`'s through
/// its input.
fn planned(other: &str) -> Template {
    let mut template = Template::new();
    for resource in &mut template.resources {
        let values = resource["values"].as_object_mut().unwrap();
        values.remove("id");
        values.remove("agent_id");
    }
    template
        .declared
        .retain(|block| block["type"] != "coder_script");
    template.declare("managed", "coder_script", "a", &["local.agent"]);
    template.declare(
        "managed",
        "coder_script",
        "b",
        &["coder_agent.main.id", "coder_agent.main"],
    );
    template.edge("local.agent", "coder_agent.main");
    template.add("module.m.coder_script.s", json!({"run_on_start": true}));
    template.edge("module.m.var.agent", &format!("coder_agent.{other}"));
    let references = json!({"agent_id": {"references": ["var.agent.id", "var.agent"]}});
    template.call(
        "m",
        json!({"resources": [
            {"mode": "managed", "type": "coder_script", "name": "s", "expressions": references},
        ]}),
    );
    template.rules(json!([
        rule(&["coder_script.b"], &["coder_script.a"]),
        rule(&["module.m"], &["coder_script.b"]),
    ]));
    template
}

#[test]
fn before_an_apply_agents_are_found_by_what_scripts_refer_to() {
    let converted = planned("main").convert().unwrap();

    let waits = waits(&converted);
    let addresses: Vec<_> = waits.iter().map(|(address, _)| address.as_str()).collect();
    assert_eq!(
        addresses,
        [
            "coder_script.a",
            "coder_script.b",
            "module.m.coder_script.s"
        ]
    );
    assert_eq!(waits[2].1[0].0, "coder_script.b");
    assert!(
        planned("other").refused().contains(
            "executed by \"coder_agent.main\", but selector \"module.m\" expands to script"
        )
    );
}

#[test]
fn an_agent_that_cannot_be_found_before_an_apply_is_warned_about() {
    let mut template = planned("main");
    template.edge("module.m.var.agent", "coder_agent.other");

    let converted = template.convert().unwrap();

    assert!(
        converted.warnings[0].starts_with(
            "the agents that run 1 of the ordered scripts are not known before the build"
        ),
        "{:?}",
        converted.warnings
    );
}

#[test]
fn scripts_without_an_agent_at_a_stop_have_no_order_and_no_error() {
    let mut template = Template::new();
    for resource in &mut template.resources {
        resource["values"]["agent_id"] = Value::Null;
    }
    template.rules(json!([rule(&["coder_script.b"], &["coder_script.a"])]));

    assert_eq!(template.convert().unwrap().warnings, Vec::<String>::new());
}

#[test]
fn rules_have_limits() {
    let mut template = Template::new();
    template.declare("managed", "coder_script", "many", &[]);
    for at in 0..400 {
        template.resources.push(json!({
            "address": format!("coder_script.many[{at}]"), "mode": "managed", "type": "coder_script", "name": "many",
            "values": at_start(),
        }));
        template.resources.push(json!({
            "address": format!("coder_script.more[{at}]"), "mode": "managed", "type": "coder_script", "name": "more",
            "values": at_start(),
        }));
    }
    template.rules(json!([rule(
        &["coder_script.many"],
        &["coder_script.more"]
    )]));
    assert!(
        template
            .refused_rule()
            .contains("exceeding the overall limit of 100000 combinations")
    );

    // A long chain reaches none of the limits, and causes no deep recursion.
    template
        .resources
        .retain(|it| it["type"] != "coder_script_order");
    let chain = (1..400).map(|at| {
        let names = [at, at - 1].map(|at| format!("coder_script.many[{at}]"));
        rule(&[&names[0]], &[&names[1]])
    });
    let chain: Vec<_> = chain.collect();
    template.rules(json!(chain));
    assert!(template.convert().is_ok());
    let closing = rule(&["coder_script.many[0]"], &["coder_script.many[399]"]);
    let all: Vec<_> = chain.into_iter().chain([closing]).collect();
    template
        .resources
        .retain(|it| it["type"] != "coder_script_order");
    template.rules(json!(all));
    assert!(template.refused().ends_with("; 380 cycle edges omitted"));
}
