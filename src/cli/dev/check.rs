//! `outpost dev --check`: create, stop, start and delete, with checks of the remains after each.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::time::sleep;

use super::{AGENT_LIMIT, Report, Run, agents, human, local};
use crate::{
    cli::{
        exit::{Hint as _, Interrupted, UsageError, in_words},
        output::{Output, Row},
        rows, ssh,
        workspace::{build, create},
    },
    job::Transition,
    proto::outpost::v1::{BuildDetails, CreateWorkspaceRequest},
    stop::Stop,
};

/// Time that processes which were told to end may take.
const GRACE: Duration = Duration::from_secs(5);

/// Command to run at each agent: its output shows that it ran there, and its status that statuses are passed on.
const COMMAND: &str = "printf 'in %s' \"$CODER_WORKSPACE_NAME\"; exit 7";
/// Exit status of the command.
const STATUS: u32 = 7;
/// Longest run time of the command.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// One build or visit, with the problems found after it.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    name: &'static str,
    seconds: f64,
    seen: String,
    problems: Vec<String>,
}

impl Row for Step {
    const COLUMNS: &'static [&'static str] = &["Step", "Result", "Took", "Details"];

    fn cells(&self) -> Vec<String> {
        let result = if self.problems.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        let mut seen = vec![self.seen.clone()];
        seen.extend(self.problems.iter().map(|problem| format!("! {problem}")));
        seen.retain(|line| !line.is_empty());
        let took = format!("{:.1} s", self.seconds);
        vec![self.name.into(), result.into(), took, seen.join("\n")]
    }
}

/// Builds in order, with the status that each leads to.
const STEPS: [(&str, Transition, &str); 4] = [
    ("create", Transition::Start, "running"),
    ("stop", Transition::Stop, "stopped"),
    ("start", Transition::Start, "running"),
    ("delete", Transition::Destroy, "deleted"),
];

impl Run {
    /// Runs all steps, prints the results, and fails if there were any problems.
    pub(super) async fn check(
        &mut self,
        request: CreateWorkspaceRequest,
        output: Output,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        if self.known().await?.is_some() {
            let name = &self.workspace;
            let text = format!(
                "there is already a workspace {name}, and `--check` deletes the workspace that it creates"
            );
            return Err(UsageError(text)).hint("name another one with `--workspace`");
        }
        self.is_new = true;
        let mut report = Report {
            resources: Vec::new(),
            parameters: Vec::new(),
            steps: Vec::new(),
        };
        let (mut pids, mut is_whole) = (BTreeSet::new(), true);
        for (name, transition, status) in STEPS {
            let began = Instant::now();
            let built = match name {
                "create" => self.create(request.clone(), stop).await,
                _ => {
                    let request = self.build_request(transition);
                    build(&mut self.api, request, self.show, stop).await
                }
            };
            let took = began.elapsed();
            let (step, went_on) = match built {
                Ok(built) => {
                    if transition == Transition::Start {
                        report.resources = self.with_persistence(built.resources.clone());
                        report.parameters = self.answered(&built.parameters);
                    }
                    (
                        self.verify(name, transition, status, built, took, &mut pids)
                            .await?,
                        true,
                    )
                }
                Err(error) => (Step::failed(name, took, &error), false),
            };
            report.steps.push(step);
            if !went_on {
                is_whole = false;
                break;
            }
            if transition == Transition::Start && self.machine.is_used() {
                for agent in agents(&report.resources) {
                    let step = self.visit(&agent, stop).await?;
                    report.steps.push(step);
                }
            }
        }
        output.item(&report, human)?;
        let is_good = |step: &Step| step.problems.is_empty();
        match is_whole && report.steps.iter().all(is_good) {
            true => Ok(()),
            false if stop.is_cancelled() => Err(Interrupted.into()),
            false => anyhow::bail!("the check of the template {} failed", self.template),
        }
    }

    async fn create(
        &mut self,
        request: CreateWorkspaceRequest,
        stop: &Stop,
    ) -> anyhow::Result<BuildDetails> {
        let made = create(&mut self.api, request, self.show, stop).await?;
        let build = made.latest_build.unwrap_or_default();
        crate::cli::workspace::details(&mut self.api, build.id).await
    }

    async fn verify(
        &mut self,
        name: &'static str,
        transition: Transition,
        status: &str,
        built: BuildDetails,
        took: Duration,
        pids: &mut BTreeSet<i32>,
    ) -> anyhow::Result<Step> {
        let mut problems = Vec::new();
        let seen = self.status().await?.unwrap_or_else(|| "deleted".to_owned());
        if seen != status {
            problems.push(format!("the workspace is {seen}, not {status}"));
        }
        let resources = self.with_persistence(built.resources);
        problems.extend(compare(&self.expected(transition), &resources, transition));
        let place = self.look_around(transition, pids, &mut problems).await;
        Ok(Step {
            name,
            seconds: took.as_secs_f64(),
            seen: format!("{seen}, {}{place}", counted(resources.len())),
            problems,
        })
    }

