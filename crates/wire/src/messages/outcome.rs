//! Outcomes of jobs: success, failure and cancellation.

use outpost_base::job::{
    BuildResult, CompletedJob, CompletedWork, DryRunResult, FailedJob, FailedWork, FailureCode,
    ImportResult, JobId, Replacement, Resource, Timing, TimingState,
};

use super::{
    FieldError, all, from_wire_time, into_all, job::same_enum, known, template::presets,
    to_wire_time,
};
use crate::proto::{
    provisioner,
    provisionerd::{self as wire, completed_job, failed_job},
};

same_enum!(
    TimingState,
    provisioner::TimingState,
    Started = Started,
    Completed = Completed,
    Failed = Failed
);

impl From<Timing> for provisioner::Timing {
    fn from(timing: Timing) -> Self {
        Self {
            start: Some(to_wire_time(timing.start)),
            end: Some(to_wire_time(timing.end)),
            action: timing.action,
            source: timing.source,
            resource: timing.resource,
            stage: timing.stage,
            state: provisioner::TimingState::from(timing.state).into(),
        }
    }
}

impl TryFrom<provisioner::Timing> for Timing {
    type Error = FieldError;

    fn try_from(timing: provisioner::Timing) -> Result<Self, FieldError> {
        Ok(Self {
            start: from_wire_time("timings.start", timing.start)?,
            end: from_wire_time("timings.end", timing.end)?,
            action: timing.action,
            source: timing.source,
            resource: timing.resource,
            stage: timing.stage,
            state: known::<provisioner::TimingState>("timings.state", timing.state)?.into(),
        })
    }
}

impl From<Replacement> for provisioner::ResourceReplacement {
    fn from(replacement: Replacement) -> Self {
        Self {
            resource: replacement.resource,
            paths: replacement.paths,
        }
    }
}

impl From<provisioner::ResourceReplacement> for Replacement {
    fn from(replacement: provisioner::ResourceReplacement) -> Self {
        Self {
            resource: replacement.resource,
            paths: replacement.paths,
        }
    }
}

impl From<CompletedJob> for wire::CompletedJob {
    fn from(job: CompletedJob) -> Self {
        use completed_job::Type;
        let work = match job.result {
            CompletedWork::WorkspaceBuild(build) => Type::WorkspaceBuild(build.into()),
            CompletedWork::TemplateImport(import) => Type::TemplateImport((*import).into()),
            CompletedWork::TemplateDryRun(dry_run) => {
                Type::TemplateDryRun(completed_job::TemplateDryRun {
                    resources: into_all(dry_run.resources),
                    modules: into_all(dry_run.modules),
                })
            }
        };
        Self {
            job_id: job.id.to_string(),
            r#type: Some(work),
        }
    }
}

impl From<BuildResult> for completed_job::WorkspaceBuild {
    fn from(build: BuildResult) -> Self {
        Self {
            state: build.state,
            resources: into_all(build.resources),
            timings: into_all(build.timings),
            modules: into_all(build.modules),
            resource_replacements: into_all(build.replacements),
            ai_tasks: into_all(build.ai_tasks),
        }
    }
}

impl From<ImportResult> for completed_job::TemplateImport {
    fn from(import: ImportResult) -> Self {
        Self {
            start_resources: into_all(import.start_resources),
            stop_resources: into_all(import.stop_resources),
            rich_parameters: into_all(import.parameters),
            external_auth_providers_names: import
                .external_auth
                .iter()
                .map(|auth| auth.id.clone())
                .collect(),
            external_auth_providers: into_all(import.external_auth),
            start_modules: into_all(import.modules),
            presets: into_all(import.presets),
            plan: import.plan,
            module_files: import.module_files,
            module_files_hash: bytes::Bytes::new(),
            has_ai_tasks: import.has_ai_tasks,
            has_external_agents: import.has_external_agents,
        }
    }
}

impl TryFrom<wire::CompletedJob> for CompletedJob {
    type Error = FieldError;

    fn try_from(job: wire::CompletedJob) -> Result<Self, FieldError> {
        use completed_job::Type;
        let id = job
            .job_id
            .parse::<JobId>()
            .map_err(|_| FieldError::new("job_id", &job.job_id))?;
        let result = match job.r#type.ok_or_else(|| FieldError::missing("type"))? {
            Type::WorkspaceBuild(build) => CompletedWork::WorkspaceBuild(build.try_into()?),
            Type::TemplateImport(import) => {
                CompletedWork::TemplateImport(Box::new(import.try_into()?))
            }
            Type::TemplateDryRun(dry_run) => CompletedWork::TemplateDryRun(DryRunResult {
                resources: all(dry_run.resources, Resource::try_from)?,
                modules: into_all(dry_run.modules),
            }),
        };
        Ok(Self { id, result })
    }
}

impl TryFrom<completed_job::WorkspaceBuild> for BuildResult {
    type Error = FieldError;

