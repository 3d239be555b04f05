//! Conversion of our own types to the messages of `control.proto`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use outpost_base::job::{self, Persistence, Transition, classify};
use outpost_wire::proto::{outpost::v1 as wire, provisioner};

use super::names::Names;
use crate::{
    agent_ids::{log_source_id, script_id},
    model::{
        AgentRecord, AuditEntry, Build, BuildOutput, Daemon, ImportOutput, JobRecord, Organization,
        ProvisionerKey, StoredAgentLine, StoredLine, Task, Template, Token, User, Version,
        Workspace,
    },
    plane::{AgentFacts, Explained, Plane, RequestError, full_name},
    queue::Verdict,
};

pub(super) fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

pub(super) fn optional_millis(at: Option<Timestamp>) -> i64 {
    at.map_or(0, millis)
}

pub(super) fn organization(organization: Organization) -> wire::Organization {
    wire::Organization {
        id: organization.id.to_string(),
        name: organization.name,
        is_default: organization.is_default,
        created_at: millis(organization.created_at),
    }
}

pub(super) fn user(user: User) -> wire::User {
    wire::User {
        id: user.id.to_string(),
        name: user.name,
        email: user.email,
        full_name: user.full_name,
        admin: user.admin,
        budget: user.budget.unwrap_or(-1),
        created_at: millis(user.created_at),
        suspended: user.suspended_at.is_some(),
    }
}

pub(super) fn token(names: &Names<'_>, token: Token) -> wire::Token {
    wire::Token {
        id: token.id.to_string(),
        user: names.user(token.user_id),
        name: token.name,
        created_at: millis(token.created_at),
        expires_at: optional_millis(token.expires_at),
        last_used_at: optional_millis(token.last_used_at),
    }
}

pub(super) fn key(names: &Names<'_>, key: ProvisionerKey) -> wire::ProvisionerKey {
    wire::ProvisionerKey {
        id: key.id.to_string(),
        organization: names.organization(key.organization_id),
        name: key.name,
        tags: key.tags.as_map().clone(),
        created_at: millis(key.created_at),
    }
}

/// Converts a daemon; `open` are all jobs that have not ended.
pub(super) fn daemon(
    plane: &Plane,
    names: &Names<'_>,
    open: &[JobRecord],
    daemon: Daemon,
) -> wire::Daemon {
    let job = open.iter().find(|job| job.worker == Some(daemon.id));
    let silent = plane
        .now()
        .duration_since(daemon.last_seen_at)
        .unsigned_abs();
    let status = match job {
        _ if silent > plane.limits().offline => "offline",
        Some(_) => "busy",
        None => "idle",
    };
    wire::Daemon {
        key: names.key(daemon.key_id()),
        id: daemon.id.to_string(),
        organization: names.organization(daemon.organization_id),
        name: daemon.name,
        tags: daemon.tags.as_map().clone(),
        provisioners: daemon.provisioners,
        version: daemon.version,
        created_at: millis(daemon.created_at),
        last_seen_at: millis(daemon.last_seen_at),
        status: status.to_owned(),
        job_id: job.map(|job| job.id.to_string()).unwrap_or_default(),
        api_version: daemon.api_version,
    }
}

pub(super) async fn template(
    names: &mut Names<'_>,
    template: Template,
) -> Result<wire::Template, RequestError> {
    let active = match template.active_version {
        Some(id) => names.version(id).await?,
        None => String::new(),
    };
    Ok(wire::Template {
        id: template.id.to_string(),
        organization: names.organization(template.organization_id),
        name: template.name,
        active_version_id: template
            .active_version
            .map(|id| id.to_string())
            .unwrap_or_default(),
        active_version: active,
        created_by: names.user(template.created_by),
        created_at: millis(template.created_at),
        updated_at: millis(template.updated_at),
    })
}

pub(super) fn job(names: &Names<'_>, job: JobRecord) -> wire::Job {
    let status = job.status();
    let (version_id, build_id) = match &job.task {
        Task::TemplateImport { version_id } | Task::TemplateDryRun { version_id, .. } => {
            (version_id.to_string(), String::new())
        }
        Task::WorkspaceBuild { build_id } => (String::new(), build_id.to_string()),
    };
    wire::Job {
        id: job.id.to_string(),
        organization: names.organization(job.organization_id),
        kind: job.task.name().to_owned(),
        status: status.as_str().to_owned(),
        initiator: names.user(job.initiator_id),
        created_at: millis(job.created_at),
        started_at: optional_millis(job.started_at),
        updated_at: millis(job.updated_at),
        canceled_at: optional_millis(job.canceled_at),
        completed_at: optional_millis(job.completed_at),
        error: job.error,
        error_code: job
            .error_code
            .map(|code| code.as_str().to_owned())
            .unwrap_or_default(),
        worker_id: job.worker.map(|id| id.to_string()).unwrap_or_default(),
        worker: job.worker_name,
        tags: job.tags.as_map().clone(),
        subject: job.subject,
        version_id,
        build_id,
        log_truncated: job.log_truncated,
        prebuild: job.prebuild,
    }
}

