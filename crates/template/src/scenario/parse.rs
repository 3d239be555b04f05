//! Scenario files, parsed.

use std::collections::BTreeSet;

use hcl_edit::structure::{Block, Body};
use outpost_base::job::Transition;

use super::{
    Assert, Mock, Owner, Place, Problem, Run, Scenario, Ssh, place::Source, reader::Reader,
    references::references,
};
use crate::similar::suggestion;

/// The largest scenario file, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Runs that one file may have.
const MAX_RUNS: usize = 500;
/// Mistakes that are reported of one file.
const MAX_PROBLEMS: usize = 100;

const MOCK_DATA: &str = "mock_data";
const MOCK_RESOURCE: &str = "mock_resource";
const TRANSITIONS: [&str; 3] = ["start", "stop", "delete"];

/// Parses a scenario file; `file` is its name for places.
///
/// # Errors
/// All mistakes, at most 100, in the order of their places; at least one.
pub fn parse(file: &str, text: &str) -> Result<Scenario, Vec<Problem>> {
    // Editors of Windows put this mark at the beginning.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        source: Source::new(file, if text.len() > MAX_BYTES { "" } else { text }),
        problems: Vec::new(),
    };
    if text.len() > MAX_BYTES {
        let place = reader.source.place_at(0);
        reader.wrong(
            place,
            format!("the file has more than {MAX_BYTES} bytes; split it"),
        );
        return Err(reader.problems);
    }
    let body = match hcl_edit::parser::parse_body(&reader.source.relaxed.text) {
        Ok(body) => body,
        Err(error) => {
            let place = reader.source.place_at(error.location().offset());
            return Err(vec![Problem::new(
                place,
                format!("syntax error: {}", error.message()),
            )]);
        }
    };
    let scenario = reader.scenario(file, &body);
    let mut problems = reader.problems;
    problems.sort();
    problems.dedup();
    problems.truncate(MAX_PROBLEMS);
    match problems.is_empty() {
        true => Ok(scenario),
        false => Err(problems),
    }
}

