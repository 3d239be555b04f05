//! A plan of the template by the engine, as an import makes it, and what the engine complains of.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use outpost_base::{
    job::{Metadata, Transition, VariableValue},
    rules::resources::{check_parameters, check_resources},
    stop::Stop,
};
use outpost_provision::{
    GraphComplete, GraphSource, InitRequest, LogSink, PlanRequest, Provisioner, Session,
    SessionConfig, StepFailure,
};
use regex::Regex;
use serde_json::Value;

use super::rules::state;
use crate::{complaints::Complaints, picture::Picture};

/// The beginning of a line about something that a mirror lacks, among an engine's own.
const OF_MIRROR: &str = "the mirror ";

/// The place of a complaint, in the engine's words.
static PLACE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\s*on (.+?) line (\d+)").expect("is valid"));

/// The result of planning a template.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// Resources of a started workspace; `None` if it cannot be planned.
    pub resources: Option<usize>,
    /// Number of agents of a started workspace.
    pub agents: Option<usize>,
    /// Complaints of the engine, or of the server.
    pub problems: Vec<Problem>,
    /// The template's resources, agents and parameters; `None` if it cannot be planned.
    pub picture: Option<Picture>,
    /// The state of a started workspace, if it is too large.
    pub large_state: Option<LargeState>,
}

/// A planned state that is too large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargeState {
    /// All of its values, in bytes of JSON.
    pub bytes: usize,
    /// The resource that has most of them.
    pub address: String,
    /// Bytes of that resource.
    pub largest: usize,
}

/// Diagnostic of the engine or of the conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// In a few words.
    pub summary: String,
    /// Further text of the diagnostic, possibly empty.
    pub detail: String,
    /// File and line, if the engine names them.
    pub place: Option<(String, usize)>,
    /// Tells whether the engine accepts it, and the server would not.
    pub(crate) is_of_server: bool,
}

/// The files that an engine plans.
#[derive(Clone, Debug, Default)]
pub struct Archives {
    /// The template, as [`prepare`](crate::mock::prepare) leaves it.
    pub template: Bytes,
    /// The modules that were fetched, laid over the template; empty for none.
    pub modules: Bytes,
}

/// Plans the template in an archive for a start and for a stop.
///
/// # Errors
/// [`StepFailure`] if the engine failed without saying what is wrong with the template.
pub async fn plan(
    engine: &dyn Provisioner,
    archives: Archives,
    variables: &[VariableValue],
    stop: &Stop,
) -> Result<Planned, StepFailure> {
    let log = Arc::new(Complaints::default());
    let mut session = engine.open(SessionConfig::without_job()).await?;
    let request = InitRequest {
        template_archive: archives.template,
        module_archive: archives.modules,
        omit_module_files: true,
        ..InitRequest::default()
    };
    let planned = both(session.as_mut(), request, variables, &log, stop).await;
    session.close().await;
    planned
}

/// Fetches the modules of the template in an archive, through its own modules, and returns them as an archive.
///
/// # Errors
/// The engine's complaints, one for each module that is not to be had.
pub async fn fetch_modules(
    engine: &dyn Provisioner,
    template: Bytes,
    stop: &Stop,
) -> Result<Bytes, Vec<String>> {
    let failed = |failure: StepFailure| vec![failure.to_string()];
    let log = Arc::new(Complaints::default());
    let mut session = engine
        .open(SessionConfig::without_job())
        .await
        .map_err(failed)?;
    let request = InitRequest {
        template_archive: template,
        only_modules: true,
        ..InitRequest::default()
    };
    let sink = Arc::clone(&log) as Arc<dyn LogSink>;
    let fetched = session.init(request, sink, stop).await;
    session.close().await;
    fetched.map(|init| init.module_files).map_err(|failure| {
        let said = log.take();
        let mut reasons: Vec<String> = read(&said).iter().map(Problem::sentence).collect();
        reasons.extend(
            said.lines()
                .filter(|it| it.starts_with(OF_MIRROR))
                .map(str::to_owned),
        );
        reasons.dedup();
        match reasons.is_empty() {
            true => failed(failure),
            false => reasons,
        }
    })
}

async fn both(
    session: &mut dyn Session,
    request: InitRequest,
    variables: &[VariableValue],
    log: &Arc<Complaints>,
    stop: &Stop,
) -> Result<Planned, StepFailure> {
    let sink = || Arc::clone(log) as Arc<dyn LogSink>;
    if let Err(failure) = session.init(request, sink(), stop).await {
        return explain(log, failure, "");
    }
    if let Err(failure) = session.parse(sink()).await {
        return explain(log, failure, "");
    }
    let started = match one(session, Transition::Start, variables, log, stop).await {
        Ok(started) => started,
        Err(failure) => return explain(log, failure, ""),
    };
    let (started, large_state) = started;
    let mut planned = Planned {
        large_state,
        resources: Some(started.resources.len()),
        agents: Some(started.resources.iter().map(|it| it.agents.len()).sum()),
        problems: refused(&started),
        picture: None,
    };
    match one(session, Transition::Stop, variables, log, stop).await {
        Ok((stopped, _)) => planned.picture = Some(Picture::of_plans(&started, &stopped)),
        Err(failure) => {
            let problems =
                explain(log, failure, "a stopped workspace cannot be planned: ")?.problems;
            planned.problems.extend(problems);
        }
    }
    Ok(planned)
}

