//! The workspace of a scenario: what carries over from one build to the next.

mod conversation;
mod metadata;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use outpost_base::{
    job::{
        Metadata, Parameter, ParameterValue, Persistence, Preset, Resource, Transition,
        VariableValue, classify,
    },
    secret::Secret,
    stop::Stop,
};
use outpost_control::parameters::{self, Answers};
use outpost_provision::{GraphComplete, PlanRequest, StepFailure};
use outpost_terraform::resources::HELPER_TYPES;
use serde_json::{Value, json};

use self::{conversation::Conversation, metadata::metadata};
use super::{Facts, Given, Place, PreparedEngine, Problem, Scenario};
use crate::similar::suggestion;

/// Reason why a build gave nothing.
#[derive(Debug)]
pub(super) enum BuildError {
    /// The template's or the answers' fault, and what the engine said of it.
    Failed(String, Vec<String>),
    /// A mistake in the scenario.
    Scenario(Problem),
    /// Something that a check needs is missing.
    Unable(String),
}

impl From<StepFailure> for BuildError {
    fn from(failure: StepFailure) -> Self {
        Self::Failed(failure.to_string(), Vec::new())
    }
}

/// Transition and answers of a build.
pub(super) struct Wanted<'a> {
    pub(super) transition: Transition,
    pub(super) preset: Option<&'a (String, Place)>,
    /// Answers of the file, which a preset overrides.
    pub(super) defaults: &'a [Given],
    /// Answers of the run, which override a preset.
    pub(super) given: &'a [Given],
    /// True if somebody asks what outlives a stop.
    pub(super) persistence: bool,
}

/// A workspace that builds follow each other on.
pub(super) struct Workspace {
    conversation: Conversation,
    /// True if nothing of it is really there.
    is_inert: bool,
    state: Bytes,
    answers: Option<Vec<ParameterValue>>,
    resources: Vec<Resource>,
    presets: Option<Vec<Preset>>,
    parameters: Vec<Parameter>,
    persistence: Option<(Vec<ParameterValue>, BTreeMap<String, Persistence>)>,
    variables: Vec<VariableValue>,
    metadata: Metadata,
}

impl Workspace {
    pub(super) fn new(
        scenario: &Scenario,
        (stage, is_broken): (PreparedEngine, bool),
        is_inert: bool,
        template: &str,
        state: Bytes,
    ) -> Self {
        let variable = |given: &Given| VariableValue {
            name: given.name.clone(),
            value: Secret::new(given.text()),
            sensitive: false,
        };
        Self {
            conversation: Conversation::new(stage, is_inert, is_broken),
            is_inert,
            state,
            answers: None,
            resources: Vec::new(),
            presets: None,
            parameters: Vec::new(),
            persistence: None,
            variables: scenario.variables.iter().map(variable).collect(),
            metadata: metadata(scenario, template, is_inert),
        }
    }

    /// Names the server that agents connect to.
    pub(super) fn connect_to(&mut self, url: String) {
        self.metadata.coder_url = url;
    }

    /// Goes on with the workspace that has these resources.
    pub(super) fn adopt(&mut self, resources: &[Resource]) {
        self.resources = resources.to_vec();
    }

    /// The parameters of the template, as an import learns them.
    pub(super) async fn parameters(&mut self, stop: &Stop) -> Result<&[Parameter], BuildError> {
        if self.presets.is_none() {
            let request = self.request(Transition::Start, &[]);
            let graph = self.conversation.plan(request, stop).await?.graph;
            (self.parameters, self.presets) = (graph.parameters, Some(graph.presets));
        }
        Ok(&self.parameters)
    }

    /// One build, whose state the next one begins with.
    pub(super) async fn build(
        &mut self,
        wanted: &Wanted<'_>,
        stop: &Stop,
    ) -> Result<Facts, BuildError> {
        self.conversation.said();
        let built = self.try_build(wanted, stop).await;
        let said = self.conversation.said();
        built.map_err(|error| match error {
            BuildError::Failed(text, _) => {
                BuildError::Failed(text, said.lines().map(str::to_owned).collect())
            }
            other => other,
        })
    }