    fn try_from(build: completed_job::WorkspaceBuild) -> Result<Self, FieldError> {
        Ok(Self {
            state: build.state,
            resources: all(build.resources, Resource::try_from)?,
            timings: all(build.timings, Timing::try_from)?,
            modules: into_all(build.modules),
            replacements: into_all(build.resource_replacements),
            ai_tasks: into_all(build.ai_tasks),
        })
    }
}

impl TryFrom<completed_job::TemplateImport> for ImportResult {
    type Error = FieldError;

    fn try_from(import: completed_job::TemplateImport) -> Result<Self, FieldError> {
        Ok(Self {
            start_resources: all(import.start_resources, Resource::try_from)?,
            stop_resources: all(import.stop_resources, Resource::try_from)?,
            parameters: all(import.rich_parameters, TryInto::try_into)?,
            external_auth: into_all(import.external_auth_providers),
            modules: into_all(import.start_modules),
            presets: presets(import.presets)?,
            plan: import.plan,
            module_files: import.module_files,
            has_ai_tasks: import.has_ai_tasks,
            has_external_agents: import.has_external_agents,
        })
    }
}

impl From<FailedJob> for wire::FailedJob {
    fn from(job: FailedJob) -> Self {
        use failed_job::Type;
        let work = match job.work {
            FailedWork::WorkspaceBuild { state, timings } => {
                Some(Type::WorkspaceBuild(failed_job::WorkspaceBuild {
                    state: state.unwrap_or_default(),
                    timings: into_all(timings),
                }))
            }
            FailedWork::TemplateImport => Some(Type::TemplateImport(failed_job::TemplateImport {})),
            FailedWork::TemplateDryRun => Some(Type::TemplateDryRun(failed_job::TemplateDryRun {})),
            FailedWork::Unknown => None,
        };
        // A server treats an empty text as success.
        let error = if job.error.is_empty() {
            "the job failed without a reason".to_owned()
        } else {
            job.error
        };
        Self {
            job_id: job.id.to_string(),
            error,
            error_code: job
                .code
                .map(|code| code.as_str().to_owned())
                .unwrap_or_default(),
            r#type: work,
        }
    }
}

impl TryFrom<wire::FailedJob> for FailedJob {
    type Error = FieldError;

    fn try_from(job: wire::FailedJob) -> Result<Self, FieldError> {
        use failed_job::Type;
        let work = match job.r#type {
            Some(Type::WorkspaceBuild(build)) => FailedWork::WorkspaceBuild {
                state: (!build.state.is_empty()).then_some(build.state),
                timings: all(build.timings, Timing::try_from)?,
            },
            Some(Type::TemplateImport(_)) => FailedWork::TemplateImport,
            Some(Type::TemplateDryRun(_)) => FailedWork::TemplateDryRun,
            None => FailedWork::Unknown,
        };
        Ok(Self {
            id: job
                .job_id
                .parse::<JobId>()
                .map_err(|_| FieldError::new("job_id", &job.job_id))?,
            error: job.error,
            code: failure_code(&job.error_code),
            work,
        })
    }
}

/// Returns the code by its name. An unknown one is left out: it only helps a user interface.
fn failure_code(name: &str) -> Option<FailureCode> {
    [
        FailureCode::MissingTemplateParameter,
        FailureCode::RequiredTemplateVariables,
        FailureCode::InsufficientQuota,
    ]
    .into_iter()
    .find(|code| code.as_str() == name)
}

/// Returns the addresses of all resources of a result, for which Coder's messages have no field: those of a started
/// workspace, and for an import those of a stopped one.
pub fn addresses(job: &CompletedJob) -> (Vec<String>, Vec<String>) {
    let list = |resources: &[Resource]| {
        resources
            .iter()
            .map(|resource| resource.address.clone())
            .collect()
    };
    match &job.result {
        CompletedWork::WorkspaceBuild(build) => (list(&build.resources), Vec::new()),
        CompletedWork::TemplateImport(import) => {
            (list(&import.start_resources), list(&import.stop_resources))
        }
        CompletedWork::TemplateDryRun(dry_run) => (list(&dry_run.resources), Vec::new()),
    }
}

/// Puts the lists of [`addresses`] back into a decoded result.
///
/// # Errors
/// [`FieldError`] if a list has not one address a resource.
pub fn set_addresses(
    job: &mut CompletedJob,
    start: Vec<String>,
    stop: Vec<String>,
) -> Result<(), FieldError> {
    match &mut job.result {
        CompletedWork::WorkspaceBuild(build) => fill("addresses", &mut build.resources, start),
        CompletedWork::TemplateDryRun(dry_run) => fill("addresses", &mut dry_run.resources, start),
        CompletedWork::TemplateImport(import) => {
            fill("addresses", &mut import.start_resources, start)?;
            fill("stop_addresses", &mut import.stop_resources, stop)
        }
    }
}

fn fill(
    field: &'static str,
    resources: &mut [Resource],
    addresses: Vec<String>,
) -> Result<(), FieldError> {
    if resources.len() != addresses.len() {
        return Err(FieldError::new(
            field,
            format!("{} for {} resources", addresses.len(), resources.len()),
        ));
    }
    for (resource, address) in resources.iter_mut().zip(addresses) {
        resource.address = address;
    }
    Ok(())
}