pub(super) fn explained(names: &Names<'_>, explained: Explained) -> wire::JobDetails {
    wire::JobDetails {
        job: Some(job(names, explained.job)),
        queue_position: count(explained.position),
        queue_length: count(explained.waiting),
        daemons: explained.verdicts.into_iter().map(verdict).collect(),
    }
}

fn verdict(verdict: Verdict) -> wire::DaemonVerdict {
    wire::DaemonVerdict {
        daemon_id: verdict.daemon_id.to_string(),
        daemon: verdict.daemon,
        eligible: verdict.eligible,
        reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
    }
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

async fn job_of(
    names: &Names<'_>,
    plane: &Plane,
    id: job::JobId,
) -> Result<Option<wire::Job>, RequestError> {
    Ok(plane
        .store()
        .job(id)
        .await?
        .map(|record| job(names, record)))
}

pub(super) async fn version(
    plane: &Plane,
    names: &mut Names<'_>,
    version: Version,
) -> Result<wire::Version, RequestError> {
    let template = names.template(version.template_id).await?;
    let active = template
        .as_ref()
        .and_then(|template| template.active_version);
    Ok(wire::Version {
        job: job_of(names, plane, version.job_id).await?,
        active: active == Some(version.id),
        id: version.id.to_string(),
        template_id: version.template_id.to_string(),
        template: template.map(|template| template.name).unwrap_or_default(),
        name: version.name,
        message: version.message,
        created_by: names.user(version.created_by),
        created_at: millis(version.created_at),
    })
}

pub(super) async fn version_details(
    plane: &Plane,
    names: &mut Names<'_>,
    found: Version,
) -> Result<wire::VersionDetails, RequestError> {
    let import_output = plane.store().import_output(found.id).await?;
    let resources = version_resources(&import_output);
    Ok(wire::VersionDetails {
        version: Some(version(plane, names, found).await?),
        variables: import_output.variables.into_iter().map(variable).collect(),
        parameters: all(import_output.parameters),
        presets: all(import_output.presets),
        external_auth: all(import_output.external_auth),
        modules: all(import_output.modules),
        resources,
        readme: import_output.readme,
        workspace_tags: import_output.workspace_tags,
    })
}

/// Converts a variable, without a default that people must not see.
fn variable(mut variable: job::TemplateVariable) -> provisioner::TemplateVariable {
    if variable.sensitive {
        variable.default_value.clear();
    }
    variable.into()
}

fn all<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(B::from).collect()
}

/// Resources of a started workspace, and those that only a stopped one has.
fn version_resources(import_output: &ImportOutput) -> Vec<wire::Resource> {
    let persistence = classify(
        &import_output.start_resources,
        &import_output.stop_resources,
    );
    let only_stopped = import_output
        .stop_resources
        .iter()
        .filter(|resource| persistence.get(&resource.address) == Some(&Persistence::StopOnly));
    let both = import_output.start_resources.iter().chain(only_stopped);
    both.map(|found| resource(&persistence, found)).collect()
}

/// Converts a resource, without its secrets.
pub(super) fn resource(
    persistence: &BTreeMap<String, Persistence>,
    resource: &job::Resource,
) -> wire::Resource {
    let facts = resource.metadata.iter().filter(|fact| !fact.is_null);
    wire::Resource {
        address: resource.address.clone(),
        r#type: resource.kind.clone(),
        name: resource.name.clone(),
        module_path: resource.module_path.clone(),
        class: resource.class().as_str().to_owned(),
        persistence: persistence_of(persistence, &resource.address)
            .map(|found| found.as_str().to_owned())
            .unwrap_or_default(),
        hide: resource.hide,
        icon: resource.icon.clone(),
        instance_type: resource.instance_type.clone(),
        daily_cost: resource.daily_cost,
        facts: facts.map(fact).collect(),
        agents: resource.agents.iter().map(agent).collect(),
    }
}

/// An instance that the import did not know, because its number depends on a parameter, is like its siblings if
/// these agree.
fn persistence_of(known: &BTreeMap<String, Persistence>, address: &str) -> Option<Persistence> {
    if let Some(found) = known.get(address) {
        return Some(*found);
    }
    let base = without_index(address);
    let mut siblings = known
        .iter()
        .filter(|(other, _)| without_index(other) == base)
        .map(|(_, persistence)| *persistence);
    let first = siblings.next()?;
    siblings.all(|other| other == first).then_some(first)
}