    async fn try_build(&mut self, wanted: &Wanted<'_>, stop: &Stop) -> Result<Facts, BuildError> {
        let given = self.given(wanted, stop).await?;
        let before = self.answers.clone();
        let answers = overlaid(self.kept(), &given);
        let persistence = match wanted.persistence {
            true => self.persistence(&answers, stop).await?,
            false => BTreeMap::new(),
        };
        let request = self.request(wanted.transition, &answers);
        let planned = self.conversation.plan(request, stop).await?;
        let mut facts = Facts {
            plan: serde_json::from_slice(&planned.plan).unwrap_or_default(),
            daily_cost: planned.daily_cost,
            before: std::mem::take(&mut self.resources),
            persistence,
            ..Facts::default()
        };
        self.resources.clone_from(&facts.before);
        facts.before.extend(destroyed(&facts));
        if wanted.transition == Transition::Destroy {
            facts.answers = answers;
        } else {
            facts.answers = self.accept(wanted, planned.graph, &given, before.as_deref())?;
        }
        // Nothing is behind mocks, and an engine takes long to take thousands of them out of its state.
        if !(self.is_inert && wanted.transition == Transition::Destroy) {
            self.apply(wanted.transition, stop).await?;
        }
        if wanted.transition == Transition::Destroy {
            (self.state, self.answers) = (emptied(&self.state), None);
            self.resources.clear();
        } else {
            self.answers = Some(facts.answers.clone());
            self.resources = self.conversation.resources(stop).await?;
        }
        facts.state = serde_json::from_slice(&self.state).unwrap_or_default();
        facts.resources.clone_from(&self.resources);
        facts.parameters.clone_from(&self.parameters);
        facts.presets = self.presets.clone().unwrap_or_default();
        Ok(facts)
    }

    /// Answers of the file, of the preset and of the run; each overrides those before.
    async fn given(
        &mut self,
        wanted: &Wanted<'_>,
        stop: &Stop,
    ) -> Result<Vec<ParameterValue>, BuildError> {
        let mut given = overlaid(Vec::new(), &values(wanted.defaults));
        if let Some((name, place)) = wanted.preset {
            self.parameters(stop).await?;
            let presets = self.presets.as_deref().unwrap_or_default();
            let Some(preset) = presets.iter().find(|preset| preset.name == *name) else {
                let near = suggestion(name, presets.iter().map(|preset| preset.name.as_str()));
                let text = format!("the template has no preset \"{name}\"{near}");
                return Err(BuildError::Scenario(Problem::new(place.clone(), text)));
            };
            given = overlaid(given, &preset.parameters);
        }
        Ok(overlaid(given, &values(wanted.given)))
    }

    /// Answers of the last build that count for the next one, too.
    fn kept(&self) -> Vec<ParameterValue> {
        let is_ephemeral = |name: &str| {
            self.parameters
                .iter()
                .any(|it| it.name == name && it.ephemeral)
        };
        let answers = self
            .answers
            .iter()
            .flatten()
            .filter(|it| !is_ephemeral(&it.name));
        answers.cloned().collect()
    }

    /// Checks the answers as a server does before it builds.
    fn accept(
        &mut self,
        wanted: &Wanted<'_>,
        graph: GraphComplete,
        given: &[ParameterValue],
        before: Option<&[ParameterValue]>,
    ) -> Result<Vec<ParameterValue>, BuildError> {
        (self.parameters, self.presets) = (graph.parameters, Some(graph.presets));
        let known = || self.parameters.iter().map(|it| it.name.as_str());
        for answer in wanted.defaults.iter().chain(wanted.given) {
            if !known().any(|name| name == answer.name) {
                let near = suggestion(&answer.name, known());
                let text = format!("the template has no parameter `{}`{near}", answer.name);
                return Err(BuildError::Scenario(Problem::new(
                    answer.place.clone(),
                    text,
                )));
            }
        }
        let answers = Answers {
            given,
            preset: None,
            previous: before,
        };
        parameters::resolve(&self.parameters, answers, wanted.transition).map_err(|problems| {
            let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
            BuildError::Failed(texts.join("; "), Vec::new())
        })
    }

