//! Jobs as a server hands them out.

use outpost_base::job::{
    ExternalAuth, Job, JobId, Metadata, ParameterValue, PrebuiltStage, Role, RunningAgentToken,
    TemplateDryRun, TemplateImport, Transition, VariableValue, Work, WorkspaceBuild,
};

use super::{FieldError, all, into_all, known, millis};
use crate::proto::{
    provisioner as wire,
    provisionerd::{AcquiredJob, acquired_job},
};

impl TryFrom<AcquiredJob> for Job {
    type Error = FieldError;

    fn try_from(job: AcquiredJob) -> Result<Self, FieldError> {
        use acquired_job::Type;
        let work = match job.r#type {
            Some(Type::WorkspaceBuild(build)) => Work::WorkspaceBuild(build.try_into()?),
            Some(Type::TemplateImport(import)) => Work::TemplateImport(TemplateImport {
                metadata: import.metadata.unwrap_or_default().try_into()?,
                user_variables: into_all(import.user_variable_values),
            }),
            Some(Type::TemplateDryRun(dry_run)) => Work::TemplateDryRun(TemplateDryRun {
                metadata: dry_run.metadata.unwrap_or_default().try_into()?,
                parameters: into_all(dry_run.rich_parameter_values),
                variables: into_all(dry_run.variable_values),
            }),
            None => Work::Unknown,
        };
        Ok(Self {
            id: job
                .job_id
                .parse::<JobId>()
                .map_err(|_| FieldError::new("job_id", &job.job_id))?,
            created_at: millis("created_at", job.created_at)?,
            provisioner: job.provisioner,
            user_name: job.user_name,
            template_archive: job.template_source_archive,
            work,
            trace: job.trace_metadata,
        })
    }
}

impl From<Job> for AcquiredJob {
    fn from(job: Job) -> Self {
        use acquired_job::Type;
        let work = match job.work {
            Work::WorkspaceBuild(build) => Some(Type::WorkspaceBuild(build.into())),
            Work::TemplateImport(import) => {
                Some(Type::TemplateImport(acquired_job::TemplateImport {
                    metadata: Some(import.metadata.into()),
                    user_variable_values: into_all(import.user_variables),
                }))
            }
            Work::TemplateDryRun(dry_run) => {
                Some(Type::TemplateDryRun(acquired_job::TemplateDryRun {
                    rich_parameter_values: into_all(dry_run.parameters),
                    variable_values: into_all(dry_run.variables),
                    metadata: Some(dry_run.metadata.into()),
                }))
            }
            Work::Unknown => None,
        };
        Self {
            job_id: job.id.to_string(),
            created_at: job.created_at.as_millisecond(),
            provisioner: job.provisioner,
            user_name: job.user_name,
            template_source_archive: job.template_archive,
            trace_metadata: job.trace,
            r#type: work,
        }
    }
}

impl TryFrom<acquired_job::WorkspaceBuild> for WorkspaceBuild {
    type Error = FieldError;

    fn try_from(build: acquired_job::WorkspaceBuild) -> Result<Self, FieldError> {
        Ok(Self {
            build_id: build.workspace_build_id,
            workspace_name: build.workspace_name,
            parameters: into_all(build.rich_parameter_values),
            previous_parameters: into_all(build.previous_parameter_values),
            variables: into_all(build.variable_values),
            external_auth: into_all(build.external_auth_providers),
            metadata: build.metadata.unwrap_or_default().try_into()?,
            state: build.state,
            log_level: build.log_level,
        })
    }
}

impl From<WorkspaceBuild> for acquired_job::WorkspaceBuild {
    fn from(build: WorkspaceBuild) -> Self {
        Self {
            workspace_build_id: build.build_id,
            workspace_name: build.workspace_name,
            rich_parameter_values: into_all(build.parameters),
            variable_values: into_all(build.variables),
            external_auth_providers: into_all(build.external_auth),
            metadata: Some(build.metadata.into()),
            state: build.state,
            log_level: build.log_level,
            previous_parameter_values: into_all(build.previous_parameters),
        }
    }
}

impl TryFrom<wire::Metadata> for Metadata {
    type Error = FieldError;

    fn try_from(metadata: wire::Metadata) -> Result<Self, FieldError> {
        let transition = known::<wire::WorkspaceTransition>(
            "metadata.workspace_transition",
            metadata.workspace_transition,
        )?;
        let stage = known::<wire::PrebuiltWorkspaceBuildStage>(
            "metadata.prebuilt_workspace_build_stage",
            metadata.prebuilt_workspace_build_stage,
        )?;
        Ok(Self {
            coder_url: metadata.coder_url,
            transition: transition.into(),
            workspace_name: metadata.workspace_name,
            workspace_owner: metadata.workspace_owner,
            workspace_id: metadata.workspace_id,
            workspace_owner_id: metadata.workspace_owner_id,
            workspace_owner_email: metadata.workspace_owner_email,
            template_name: metadata.template_name,
            template_version: metadata.template_version,
            owner_oidc_access_token: metadata.workspace_owner_oidc_access_token.into(),
            owner_session_token: metadata.workspace_owner_session_token.into(),
            template_id: metadata.template_id,
            workspace_owner_name: metadata.workspace_owner_name,
            owner_groups: metadata.workspace_owner_groups,
            owner_ssh_public_key: metadata.workspace_owner_ssh_public_key,
            owner_ssh_private_key: metadata.workspace_owner_ssh_private_key.into(),
            build_id: metadata.workspace_build_id,
            owner_login_type: metadata.workspace_owner_login_type,
            owner_roles: all(metadata.workspace_owner_rbac_roles, |role| {
                Ok::<_, FieldError>(Role {
                    name: role.name,
                    organization_id: role.org_id,
                })
            })?,
            prebuilt_stage: stage.into(),
            running_agent_tokens: all(metadata.running_agent_auth_tokens, |token| {
                Ok::<_, FieldError>(RunningAgentToken {
                    agent_id: token.agent_id,
                    token: token.token.into(),
                })
            })?,
            task_id: metadata.task_id,
            task_prompt: metadata.task_prompt,
            template_version_id: metadata.template_version_id,
            template_version_modules_file: metadata.template_version_modules_file,
        })
    }
}