/// Removes indices: `a.b` for `a.b[0]` and `a.b["x"]`.
fn without_index(address: &str) -> &str {
    match address.strip_suffix(']').and_then(|rest| rest.rfind('[')) {
        Some(start) => &address[..start],
        None => address,
    }
}

fn fact(fact: &job::ResourceMetadata) -> wire::ResourceFact {
    let value = if fact.sensitive { "" } else { &fact.value };
    wire::ResourceFact {
        key: fact.key.clone(),
        value: value.to_owned(),
        sensitive: fact.sensitive,
    }
}

/// Converts an agent without tokens and environments, which are the workspace's secrets.
fn agent(agent: &job::Agent) -> wire::Agent {
    wire::Agent {
        name: agent.name.clone(),
        operating_system: agent.operating_system.clone(),
        architecture: agent.architecture.clone(),
        directory: agent.directory.clone(),
        apps: agent.apps.iter().map(app).collect(),
        ..wire::Agent::default()
    }
}

/// Converts an agent, with its newest reports.
fn running_agent(plane: &Plane, record: &AgentRecord, found: &job::Agent) -> wire::Agent {
    let reports = plane.reports(record.id);
    let measurement = |described: &job::AgentMetadata| {
        let measured = reports.measured.get(&described.key)?;
        Some(wire::AgentMeasurement {
            key: described.key.clone(),
            display_name: described.display_name.clone(),
            value: measured.value.clone(),
            error: measured.error.clone(),
            collected_at: millis(measured.collected_at),
        })
    };
    let script_end = |(at, script): (usize, &job::Script)| {
        let end = reports.scripts.get(&script_id(record.id, at))?;
        Some(wire::AgentScriptEnd {
            display_name: script.display_name.clone(),
            stage: end.stage.to_owned(),
            status: end.status.to_owned(),
            exit_code: end.exit_code,
            started_at: millis(end.started_at),
            ended_at: millis(end.ended_at),
        })
    };
    let apps = found.apps.iter().map(|it| wire::App {
        health: reports.health_of(record.id, it).as_str().to_owned(),
        ..app(it)
    });
    wire::Agent {
        apps: apps.collect(),
        id: record.id.to_string(),
        status: plane.agent_status(record, found).as_str().to_owned(),
        lifecycle: record.lifecycle.as_str().to_owned(),
        version: record.version.clone(),
        first_connected_at: optional_millis(record.first_connected_at),
        last_connected_at: optional_millis(record.last_connected_at),
        measurements: found.metadata.iter().filter_map(measurement).collect(),
        script_ends: found
            .scripts
            .iter()
            .enumerate()
            .filter_map(script_end)
            .collect(),
        traffic: reports.traffic.as_ref().map(|it| wire::AgentTraffic {
            connections: it.connections,
            received_bytes: it.received_bytes,
            sent_bytes: it.sent_bytes,
            ssh_sessions: it.sessions.get("ssh").copied().unwrap_or_default(),
            reported_at: millis(it.reported_at),
            sessions: it.sessions.clone(),
        }),
        ..agent(found)
    }
}

fn app(app: &job::App) -> wire::App {
    wire::App {
        health: String::new(),
        slug: app.slug.clone(),
        display_name: app.display_name.clone(),
        url: app.url.clone(),
        command: app.command.clone(),
        external: app.external,
        hidden: app.hidden,
    }
}

pub(super) async fn build(
    plane: &Plane,
    names: &mut Names<'_>,
    workspace: &Workspace,
    build: Build,
) -> Result<wire::Build, RequestError> {
    Ok(wire::Build {
        id: build.id.to_string(),
        workspace_id: build.workspace_id.to_string(),
        workspace: full_name(workspace),
        number: build.number,
        transition: build.transition.as_str().to_owned(),
        version_id: build.version_id.to_string(),
        version: names.version(build.version_id).await?,
        initiator: names.user(build.initiator_id),
        created_at: millis(build.created_at),
        daily_cost: build.daily_cost,
        job: job_of(names, plane, build.job_id).await?,
        preset: build.preset,
        has_state: build.has_state,
    })
}

pub(super) async fn build_details(
    plane: &Plane,
    names: &mut Names<'_>,
    workspace: &Workspace,
    found: Build,
) -> Result<wire::BuildDetails, RequestError> {
    let BuildOutput {
        resources,
        timings,
        persistence,
        ..
    } = plane.made(found.id).await?;
    // Only agents of this build have reports: those of an older one are gone.
    let found_build = found.id;
    let records = plane.store().agents(workspace.id).await?;
    let with_agents = |found: &job::Resource| {
        let agents = found.agents.iter().map(|it| {
            let record = records
                .iter()
                .find(|record| record.build_id == found_build && record.name == it.name);
            record.map_or_else(|| agent(it), |record| running_agent(plane, record, it))
        });
        wire::Resource {
            agents: agents.collect(),
            ..resource(&persistence, found)
        }
    };
    Ok(wire::BuildDetails {
        parameters: found
            .parameters
            .iter()
            .map(|value| wire::ParameterValue {
                name: value.name.clone(),
                value: value.value.clone(),
            })
            .collect(),
        resources: resources.iter().map(with_agents).collect(),
        timings: timings.into_iter().map(provisioner::Timing::from).collect(),
        build: Some(build(plane, names, workspace, found).await?),
    })
}