async fn one(
    session: &mut dyn Session,
    transition: Transition,
    variables: &[VariableValue],
    log: &Arc<Complaints>,
    stop: &Stop,
) -> Result<(GraphComplete, Option<LargeState>), StepFailure> {
    let request = PlanRequest {
        metadata: Metadata {
            transition,
            ..Metadata::default()
        },
        variables: variables.to_vec(),
        ..PlanRequest::default()
    };
    let sink = || Arc::clone(log) as Arc<dyn LogSink>;
    let planned = session.plan(request, sink(), stop).await?;
    let graph = session.graph(GraphSource::Plan, sink(), stop).await?;
    Ok((graph, large_state(&planned.plan)))
}

/// Measures the values that a plan gives to managed resources; `None` if all are below the limit.
fn large_state(plan: &[u8]) -> Option<LargeState> {
    if plan.len() <= state::MOST {
        return None;
    }
    let plan: Value = serde_json::from_slice(plan).ok()?;
    let mut sizes = Vec::new();
    measure(&plan["planned_values"]["root_module"], &mut sizes);
    let bytes = sizes.iter().map(|(_, size)| size).sum();
    let (address, largest) = sizes.into_iter().max_by_key(|(_, size)| *size)?;
    (bytes > state::MOST).then_some(LargeState {
        bytes,
        address,
        largest,
    })
}

fn measure(module: &Value, sizes: &mut Vec<(String, usize)>) {
    let all = |name: &str| module[name].as_array().into_iter().flatten();
    for resource in all("resources").filter(|it| it["mode"] == "managed") {
        let address = resource["address"].as_str().unwrap_or_default();
        sizes.push((address.to_owned(), state::json_size(&resource["values"])));
    }
    for child in all("child_modules") {
        measure(child, sizes);
    }
}

/// The server's complaints about a plan that the engine accepts.
fn refused(planned: &GraphComplete) -> Vec<Problem> {
    let refused = [
        check_resources(&planned.resources).err(),
        check_parameters(&planned.parameters, &planned.presets).err(),
    ];
    let problem = |refused: outpost_base::rules::resources::Refused| Problem {
        summary: format!("the server refuses it: {refused}"),
        is_of_server: true,
        ..Problem::default()
    };
    refused.into_iter().flatten().map(problem).collect()
}

impl Problem {
    /// Summary and detail, and the place if the engine names one.
    fn sentence(&self) -> String {
        let place = self.place.as_ref();
        let place = place.map_or_else(String::new, |(file, line)| format!("{file}:{line}: "));
        match self.detail.as_str() {
            "" => format!("{place}{}", self.summary),
            detail => format!("{place}{}: {detail}", self.summary),
        }
    }
}

/// The engine's complaints in a step that failed.
fn explain(log: &Complaints, failure: StepFailure, prefix: &str) -> Result<Planned, StepFailure> {
    let said = log.take();
    let mut problems = read(&said);
    if problems.is_empty() {
        let Some(diagnostic) = failure.diagnostic.clone() else {
            return Err(failure);
        };
        problems.push(Problem {
            summary: diagnostic,
            ..Problem::default()
        });
    }
    for problem in &mut problems {
        problem.summary = format!("{prefix}{}", problem.summary);
    }
    Ok(Planned {
        problems,
        ..Planned::default()
    })
}

/// Takes apart what an engine printed: `Error: SUMMARY`, a place with code, and a detail.
fn read(said: &str) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut is_code = false;
    let of_engine = |line: &&str| !line.starts_with(OF_MIRROR);
    for line in said.lines().filter(of_engine) {
        let line = line.trim_start_matches(['│', '╷', '╵']).trim_end();
        if let Some(summary) = line.trim_start().strip_prefix("Error: ") {
            problems.push(Problem {
                summary: summary.to_owned(),
                ..Problem::default()
            });
            is_code = false;
            continue;
        }
        let Some(problem) = problems.last_mut() else {
            continue;
        };
        if let Some(found) = PLACE.captures(line).filter(|_| problem.place.is_none()) {
            problem.place = found[2]
                .parse()
                .ok()
                .map(|line| (found[1].to_owned(), line));
            is_code = true;
            continue;
        }
        // Code and values end with an empty line.
        if is_code {
            is_code = !line.trim().is_empty();
            continue;
        }
        if !line.trim().is_empty() {
            let gap = if problem.detail.is_empty() { "" } else { " " };
            problem.detail.push_str(gap);
            problem.detail.push_str(line.trim());
        }
    }
    problems.dedup();
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_is_measured_through_modules_and_without_data_sources() {
        let resource = |mode: &str, address: &str, size: usize| serde_json::json!({"mode": mode, "address": address, "values": {"x": "-".repeat(size)}});
        let plan = |size: usize| {
            let root = serde_json::json!({
                "resources": [resource("data", "data.a.b", 4 << 20), resource("managed", "a.b", 1 << 20)],
                "child_modules": [{"resources": [resource("managed", "module.m.a.b", size)]}],
            });
            serde_json::to_vec(&serde_json::json!({"planned_values": {"root_module": root}}))
                .unwrap()
        };

        let large = large_state(&plan(2 << 20)).unwrap();
        assert_eq!(large.address, "module.m.a.b");
        assert!(large.bytes > large.largest + (1 << 20));
        assert_eq!(large_state(&plan(1 << 20)), None);
    }

    #[test]
    fn complaints_are_taken_apart() {
        let said = "Error: Unsupported argument\non main.tf line 3, in resource \"a\" \"b\":\n  3: x = 1\n\nAn argument named \
                    \"x\" is not\nexpected here.\nError: Cycle: a.b, a.c\n";

        let problems = read(said);

        assert_eq!(problems.len(), 2);
        assert_eq!(problems[0].summary, "Unsupported argument");
        assert_eq!(problems[0].place, Some(("main.tf".to_owned(), 3)));
        assert_eq!(
            problems[0].detail,
            "An argument named \"x\" is not expected here."
        );
        assert_eq!(problems[1].summary, "Cycle: a.b, a.c");
    }
}