    /// Runs a command at an agent, as a person would.
    async fn visit(&self, agent: &str, stop: &Stop) -> anyhow::Result<Step> {
        let began = Instant::now();
        let visited = tokio::select! {
            visited = self.run_command(agent) => visited,
            () = stop.draining() => return Err(Interrupted.into()),
        };
        let took = began.elapsed();
        Ok(match visited {
            Ok((printed, status)) => {
                let expected = format!("in {}", self.workspace);
                let is_good = printed == expected.as_bytes() && status == STATUS;
                let printed = String::from_utf8_lossy(&printed);
                let problem = || format!("expected `{expected}` and status {STATUS}");
                Step {
                    name: "ssh",
                    seconds: took.as_secs_f64(),
                    seen: format!("agent {agent} printed `{printed}`, status {status}"),
                    problems: (!is_good).then(problem).into_iter().collect(),
                }
            }
            Err(error) => {
                let mut step = Step::failed("ssh", took, &error);
                step.problems.extend(self.machine.ends_of_logs());
                step
            }
        })
    }

    async fn run_command(&self, agent: &str) -> anyhow::Result<(Vec<u8>, u32)> {
        let named = format!("{}.{agent}", self.workspace);
        let limits = (AGENT_LIMIT, COMMAND_LIMIT);
        ssh::run_command(&self.server, &named, COMMAND, limits).await
    }

    /// Returns the resources that the import announced for a workspace after such a build.
    fn expected(&self, transition: Transition) -> Vec<rows::Resource> {
        let planned = self
            .imported
            .resources
            .iter()
            .cloned()
            .map(rows::Resource::from);
        let exists = |resource: &rows::Resource| match transition {
            Transition::Start => resource.persistence != "stop-only",
            Transition::Stop => resource.persistence != "ephemeral",
            Transition::Destroy => false,
        };
        planned.filter(exists).collect()
    }

    /// Looks for the workspace on this machine, for a template that keeps its workspaces here.
    async fn look_around(
        &self,
        transition: Transition,
        pids: &mut BTreeSet<i32>,
        problems: &mut Vec<String>,
    ) -> String {
        if !self.machine.is_used() {
            return String::new();
        }
        let running = self.machine.running();
        pids.extend(&running);
        if transition == Transition::Start {
            if running.is_empty() {
                problems.push("its process does not run".to_owned());
            }
            return running
                .first()
                .map_or(String::new(), |pid| format!(", process {pid} is running"));
        }
        let left = self.left(pids).await;
        if !left.is_empty() {
            problems.push(format!("processes are left: {left:?}"));
        }
        match (transition, self.machine.workspaces().len()) {
            (Transition::Destroy, 0) => ", no process, no files".to_owned(),
            (Transition::Destroy, files) => {
                problems.push(format!("{files} directories are left"));
                String::new()
            }
            (_, 0) => {
                problems.push("its directory is gone".to_owned());
                String::new()
            }
            (_, _) => ", no process, directory kept".to_owned(),
        }
    }

    /// Returns the processes that outlive the workspace. Those that were told to end may take a moment, like the
    /// watcher of a `timeout`, which looks once a second whether there is still something to watch.
    async fn left(&self, pids: &BTreeSet<i32>) -> BTreeSet<i32> {
        let deadline = Instant::now() + GRACE;
        loop {
            let mut left: BTreeSet<i32> = self.machine.processes().into_iter().collect();
            left.extend(pids.iter().copied().filter(|pid| local::is_alive(*pid)));
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Step {
    fn failed(name: &'static str, took: Duration, error: &anyhow::Error) -> Self {
        Self {
            name,
            seconds: took.as_secs_f64(),
            seen: String::new(),
            problems: vec![in_words(error)],
        }
    }
}

fn counted(resources: usize) -> String {
    match resources {
        0 => "no resource".to_owned(),
        1 => "1 resource".to_owned(),
        many => format!("{many} resources"),
    }
}

/// Returns the differences between expected and actual resources. Classes are those of a started workspace: without
/// the resource that runs it, an agent may count for another one.
fn compare(
    expected: &[rows::Resource],
    seen: &[rows::Resource],
    transition: Transition,
) -> Vec<String> {
    let mut problems = Vec::new();
    for planned in expected {
        match seen
            .iter()
            .find(|resource| resource.address == planned.address)
        {
            None => problems.push(format!("{} is missing", planned.address)),
            Some(resource)
                if transition == Transition::Start && resource.class != planned.class =>
            {
                problems.push(format!(
                    "{} is {}, not {}",
                    planned.address, resource.class, planned.class
                ));
            }
            Some(_) => {}
        }
    }
    let is_expected = |resource: &&rows::Resource| {
        expected
            .iter()
            .any(|planned| planned.address == resource.address)
    };
    let surplus = seen.iter().filter(|resource| !is_expected(resource));
    problems.extend(surplus.map(|resource| format!("{} exists but should not", resource.address)));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(address: &str, class: &str) -> rows::Resource {
        rows::Resource {
            address: address.into(),
            kind: String::new(),
            class: class.into(),
            persistence: String::new(),
            agents: Vec::new(),
            facts: std::collections::BTreeMap::new(),
            daily_cost: 0,
        }
    }

    #[test]
    fn what_is_missing_what_is_left_and_what_changed_its_class_are_problems() {
        let expected = [
            resource("a.x", "peripheral"),
            resource("b.x", "computational"),
        ];
        let seen = [resource("b.x", "peripheral"), resource("c.x", "peripheral")];

        let problems = compare(&expected, &seen, Transition::Start);

        let found = [
            "a.x is missing",
            "b.x is peripheral, not computational",
            "c.x exists but should not",
        ];
        assert_eq!(problems, found);
        assert_eq!(
            compare(&expected[1..], &seen[..1], Transition::Stop),
            [""; 0]
        );
    }
}
