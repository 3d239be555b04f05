//! A scenario, played: its runs are built one after the other and looked at.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use outpost_base::stop::Stop;
use outpost_files::archive::{self, ArchiveError};
use outpost_language as language;
use outpost_provision::Provisioner;
use regex::Regex;
use tokio::time::Instant;

use super::{
    Agents, Facts, Failure, Problem, Run, Scenario, agents, verdict,
    workspace::{BuildError, Wanted, Workspace},
};
use crate::{mock::StateServer, similar::suggestion};

/// Makes the engines that builds run with.
#[async_trait]
pub trait Engines: Send + Sync {
    /// Returns an engine that really creates what a template describes.
    ///
    /// # Errors
    /// [`Refusal::Unable`] if there is none.
    async fn real(&self) -> Result<Arc<dyn Provisioner>, Refusal>;

    /// A server for the agents of a scenario whose runs have `connect`.
    ///
    /// # Errors
    /// [`Refusal::Unable`] if it does not start.
    async fn agents(&self, scenario: &Scenario) -> Result<Arc<dyn Agents>, Refusal>;

    /// Returns an engine with mocked providers (those without side effects stay real), and the template adapted to it.
    ///
    /// # Errors
    /// [`Refusal`] if there is none, or the scenario's mocks do not fit the template.
    async fn mocked(&self, scenario: &Scenario, template: Bytes)
    -> Result<PreparedEngine, Refusal>;
}

/// An engine, the template adapted to it, and where it keeps states.
pub struct PreparedEngine {
    /// The engine itself.
    pub engine: Arc<dyn Provisioner>,
    /// The template as it needs it.
    pub template: Bytes,
    /// The place of the state; `None` for a file in the session's directory.
    pub states: Option<StateServer>,
}

/// Reason why a scenario has no engine.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// Mistakes in the scenario.
    Scenario(Vec<Problem>),
    /// Something that is missing on this machine.
    Unable(String),
}

/// Choice of runs, and what is done with them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Runs whose `FILE/NAME` matches are looked at; those before them are only built. `None` for all.
    pub filter: Option<Regex>,
    /// True if the first failure ends a scenario.
    pub fail_fast: bool,
    /// True if tables of resources are rewritten.
    pub update: bool,
    /// State of a workspace that runs with mocks begin with; empty for none.
    pub state: Bytes,
}

/// End of a run in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything is as expected.
    Passed,
    /// Something is not as expected.
    Failed,
    /// The scenario is wrong.
    Invalid,
    /// Something that it needs is missing.
    Unable,
    /// Not run, because of another run or of a signal.
    Skipped,
}

/// Result of one run.
#[derive(Clone, Debug)]
pub struct PlayedRun {
    /// Name of the run in its file.
    pub name: String,
    /// End of the run, for reports.
    pub(crate) outcome: Outcome,
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// Reasons why it did not pass.
    pub failures: Vec<Failure>,
    /// The build's change of each resource, by address; empty if nobody looks at the run or nothing was built.
    pub resources: BTreeMap<String, String>,
}

/// Results of one scenario file.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// The template's directory as it was named.
    pub directory: String,
    /// The scenario's file in it.
    pub file: String,
    /// The engine, if several play the same scenarios; empty for the only one.
    pub variant: String,
    /// Its runs in order; empty if it cannot be read.
    pub runs: Vec<PlayedRun>,
    /// Mistakes that belong to no particular run.
    pub problems: Vec<Problem>,
    /// Reason why something that was made is still there, and the file that keeps its state.
    pub left: Option<String>,
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// Tells whether they are those of an earlier command on the same content.
    pub is_cached: bool,
}

/// Plays a scenario of the template in `dir`. What it really made is destroyed at the end, also after a failure and after
/// `stop` was cancelled; only a kill cuts that short.
pub async fn play(
    dir: &Path,
    scenario: &Scenario,
    engines: &dyn Engines,
    settings: &Settings,
    stop: &Stop,
) -> Played {
    let began = Instant::now();
    let mut player = Player {
        dir,
        scenario,
        engines,
        settings,
        template: template_name(dir),
        archive: None,
        mocked: None,
        real: None,
        agents: None,
    };
    let mut played = Played {
        directory: dir.display().to_string(),
        file: scenario.file.clone(),
        problems: player.wrong_variables(),
        ..Played::default()
    };
    if played.problems.is_empty() {
        played.runs = player.runs(stop).await;
        played.left = player.end(stop).await;
    }
    played.seconds = began.elapsed().as_secs_f64();
    played
}