pub(super) async fn workspace(
    plane: &Plane,
    names: &mut Names<'_>,
    workspace: Workspace,
) -> Result<wire::Workspace, RequestError> {
    let template = names.template(workspace.template_id).await?;
    let latest = plane.store().latest_build(workspace.id).await?;
    let active = template
        .as_ref()
        .and_then(|template| template.active_version);
    let outdated = latest
        .as_ref()
        .is_some_and(|build| Some(build.version_id) != active);
    let latest = match latest {
        Some(found) => Some(build(plane, names, &workspace, found).await?),
        None => None,
    };
    Ok(wire::Workspace {
        id: workspace.id.to_string(),
        organization: names.organization(workspace.organization_id),
        owner: workspace.owner,
        name: workspace.name,
        template_id: workspace.template_id.to_string(),
        template: template.map(|template| template.name).unwrap_or_default(),
        created_at: millis(workspace.created_at),
        updated_at: millis(workspace.updated_at),
        deleted_at: optional_millis(workspace.deleted_at),
        latest_build: latest,
        outdated,
    })
}

pub(super) fn line(stored: StoredLine) -> wire::LogLine {
    let line = stored.line;
    wire::LogLine {
        id: stored.id,
        source: line.source.as_str().to_owned(),
        level: provisioner::LogLevel::from(line.level).into(),
        created_at: millis(line.created_at),
        stage: line.stage,
        output: line.output,
    }
}

pub(super) fn agent_line(of: &AgentFacts, stored: StoredAgentLine) -> wire::AgentLogLine {
    let mut scripts = of.agent.scripts.iter().enumerate();
    let source = scripts.find(|(at, _)| log_source_id(of.record.id, *at) == stored.source);
    wire::AgentLogLine {
        id: stored.id,
        agent: of.record.name.clone(),
        source: source.map_or_else(String::new, |(_, it)| it.display_name.clone()),
        level: provisioner::LogLevel::from(stored.line.level).into(),
        created_at: millis(stored.created_at),
        output: stored.line.output,
    }
}

pub(super) fn audit_entry(entry: AuditEntry) -> wire::AuditEntry {
    wire::AuditEntry {
        id: entry.id,
        at: millis(entry.at),
        actor: entry.actor,
        action: entry.action,
        target: entry.target,
        detail: entry.detail,
    }
}

/// Parses a transition by its name in the API.
pub(super) fn transition(name: &str) -> Result<Transition, RequestError> {
    let all = [Transition::Start, Transition::Stop, Transition::Destroy];
    all.into_iter()
        .find(|transition| transition.as_str() == name)
        .ok_or_else(|| {
            RequestError::Invalid(format!(
                "transition `{name}` is not one of start, stop, destroy"
            ))
        })
}

#[cfg(test)]
mod tests {
    use outpost_base::job::AgentAuth;

    use super::*;

    #[test]
    fn an_instance_that_the_import_did_not_know_is_like_its_siblings() {
        let known = BTreeMap::from([
            ("a.vm[0]".to_owned(), Persistence::Ephemeral),
            ("a.disk[\"x\"]".to_owned(), Persistence::Persistent),
            ("a.mixed[0]".to_owned(), Persistence::Persistent),
            ("a.mixed[1]".to_owned(), Persistence::Ephemeral),
        ]);

        let cases = [
            ("a.vm[0]", Some(Persistence::Ephemeral)),
            ("a.vm[7]", Some(Persistence::Ephemeral)),
            ("a.disk[\"y\"]", Some(Persistence::Persistent)),
            ("a.mixed[2]", None),
            ("a.other", None),
        ];
        for (address, expected) in cases {
            assert_eq!(persistence_of(&known, address), expected, "{address}");
        }
    }

    #[test]
    fn secrets_do_not_leave_with_a_resource() {
        let found = job::Resource {
            metadata: vec![job::ResourceMetadata {
                key: "password".to_owned(),
                value: "hunter2".to_owned(),
                sensitive: true,
                is_null: false,
            }],
            agents: vec![job::Agent {
                auth: AgentAuth::Token("hunter3".to_owned()),
                ..job::Agent::default()
            }],
            ..job::Resource::default()
        };

        let shown = format!("{:?}", resource(&BTreeMap::new(), &found));

        assert!(!shown.contains("hunter"), "{shown}");
    }
}