    /// Tells which resources outlive a stop with these answers: plans both transitions, once for each set of answers.
    async fn persistence(
        &mut self,
        answers: &[ParameterValue],
        stop: &Stop,
    ) -> Result<BTreeMap<String, Persistence>, BuildError> {
        if let Some((asked, known)) = &self.persistence
            && asked == answers
        {
            return Ok(known.clone());
        }
        let mut resources = Vec::new();
        for transition in [Transition::Start, Transition::Stop] {
            let request = self.request(transition, answers);
            let planned = self.conversation.plan(request, stop).await?;
            resources.push(planned.graph.resources);
        }
        let known = classify(&resources[0], &resources[1]);
        self.persistence = Some((answers.to_vec(), known.clone()));
        Ok(known)
    }

    fn request(&self, transition: Transition, answers: &[ParameterValue]) -> PlanRequest {
        PlanRequest {
            metadata: Metadata {
                transition,
                ..self.metadata.clone()
            },
            parameters: answers.to_vec(),
            previous_parameters: self.answers.clone().unwrap_or_default(),
            variables: self.variables.clone(),
            external_auth: Vec::new(),
            state: self.state.clone(),
        }
    }

    async fn apply(&mut self, transition: Transition, stop: &Stop) -> Result<(), BuildError> {
        let metadata = Metadata {
            transition,
            ..self.metadata.clone()
        };
        let (state, ended) = self.conversation.apply(metadata, stop).await;
        if let Some(state) = state {
            self.state = state;
        }
        ended
    }

    /// Destroys what there is. Returns the state of what is left if that fails.
    pub(super) async fn destroy(&mut self, stop: &Stop) -> Result<(), (String, Bytes)> {
        let is_empty = |state: &Value| state["resources"].as_array().is_none_or(Vec::is_empty);
        let state: Value = serde_json::from_slice(&self.state).unwrap_or_default();
        if self.state.is_empty() || is_empty(&state) {
            return Ok(());
        }
        let answers = self.kept();
        let destroyed = async {
            let request = self.request(Transition::Destroy, &answers);
            self.conversation.plan(request, stop).await?;
            self.apply(Transition::Destroy, stop).await
        };
        let reason = match destroyed.await {
            Ok(()) => return Ok(()),
            Err(BuildError::Failed(text, _) | BuildError::Unable(text)) => text,
            Err(BuildError::Scenario(problem)) => problem.to_string(),
        };
        Err((
            format!("{reason}\n{}", self.conversation.said())
                .trim_end()
                .to_owned(),
            self.state.clone(),
        ))
    }

    /// Ends the session, if there is one.
    pub(super) async fn leave(&mut self) {
        self.conversation.leave().await;
    }
}

/// A state without resources: an engine would go on with its own file if it were given none.
fn emptied(state: &[u8]) -> Bytes {
    let Ok(mut state) = serde_json::from_slice::<Value>(state) else {
        return Bytes::new();
    };
    state["resources"] = json!([]);
    state["outputs"] = json!({});
    state.to_string().into()
}

fn values(given: &[Given]) -> Vec<ParameterValue> {
    let value = |given: &Given| ParameterValue {
        name: given.name.clone(),
        value: given.text(),
    };
    given.iter().map(value).collect()
}

/// `below` with the answers of `above` in their places.
fn overlaid(mut below: Vec<ParameterValue>, above: &[ParameterValue]) -> Vec<ParameterValue> {
    below.retain(|answer| above.iter().all(|it| it.name != answer.name));
    below.extend(above.iter().cloned());
    below.sort_by(|a, b| a.name.cmp(&b.name));
    below
}

/// Resources that the plan destroys and that no earlier build told of: those of a state that was given.
fn destroyed(facts: &Facts) -> Vec<Resource> {
    let changes = facts.plan["resource_changes"]
        .as_array()
        .into_iter()
        .flatten();
    let gone = changes
        .filter(|it| it["mode"] == "managed" && it["change"]["actions"] == json!(["delete"]));
    let text = |it: &Value, name: &str| it[name].as_str().unwrap_or_default().to_owned();
    let gone = gone.map(|it| Resource {
        address: text(it, "address"),
        kind: text(it, "type"),
        name: text(it, "name"),
        module_path: text(it, "module_address"),
        ..Resource::default()
    });
    let known: BTreeSet<_> = facts.before.iter().map(|it| it.address.as_str()).collect();
    gone.filter(|it| !HELPER_TYPES.contains(&it.kind.as_str()))
        .filter(|it| !known.contains(it.address.as_str()))
        .collect()
}