fn template_name(dir: &Path) -> String {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or_else(
        || "template".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

struct Player<'a> {
    dir: &'a Path,
    scenario: &'a Scenario,
    engines: &'a dyn Engines,
    settings: &'a Settings,
    template: String,
    archive: Option<Bytes>,
    /// The workspace of runs without `apply`.
    mocked: Option<Workspace>,
    /// The workspace of runs with `apply`.
    real: Option<Workspace>,
    /// The server of its agents, if a run asks for them.
    agents: Option<Arc<dyn Agents>>,
}

impl Player<'_> {
    /// Variables that the template does not declare. If the template cannot be read, the engine reports it.
    fn wrong_variables(&self) -> Vec<Problem> {
        let Ok(module) = language::load(self.dir) else {
            return Vec::new();
        };
        let Ok(declared) = language::variables(&module) else {
            return Vec::new();
        };
        let known = || declared.iter().map(|variable| variable.name.as_str());
        let unknown = self
            .scenario
            .variables
            .iter()
            .filter(|it| known().all(|name| name != it.name));
        let problem = |given: &super::Given| {
            let near = suggestion(&given.name, known());
            Problem::new(
                given.place.clone(),
                format!("the template has no variable `{}`{near}", given.name),
            )
        };
        unknown.map(problem).collect()
    }

    async fn runs(&mut self, stop: &Stop) -> Vec<PlayedRun> {
        let is_wanted = |run: &Run| {
            let full = format!("{}/{}", self.scenario.file, run.name);
            self.settings
                .filter
                .as_ref()
                .is_none_or(|filter| filter.is_match(&full))
        };
        let runs = &self.scenario.runs;
        let Some(last) = runs.iter().rposition(is_wanted) else {
            return Vec::new();
        };
        let wanted: Vec<bool> = runs.iter().map(is_wanted).collect();
        let (mut played, mut reason) = (Vec::new(), None);
        for (run, is_wanted) in runs[..=last].iter().zip(wanted) {
            if stop.is_draining() {
                reason = Some("interrupted".to_owned());
            }
            let ended = match &reason {
                Some(reason) => skipped(run, reason),
                None => self.run(run, is_wanted, stop).await,
            };
            let is_over = match ended.outcome {
                Outcome::Passed | Outcome::Skipped => false,
                Outcome::Failed => {
                    self.settings.fail_fast || ended.failures.iter().any(|it| it.is_of_build)
                }
                Outcome::Invalid | Outcome::Unable => true,
            };
            if is_over {
                reason = Some(format!("run \"{}\" did not succeed", run.name));
            }
            if is_wanted || ended.outcome != Outcome::Passed {
                played.push(ended);
            }
        }
        played
    }

    async fn run(&mut self, run: &Run, is_wanted: bool, stop: &Stop) -> PlayedRun {
        let began = Instant::now();
        let mut resources = BTreeMap::new();
        let (outcome, failures) = match self.build(run, is_wanted, stop).await {
            Ok(facts) if is_wanted => {
                resources = changes(&facts);
                let (outcome, mut failures) = self.verdict(run, &facts);
                failures.extend(self.connect(run, &facts, stop).await);
                match failures.is_empty() {
                    true => (outcome, failures),
                    false => (Outcome::Failed, failures),
                }
            }
            Ok(_) => (Outcome::Passed, Vec::new()),
            Err(_) if stop.is_cancelled() => (
                Outcome::Skipped,
                vec![Failure::new(run.place.clone(), "interrupted")],
            ),
            Err(error) => verdict::of_failure(run, error),
        };
        PlayedRun {
            name: run.name.clone(),
            outcome,
            seconds: began.elapsed().as_secs_f64(),
            failures,
            resources,
        }
    }

    async fn build(
        &mut self,
        run: &Run,
        is_wanted: bool,
        stop: &Stop,
    ) -> Result<Facts, BuildError> {
        let scenario = self.scenario;
        let asks = |run: &Run| {
            run.golden.is_some()
                || run
                    .asserts
                    .iter()
                    .any(|assert| assert.condition.contains("persistence"))
        };
        let wanted = Wanted {
            transition: run.transition,
            preset: run.preset.as_ref(),
            defaults: &scenario.parameters,
            given: &run.parameters,
            persistence: is_wanted && asks(run),
        };
        self.workspace(run.apply).await?.build(&wanted, stop).await
    }

    /// The workspace of runs with or without `apply`, made for the first of them.
    async fn workspace(&mut self, apply: bool) -> Result<&mut Workspace, BuildError> {
        let is_there = if apply {
            self.real.is_some()
        } else {
            self.mocked.is_some()
        };
        if !is_there {
            let is_broken = language::load(self.dir).is_err();
            let archive = self.packed()?;
            let engine = match apply {
                true => self.engines.real().await.map(|engine| PreparedEngine {
                    engine,
                    template: archive,
                    states: None,
                }),
                false => self.engines.mocked(self.scenario, archive).await,
            };
            let made = engine.map_err(refused)?;
            // What a real workspace has must not be touched.
            let state = if apply {
                Bytes::new()
            } else {
                self.settings.state.clone()
            };
            let mut workspace = Workspace::new(
                self.scenario,
                (made, is_broken),
                !apply,
                &self.template,
                state,
            );
            if apply && self.scenario.runs.iter().any(|run| run.connect.is_some()) {
                let agents = self.engines.agents(self.scenario).await.map_err(refused)?;
                workspace.connect_to(agents.url());
                self.agents = Some(agents);
            }
            match apply {
                true => self.real = Some(workspace),
                false => self.mocked = Some(workspace),
            }
        }
        let workspace = if apply {
            &mut self.real
        } else {
            &mut self.mocked
        };
        workspace
            .as_mut()
            .ok_or_else(|| BuildError::Unable("there is no workspace".to_owned()))
    }

    /// Waits for the agents of a run, and runs its commands there.
    async fn connect(&self, run: &Run, facts: &Facts, stop: &Stop) -> Vec<Failure> {
        match (&run.connect, &self.agents) {
            (Some(place), Some(agents)) => {
                agents::connect(agents.as_ref(), (run, place), &facts.resources, stop).await
            }
            _ => Vec::new(),
        }
    }

    fn packed(&mut self) -> Result<Bytes, BuildError> {
        if self.archive.is_none() {
            let unable = |error: ArchiveError| {
                let hint = error
                    .hint()
                    .map_or_else(String::new, |hint| format!("; {hint}"));
                BuildError::Unable(format!("failed to read the template: {error}{hint}"))
            };
            self.archive = Some(archive::pack_template(self.dir).map_err(unable)?);
        }
        Ok(self.archive.clone().unwrap_or_default())
    }

    fn verdict(&self, run: &Run, facts: &Facts) -> (Outcome, Vec<Failure>) {
        let scenario = self.dir.join(&self.scenario.file);
        verdict::of_build(&scenario, run, facts, self.settings.update)
    }

    /// Destroys what was really made.
    async fn end(&mut self, stop: &Stop) -> Option<String> {
        if let Some(mocked) = &mut self.mocked {
            mocked.leave().await;
        }
        let real = self.real.as_mut()?;
        let destroyed = real.destroy(&stop.cleanup()).await;
        real.leave().await;
        if let Some(agents) = &self.agents {
            agents.end().await;
        }
        let (reason, state) = destroyed.err()?;
        Some(match kept(&state) {
            Ok(path) => format!(
                "{reason}\nthe state of what is left is in `{}`",
                path.display()
            ),
            Err(error) => format!("{reason}\nthe state of what is left cannot be kept: {error}"),
        })
    }
}

