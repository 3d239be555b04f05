//! Updates of a running job.

use outpost_base::job::{JobId, LogLevel, LogLine, LogSource};
use outpost_provision::{JobUpdate, JobUpdated};

use super::{FieldError, all, into_all, job::same_enum, known, millis};
use crate::proto::{
    provisioner,
    provisionerd::{self as wire, UpdateJobRequest, UpdateJobResponse},
};

same_enum!(
    LogSource,
    wire::LogSource,
    ProvisionerDaemon = ProvisionerDaemon,
    Provisioner = Provisioner,
);
same_enum!(
    LogLevel,
    provisioner::LogLevel,
    Trace = Trace,
    Debug = Debug,
    Info = Info,
    Warn = Warn,
    Error = Error,
);

impl TryFrom<wire::Log> for LogLine {
    type Error = FieldError;

    fn try_from(log: wire::Log) -> Result<Self, FieldError> {
        Ok(Self {
            source: known::<wire::LogSource>("logs.source", log.source)?.into(),
            level: known::<provisioner::LogLevel>("logs.level", log.level)?.into(),
            created_at: millis("logs.created_at", log.created_at)?,
            stage: log.stage,
            output: log.output,
        })
    }
}

impl From<LogLine> for wire::Log {
    fn from(line: LogLine) -> Self {
        Self {
            source: wire::LogSource::from(line.source).into(),
            level: provisioner::LogLevel::from(line.level).into(),
            created_at: line.created_at.as_millisecond(),
            stage: line.stage,
            output: line.output,
        }
    }
}

impl TryFrom<UpdateJobRequest> for JobUpdate {
    type Error = FieldError;

    fn try_from(update: UpdateJobRequest) -> Result<Self, FieldError> {
        Ok(Self {
            job: update
                .job_id
                .parse::<JobId>()
                .map_err(|_| FieldError::new("job_id", &update.job_id))?,
            logs: all(update.logs, LogLine::try_from)?,
            template_variables: into_all(update.template_variables),
            user_variables: into_all(update.user_variable_values),
            readme: update.readme,
            workspace_tags: update.workspace_tags,
        })
    }
}

impl From<JobUpdate> for UpdateJobRequest {
    fn from(update: JobUpdate) -> Self {
        Self {
            job_id: update.job.to_string(),
            logs: into_all(update.logs),
            template_variables: into_all(update.template_variables),
            user_variable_values: into_all(update.user_variables),
            readme: update.readme,
            workspace_tags: update.workspace_tags,
        }
    }
}

impl From<UpdateJobResponse> for JobUpdated {
    fn from(answer: UpdateJobResponse) -> Self {
        Self {
            cancelled: answer.canceled,
            variables: into_all(answer.variable_values),
        }
    }
}

impl From<JobUpdated> for UpdateJobResponse {
    fn from(answer: JobUpdated) -> Self {
        Self {
            canceled: answer.cancelled,
            variable_values: into_all(answer.variables),
        }
    }
}
