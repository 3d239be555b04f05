//! A plan of the template by the engine, as an import makes it, and what the engine complains of.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use outpost_base::{
    job::{JobId, LogLevel, Metadata, Transition, VariableValue},
    rules::resources::{check_questions, check_resources},
    stop::Stop,
};
use outpost_provision::{
    GraphComplete, GraphSource, InitRequest, LogSink, Memory, PlanRequest, Provisioner, Session,
    SessionConfig, StepFailure,
};
use regex::Regex;
use uuid::Uuid;

/// The limit of an engine's complaints that are kept, in bytes.
const MAX_COMPLAINTS: usize = 1 << 20;

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
    pub is_of_server: bool,
}

/// Plans the template in an archive for a start and for a stop.
///
/// # Errors
/// [`StepFailure`] if the engine failed without saying what is wrong with the template.
pub async fn plan(
    engine: &dyn Provisioner,
    archive: Bytes,
    variables: &[VariableValue],
    stop: &Stop,
) -> Result<Planned, StepFailure> {
    let log = Arc::new(Complaints::default());
    let config = SessionConfig {
        job_id: JobId(Uuid::new_v4()),
        log_level: None,
        template_id: String::new(),
        template_version_id: String::new(),
        memory: Memory::default(),
    };
    let mut session = engine.open(config).await?;
    let request = InitRequest {
        template_archive: archive,
        omit_module_files: true,
        ..InitRequest::default()
    };
    let planned = both(session.as_mut(), request, variables, &log, stop).await;
    session.close().await;
    planned
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
        return log.explain(failure, "");
    }
    if let Err(failure) = session.parse(sink()).await {
        return log.explain(failure, "");
    }
    let started = match one(session, Transition::Start, variables, log, stop).await {
        Ok(started) => started,
        Err(failure) => return log.explain(failure, ""),
    };
    let mut planned = Planned {
        resources: Some(started.resources.len()),
        agents: Some(started.resources.iter().map(|it| it.agents.len()).sum()),
        problems: refused(&started),
    };
    if let Err(failure) = one(session, Transition::Stop, variables, log, stop).await {
        let problems = log
            .explain(failure, "a stopped workspace cannot be planned: ")?
            .problems;
        planned.problems.extend(problems);
    }
    Ok(planned)
}

async fn one(
    session: &mut dyn Session,
    transition: Transition,
    variables: &[VariableValue],
    log: &Arc<Complaints>,
    stop: &Stop,
) -> Result<GraphComplete, StepFailure> {
    let request = PlanRequest {
        metadata: Metadata {
            transition,
            ..Metadata::default()
        },
        variables: variables.to_vec(),
        ..PlanRequest::default()
    };
    let sink = || Arc::clone(log) as Arc<dyn LogSink>;
    session.plan(request, sink(), stop).await?;
    session.graph(GraphSource::Plan, sink(), stop).await
}

/// The server's complaints about a plan that the engine accepts.
fn refused(planned: &GraphComplete) -> Vec<Problem> {
    let refused = [
        check_resources(&planned.resources).err(),
        check_questions(&planned.parameters, &planned.presets).err(),
    ];
    let problem = |refused: outpost_base::rules::resources::Refused| Problem {
        summary: format!("the server refuses it: {refused}"),
        is_of_server: true,
        ..Problem::default()
    };
    refused.into_iter().flatten().map(problem).collect()
}

/// Keeps the errors of an engine.
#[derive(Default)]
struct Complaints(Mutex<String>);

impl LogSink for Complaints {
    fn log(&self, level: LogLevel, output: String) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if level == LogLevel::Error && said.len() + output.len() < MAX_COMPLAINTS {
            said.push_str(&output);
            said.push('\n');
        }
    }
}

impl Complaints {
    /// The engine's complaints in a step that failed.
    fn explain(&self, failure: StepFailure, prefix: &str) -> Result<Planned, StepFailure> {
        let said = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
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
}

/// Takes apart what an engine printed: `Error: SUMMARY`, a place with code, and a detail.
fn read(said: &str) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut is_code = false;
    for line in said.lines() {
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