/// A state in a file that outlives this process.
fn kept(state: &[u8]) -> std::io::Result<PathBuf> {
    let mut file = tempfile::Builder::new()
        .prefix("outpost-test-")
        .suffix(".tfstate")
        .tempfile()?;
    file.write_all(state)?;
    Ok(file.into_temp_path().keep()?)
}

fn refused(refusal: Refusal) -> BuildError {
    match refusal {
        Refusal::Unable(text) => BuildError::Unable(text),
        Refusal::Scenario(problems) => first(problems),
    }
}

fn first(problems: Vec<Problem>) -> BuildError {
    let first = problems.into_iter().next();
    first.map_or_else(
        || BuildError::Unable("the mocks do not fit".to_owned()),
        BuildError::Scenario,
    )
}

fn changes(facts: &Facts) -> BTreeMap<String, String> {
    let rows = facts.rows().into_iter();
    rows.map(|row| (row.resource.address.clone(), row.change.to_owned()))
        .collect()
}

fn skipped(run: &Run, reason: &str) -> PlayedRun {
    PlayedRun {
        name: run.name.clone(),
        outcome: Outcome::Skipped,
        seconds: 0.0,
        failures: vec![Failure::new(run.place.clone(), reason)],
        resources: BTreeMap::new(),
    }
}
