//! The order of an agent's scripts in one phase. Pure: no socket, no clock, no task.
//!
//! A script runs once all that it waits for has ended as it requires; it is skipped as soon as that is impossible.
//! While it waits, its log says for what.
//!
//! # Source
//! coder `agent/agentscripts/script_order.go` and `agent/unit` of version 2.39: what is decided when, and the lines.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use outpost_wire::proto::coder::agent::v2::{
    WorkspaceAgentScript as Script, workspace_agent_script_dependency::Requirement,
};

/// Between two lines that say for what a script waits; the lines name it.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Which script runs when.
#[derive(Debug)]
pub(super) struct Order {
    scripts: Vec<Node>,
    next_line: Instant,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Node {
    address: String,
    /// What people read; the address if there is nothing else.
    name: String,
    /// Sorted by address.
    prerequisites: Vec<(usize, Requirement)>,
    dependents: Vec<usize>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended(Ended),
    Cancelled,
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All well.
    Succeeded,
    /// It failed, or left something behind that holds its output.
    Failed,
    /// It took too long.
    TimedOut,
    /// It did not run.
    Skipped,
}

/// Something to do. Scripts are counted as they were given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// This script starts.
    Run(usize),
    /// This script will not run, which its log says with the line.
    Skip(usize, String),
    /// This script waits, which its log says with the line.
    Wait(usize, String),
}

/// Why scripts cannot be run in an order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
    /// A script that waits, but that nothing names.
    #[error("script {0:?} has dependencies but no Terraform resource address")]
    NoAddress(String),
    /// Two scripts of one address.
    #[error("duplicate script resource address {0:?}")]
    Duplicate(String),
    /// A script that waits for one that does not run now.
    #[error("script {0:?} depends on {1:?}, which is not part of this lifecycle execution")]
    NotHere(String, String),
    /// A requirement that we do not know.
    #[error("script {0:?} dependency on {1:?}: unsupported requirement \"{2}\"")]
    Requirement(String, String, i32),
    /// Scripts that wait for each other.
    #[error("script {0:?} depends on itself through its dependencies")]
    Cycle(String),
}

impl Order {
    /// The order of the scripts of one phase, in which none has run yet.
    ///
    /// # Errors
    /// [`OrderError`] if some could never run as they should; then none may.
    pub(super) fn new(scripts: &[Script], now: Instant) -> Result<Self, OrderError> {
        let mut order = Self {
            scripts: nodes(scripts)?,
            next_line: now + LINE_INTERVAL,
            events: VecDeque::new(),
        };
        order.check_cycles()?;
        (0..scripts.len()).for_each(|script| order.decide(script));
        Ok(order)
    }

    /// A script that was to run has ended.
    pub(super) fn handle_end(&mut self, script: usize, ended: Ended) {
        self.scripts[script].state = State::Ended(ended);
        for dependent in self.scripts[script].dependents.clone() {
            self.decide(dependent);
        }
    }

    /// Nothing more starts; what waits is not skipped either.
    pub(super) fn cancel(&mut self) {
        for script in &mut self.scripts {
            if script.state == State::Waiting {
                script.state = State::Cancelled;
            }
        }
        let is_start = |event: &Event| matches!(event, Event::Run(_));
        self.events.retain(|event| !is_start(event));
    }