impl Reader<'_> {
    fn scenario(&mut self, file: &str, body: &Body) -> Scenario {
        let blocks = ["owner", "workspace", MOCK_DATA, MOCK_RESOURCE, "run"];
        self.names(body, "a scenario", &["variables", "parameters"], &blocks);
        let mocks = body
            .blocks()
            .filter(|block| [MOCK_DATA, MOCK_RESOURCE].contains(&block.ident.as_str()));
        Scenario {
            file: file.to_owned(),
            owner: self.owner(body),
            workspace: self.workspace(body),
            variables: self.map(body, "variables"),
            parameters: self.map(body, "parameters"),
            mocks: mocks.filter_map(|block| self.mock(block)).collect(),
            runs: self.runs(body),
        }
    }

    fn owner(&mut self, body: &Body) -> Owner {
        let Some(block) = self.only(body, "owner") else {
            return Owner::default();
        };
        self.labels(block, 0, 0);
        self.names(
            &block.body,
            "`owner`",
            &["name", "full_name", "email", "groups"],
            &[],
        );
        let mut owner = match self.named(&block.body) {
            Some(name) => Owner::named(&name),
            None => Owner::default(),
        };
        if let Some((email, _)) = self.text(&block.body, "email") {
            owner.email = email;
        }
        if let Some((full_name, _)) = self.text(&block.body, "full_name") {
            owner.full_name = full_name;
        }
        owner.groups = self.texts(&block.body, "groups");
        owner
    }

    fn workspace(&mut self, body: &Body) -> String {
        const DEFAULT: &str = "test";
        let Some(block) = self.only(body, "workspace") else {
            return DEFAULT.to_owned();
        };
        self.labels(block, 0, 0);
        self.names(&block.body, "`workspace`", &["name"], &[]);
        self.named(&block.body)
            .unwrap_or_else(|| DEFAULT.to_owned())
    }

    /// A name as Coder's users and workspaces have it.
    fn named(&mut self, body: &Body) -> Option<String> {
        let (name, place) = self.text(body, "name")?;
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let is_name = name.chars().all(is_inner) && (1..=32).contains(&name.len());
        if !is_name || name.starts_with('-') || name.ends_with('-') || name.contains("--") {
            let text = "a name has 1 to 32 letters and digits, with single hyphens between them";
            self.wrong(place, text);
        }
        Some(name)
    }

    fn mock(&mut self, block: &Block) -> Option<Mock> {
        let place = self.source.place(&block.ident);
        self.names(
            &block.body,
            &format!("`{}`", block.ident.as_str()),
            &["values"],
            &[],
        );
        if !self.labels(block, 1, 2) {
            return None;
        }
        if block.body.get_attribute("values").is_none() {
            self.wrong(place.clone(), "`values` is missing");
        }
        Some(Mock {
            is_data: block.ident.as_str() == MOCK_DATA,
            kind: block.labels[0].as_str().to_owned(),
            name: block.labels.get(1).map(|label| label.as_str().to_owned()),
            values: self.map(&block.body, "values"),
            place,
        })
    }

    fn runs(&mut self, body: &Body) -> Vec<Run> {
        let (mut runs, mut names) = (Vec::new(), BTreeSet::new());
        for block in body.get_blocks("run") {
            let place = self.source.place(&block.ident);
            if runs.len() == MAX_RUNS {
                self.wrong(
                    place,
                    format!("a file has at most {MAX_RUNS} runs; split it"),
                );
                break;
            }
            if !self.labels(block, 1, 1) {
                continue;
            }
            let name = block.labels[0].as_str().to_owned();
            if !names.insert(name.clone()) {
                self.wrong(place.clone(), format!("there is a run \"{name}\" already"));
            }
            runs.push(self.run(name, place, &block.body));
        }
        if runs.is_empty() && self.problems.is_empty() {
            let place = self.source.place_at(0);
            self.wrong(place, "there is no `run` block: run \"NAME\" { … }");
        }
        runs
    }

    fn run(&mut self, name: String, place: Place, body: &Body) -> Run {
        const ARGUMENTS: [&str; 7] = [
            "transition",
            "preset",
            "parameters",
            "expect_error",
            "apply",
            "connect",
            "golden",
        ];
        self.names(body, "a run", &ARGUMENTS, &["assert", "ssh"]);
        let asserts = body.get_blocks("assert");
        let ssh = body.get_blocks("ssh");
        let connect = self.flag(body, "connect");
        let run = Run {
            name,
            place,
            transition: self.transition(body),
            preset: self.text(body, "preset"),
            parameters: self.map(body, "parameters"),
            asserts: asserts.filter_map(|block| self.assert(block)).collect(),
            expect_error: self.pattern(body, "expect_error"),
            apply: self.flag(body, "apply").is_some_and(|(apply, _)| apply),
            connect: connect
                .filter(|(connect, _)| *connect)
                .map(|(_, place)| place),
            ssh: ssh.filter_map(|block| self.ssh(block)).collect(),
            golden: self.text(body, "golden"),
        };
        self.contradictions(&run, body);
        run
    }

    fn transition(&mut self, body: &Body) -> Transition {
        let Some((name, place)) = self.text(body, "transition") else {
            return Transition::Start;
        };
        match name.as_str() {
            "start" => Transition::Start,
            "stop" => Transition::Stop,
            "delete" => Transition::Destroy,
            other => {
                let near = suggestion(other, TRANSITIONS);
                self.wrong(place, format!("unknown transition \"{other}\"{near}"));
                Transition::Start
            }
        }
    }

    /// Arguments that make no sense together.
    fn contradictions(&mut self, run: &Run, body: &Body) {
        if let Some(place) = run.connect.clone().filter(|_| !run.apply) {
            self.wrong(place, "`connect = true` needs `apply = true`");
        }
        if let Some(ssh) = run.ssh.first().filter(|_| run.connect.is_none()) {
            self.wrong(ssh.place.clone(), "`ssh` needs `connect = true`");
        }
        let Some(expected) = body.get_attribute("expect_error") else {
            return;
        };
        if !run.asserts.is_empty() || run.golden.is_some() || run.connect.is_some() {
            let place = self.source.place(&expected.key);
            let text = "a run with `expect_error` makes nothing that `assert`, `golden` or `connect` could look at";
            self.wrong(place, text);
        }
    }

    fn assert(&mut self, block: &Block) -> Option<Assert> {
        self.labels(block, 0, 0);
        self.names(
            &block.body,
            "`assert`",
            &["condition", "error_message"],
            &[],
        );
        let missing = ["condition", "error_message"].map(|name| {
            let is_missing = block.body.get_attribute(name).is_none();
            if is_missing {
                let place = self.source.place(&block.ident);
                self.wrong(place, format!("`{name}` is missing"));
            }
            is_missing
        });
        if missing.contains(&true) {
            return None;
        }
        let condition = &block.body.get_attribute("condition")?.value;
        let message = &block.body.get_attribute("error_message")?.value;
        let (found, mut problems) = references(&self.source, condition);
        problems.extend(references(&self.source, message).1);
        self.problems.extend(problems);
        Some(Assert {
            condition: self.source.source(condition).to_owned(),
            place: self.source.place(condition),
            references: found,
            error_message: self.source.source(message).to_owned(),
        })
    }

    fn ssh(&mut self, block: &Block) -> Option<Ssh> {
        self.labels(block, 0, 0);
        self.names(
            &block.body,
            "`ssh`",
            &["agent", "command", "stdout", "status"],
            &[],
        );
        let place = self.source.place(&block.ident);
        if block.body.get_attribute("command").is_none() {
            self.wrong(place.clone(), "`command` is missing");
        }
        Some(Ssh {
            agent: self.text(&block.body, "agent").map(|(agent, _)| agent),
            command: self.text(&block.body, "command")?.0,
            stdout: self.pattern(&block.body, "stdout"),
            status: self.whole(&block.body, "status").unwrap_or(0),
            place,
        })
    }
}
