//! Order of an agent's scripts in one phase. Pure: no socket, no clock, no task.
//!
//! A script runs once all of its dependencies have ended as it requires; it is skipped as soon as that is impossible.
//! While it waits, its log names the dependencies.
//!
//! # Source
//! coder `agent/agentscripts/script_order.go` and `agent/unit` of version 2.39: the decisions, and the log lines.

#![warn(
    clippy::wildcard_enum_match_arm,
    reason = "a new state or event is thought of in every match"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use outpost_wire::proto::coder::agent::v2::{
    WorkspaceAgentScript as Script, workspace_agent_script_dependency::Requirement,
};

/// Interval of log lines that say what a script waits for; the lines mention it.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Execution order of scripts.
#[derive(Debug)]
pub(super) struct Order {
    scripts: Vec<Node>,
    next_line: Instant,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Node {
    address: String,
    /// Name for people; the address if there is nothing else.
    name: String,
    /// Scripts that it waits for, sorted by address.
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

/// Result of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Succeeded, so that dependents may start.
    Succeeded,
    /// Failed, or left something behind that holds its output open.
    Failed,
    /// Exceeded its time limit.
    TimedOut,
    /// Not run at all.
    Skipped,
}

/// Action of the caller. Scripts are numbered as they were given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Start a script now.
    Run(usize),
    /// Skip a script, with the line for its log.
    Skip(usize, String),
    /// Log a line about a script that waits.
    Wait(usize, String),
}

/// Reasons why scripts cannot be ordered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
    /// A script with dependencies, but without an address.
    #[error("script {0:?} has dependencies but no Terraform resource address")]
    NoAddress(String),
    /// Two scripts with the same address.
    #[error("duplicate script resource address {0:?}")]
    Duplicate(String),
    /// A script that waits for one that is not part of this phase.
    #[error("script {0:?} depends on {1:?}, which is not part of this lifecycle execution")]
    NotHere(String, String),
    /// A dependency with an unknown requirement.
    #[error("script {0:?} dependency on {1:?}: unsupported requirement \"{2}\"")]
    Requirement(String, String, i32),
    /// Scripts that wait for each other.
    #[error("script {0:?} depends on itself through its dependencies")]
    Cycle(String),
}

impl Order {
    /// Creates the order of the scripts of one phase, none of which has run yet.
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

    /// Records the end of a script that was to run.
    pub(super) fn handle_end(&mut self, script: usize, ended: Ended) {
        self.scripts[script].state = State::Ended(ended);
        for dependent in self.scripts[script].dependents.clone() {
            self.decide(dependent);
        }
    }

    /// Starts nothing more; waiting scripts are not skipped either.
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

    /// Returns when to call [`Self::handle_timeout`] next; `None` while nothing waits.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let mut all = self.scripts.iter();
        let waits = all.any(|script| script.state == State::Waiting);
        waits.then_some(self.next_line)
    }

    /// Returns the next action, if there is one.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Starts or skips a waiting script, if that is certain.
    fn decide(&mut self, script: usize) {
        // Skips propagate to dependents, without recursion, because a chain may be long.
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

    /// Returns the unsatisfied dependencies of a script, sorted by address.
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

    /// Returns the log line for a script that can never run; `None` if it still can.
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

    /// Checks for cycles: removes scripts that wait for nothing, until only those are left that wait for each other.
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

/// Returns the dependencies of a script, sorted by address. Of a dependency that is given twice the stricter
/// requirement counts.
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