impl From<Metadata> for wire::Metadata {
    fn from(metadata: Metadata) -> Self {
        let role = |role: Role| wire::Role {
            name: role.name,
            org_id: role.organization_id,
        };
        let token = |token: RunningAgentToken| wire::RunningAgentAuthToken {
            agent_id: token.agent_id,
            token: token.token.expose().to_owned(),
        };
        Self {
            coder_url: metadata.coder_url,
            workspace_transition: wire::WorkspaceTransition::from(metadata.transition).into(),
            workspace_name: metadata.workspace_name,
            workspace_owner: metadata.workspace_owner,
            workspace_id: metadata.workspace_id,
            workspace_owner_id: metadata.workspace_owner_id,
            workspace_owner_email: metadata.workspace_owner_email,
            template_name: metadata.template_name,
            template_version: metadata.template_version,
            workspace_owner_oidc_access_token: metadata.owner_oidc_access_token.expose().to_owned(),
            workspace_owner_session_token: metadata.owner_session_token.expose().to_owned(),
            template_id: metadata.template_id,
            workspace_owner_name: metadata.workspace_owner_name,
            workspace_owner_groups: metadata.owner_groups,
            workspace_owner_ssh_public_key: metadata.owner_ssh_public_key,
            workspace_owner_ssh_private_key: metadata.owner_ssh_private_key.expose().to_owned(),
            workspace_build_id: metadata.build_id,
            workspace_owner_login_type: metadata.owner_login_type,
            workspace_owner_rbac_roles: metadata.owner_roles.into_iter().map(role).collect(),
            prebuilt_workspace_build_stage: wire::PrebuiltWorkspaceBuildStage::from(
                metadata.prebuilt_stage,
            )
            .into(),
            running_agent_auth_tokens: metadata
                .running_agent_tokens
                .into_iter()
                .map(token)
                .collect(),
            task_id: metadata.task_id,
            task_prompt: metadata.task_prompt,
            template_version_id: metadata.template_version_id,
            template_version_modules_file: metadata.template_version_modules_file,
        }
    }
}

/// Enums whose members are the same on either side.
macro_rules! same_enum {
    ($ours:ty, $wire:ty, $($our_member:ident = $wire_member:ident),+ $(,)?) => {
        impl From<$wire> for $ours {
            fn from(value: $wire) -> Self {
                match value {
                    $(<$wire>::$wire_member => <$ours>::$our_member,)+
                }
            }
        }

        impl From<$ours> for $wire {
            fn from(value: $ours) -> Self {
                match value {
                    $(<$ours>::$our_member => <$wire>::$wire_member,)+
                }
            }
        }
    };
}
pub(super) use same_enum;

same_enum!(
    Transition,
    wire::WorkspaceTransition,
    Start = Start,
    Stop = Stop,
    Destroy = Destroy
);
same_enum!(
    PrebuiltStage,
    wire::PrebuiltWorkspaceBuildStage,
    None = None,
    Create = Create,
    Claim = Claim
);

impl From<wire::RichParameterValue> for ParameterValue {
    fn from(value: wire::RichParameterValue) -> Self {
        Self {
            name: value.name,
            value: value.value,
        }
    }
}

impl From<ParameterValue> for wire::RichParameterValue {
    fn from(value: ParameterValue) -> Self {
        Self {
            name: value.name,
            value: value.value,
        }
    }
}

impl From<wire::VariableValue> for VariableValue {
    fn from(value: wire::VariableValue) -> Self {
        Self {
            name: value.name,
            value: value.value.into(),
            sensitive: value.sensitive,
        }
    }
}

impl From<VariableValue> for wire::VariableValue {
    fn from(value: VariableValue) -> Self {
        Self {
            name: value.name,
            value: value.value.expose().to_owned(),
            sensitive: value.sensitive,
        }
    }
}

impl From<wire::ExternalAuthProvider> for ExternalAuth {
    fn from(auth: wire::ExternalAuthProvider) -> Self {
        Self {
            id: auth.id,
            access_token: auth.access_token.into(),
        }
    }
}

impl From<ExternalAuth> for wire::ExternalAuthProvider {
    fn from(auth: ExternalAuth) -> Self {
        Self {
            id: auth.id,
            access_token: auth.access_token.expose().to_owned(),
        }
    }
}