    /// Advances to `now`. Calling it early or twice does nothing.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_line {
            return;
        }
        while self.next_line <= now {
            self.next_line += LINE_INTERVAL;
        }
        for script in 0..self.scripts.len() {
            if self.scripts[script].state == State::Waiting {
                let line = self.waiting_line(script);
                self.events.push_back(Event::Wait(script, line));
            }
        }
    }

    /// When to call [`Self::handle_timeout`] next; `None` while nothing waits.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let mut all = self.scripts.iter();
        let waits = all.any(|script| script.state == State::Waiting);
        waits.then_some(self.next_line)
    }

    /// What to do next.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Starts or skips a script that waits, if that is certain.
    fn decide(&mut self, script: usize) {
        // Skips go on to what waits for what is skipped, as far as a chain may be long.
        let mut open = vec![script];
        while let Some(script) = open.pop() {
            if self.scripts[script].state != State::Waiting {
                continue;
            }
            if let Some(line) = self.skip_line(script) {
                self.scripts[script].state = State::Ended(Ended::Skipped);
                self.events.push_back(Event::Skip(script, line));
                open.extend(self.scripts[script].dependents.iter().rev());
            } else if self.unmet(script).next().is_none() {
                self.scripts[script].state = State::Running;
                self.events.push_back(Event::Run(script));
            }
        }
    }

    /// What a script waits for and does not have yet, sorted by address.
    fn unmet(&self, script: usize) -> impl Iterator<Item = &Node> {
        let all = self.scripts[script].prerequisites.iter();
        let is_unmet = |(prerequisite, requirement): &&(usize, Requirement)| match self.scripts
            [*prerequisite]
            .state
        {
            State::Ended(Ended::Succeeded) => false,
            State::Ended(_) => *requirement == Requirement::Success,
            State::Waiting | State::Running | State::Cancelled => true,
        };
        let unmet = all.filter(is_unmet);
        unmet.map(|(prerequisite, _)| &self.scripts[*prerequisite])
    }

    /// Why a script can never run, if it cannot.
    fn skip_line(&self, script: usize) -> Option<String> {
        self.unmet(script).find_map(|unmet| match unmet.state {
            State::Ended(Ended::Skipped) => Some(format!(
                "Skipping script: dependency {:?} was skipped.",
                unmet.name
            )),
            State::Ended(_) => Some(format!(
                "Skipping script: dependency {:?} failed.",
                unmet.name
            )),
            State::Waiting | State::Running | State::Cancelled => None,
        })
    }

    fn waiting_line(&self, script: usize) -> String {
        let unmet = self.unmet(script).map(|it| format!("{:?}", it.address));
        let unmet: Vec<_> = unmet.collect();
        let seconds = LINE_INTERVAL.as_secs();
        format!(
            "Waiting for dependencies: {}... ({seconds}s)",
            unmet.join(", ")
        )
    }

    /// Takes away what waits for nothing, until nothing is left but what waits for itself.
    fn check_cycles(&self) -> Result<(), OrderError> {
        let mut waits: Vec<_> = self
            .scripts
            .iter()
            .map(|it| it.prerequisites.len())
            .collect();
        let mut free: Vec<_> = (0..waits.len()).filter(|it| waits[*it] == 0).collect();
        while let Some(script) = free.pop() {
            for dependent in &self.scripts[script].dependents {
                waits[*dependent] -= 1;
                if waits[*dependent] == 0 {
                    free.push(*dependent);
                }
            }
        }
        match waits.iter().position(|left| *left > 0) {
            Some(script) => Err(OrderError::Cycle(self.scripts[script].address.clone())),
            None => Ok(()),
        }
    }
}

fn nodes(scripts: &[Script]) -> Result<Vec<Node>, OrderError> {
    let mut by_address = BTreeMap::new();
    for (at, script) in scripts.iter().enumerate() {
        let address = script.resource_address.as_str();
        if address.is_empty() && !script.dependencies.is_empty() {
            return Err(OrderError::NoAddress(script.display_name.clone()));
        }
        if !address.is_empty() && by_address.insert(address, at).is_some() {
            return Err(OrderError::Duplicate(address.to_owned()));
        }
    }
    let mut nodes = Vec::with_capacity(scripts.len());
    for script in scripts {
        nodes.push(Node {
            address: script.resource_address.clone(),
            name: match script.display_name.as_str() {
                "" => script.resource_address.clone(),
                name => name.to_owned(),
            },
            prerequisites: prerequisites(script, &by_address)?,
            dependents: Vec::new(),
            state: State::Waiting,
        });
    }
    for dependent in 0..nodes.len() {
        for (prerequisite, _) in nodes[dependent].prerequisites.clone() {
            nodes[prerequisite].dependents.push(dependent);
        }
    }
    Ok(nodes)
}

/// What a script waits for, sorted by address. Of a pair that is named twice the stricter requirement counts.
fn prerequisites(
    script: &Script,
    by_address: &BTreeMap<&str, usize>,
) -> Result<Vec<(usize, Requirement)>, OrderError> {
    let mut all: BTreeMap<&str, (usize, Requirement)> = BTreeMap::new();
    for dependency in &script.dependencies {
        let address = dependency.prerequisite_resource_address.as_str();
        let names = || (script.resource_address.clone(), address.to_owned());
        let Some(at) = by_address.get(address) else {
            let (dependent, prerequisite) = names();
            return Err(OrderError::NotHere(dependent, prerequisite));
        };
        let requirement = match dependency.requirement() {
            Requirement::Unspecified => {
                let (dependent, prerequisite) = names();
                let number = dependency.requirement;
                return Err(OrderError::Requirement(dependent, prerequisite, number));
            }
            known @ (Requirement::Success | Requirement::Completion) => known,
        };
        let entry = all.entry(address).or_insert((*at, requirement));
        if requirement == Requirement::Success {
            entry.1 = requirement;
        }
    }
    Ok(all.into_values().collect())
}

#[cfg(test)]
mod tests;
