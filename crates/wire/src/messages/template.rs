//! Variables, parameters, presets, modules and external services of a template version.

use outpost_base::job::{
    ExternalAuthRequirement, FormType, Module, Parameter, ParameterOption, ParameterValue,
    Prebuild, PrebuildSchedule, PrebuildScheduling, Preset, TemplateVariable,
};

use super::{FieldError, all, into_all, job::same_enum, known};
use crate::proto::provisioner as wire;

same_enum!(
    FormType,
    wire::ParameterFormType,
    Default = Default,
    Error = FormError,
    Radio = Radio,
    Dropdown = Dropdown,
    Input = Input,
    Textarea = Textarea,
    Slider = Slider,
    Checkbox = Checkbox,
    Switch = Switch,
    TagSelect = Tagselect,
    MultiSelect = Multiselect,
);

impl From<wire::TemplateVariable> for TemplateVariable {
    fn from(variable: wire::TemplateVariable) -> Self {
        Self {
            name: variable.name,
            description: variable.description,
            kind: variable.r#type,
            default_value: variable.default_value,
            required: variable.required,
            sensitive: variable.sensitive,
        }
    }
}

impl From<TemplateVariable> for wire::TemplateVariable {
    fn from(variable: TemplateVariable) -> Self {
        Self {
            name: variable.name,
            description: variable.description,
            r#type: variable.kind,
            default_value: variable.default_value,
            required: variable.required,
            sensitive: variable.sensitive,
        }
    }
}

impl TryFrom<wire::RichParameter> for Parameter {
    type Error = FieldError;

    fn try_from(parameter: wire::RichParameter) -> Result<Self, FieldError> {
        Ok(Self {
            name: parameter.name,
            display_name: parameter.display_name,
            description: parameter.description,
            kind: parameter.r#type,
            form_type: known::<wire::ParameterFormType>(
                "parameter.form_type",
                parameter.form_type,
            )?
            .into(),
            mutable: parameter.mutable,
            default_value: parameter.default_value,
            icon: parameter.icon,
            options: into_all(parameter.options),
            validation_regex: parameter.validation_regex,
            validation_error: parameter.validation_error,
            validation_min: parameter.validation_min,
            validation_max: parameter.validation_max,
            validation_monotonic: parameter.validation_monotonic,
            required: parameter.required,
            order: parameter.order,
            ephemeral: parameter.ephemeral,
        })
    }
}

impl From<Parameter> for wire::RichParameter {
    fn from(parameter: Parameter) -> Self {
        Self {
            name: parameter.name,
            description: parameter.description,
            r#type: parameter.kind,
            mutable: parameter.mutable,
            default_value: parameter.default_value,
            icon: parameter.icon,
            options: into_all(parameter.options),
            validation_regex: parameter.validation_regex,
            validation_error: parameter.validation_error,
            validation_min: parameter.validation_min,
            validation_max: parameter.validation_max,
            validation_monotonic: parameter.validation_monotonic,
            required: parameter.required,
            display_name: parameter.display_name,
            order: parameter.order,
            ephemeral: parameter.ephemeral,
            form_type: wire::ParameterFormType::from(parameter.form_type).into(),
        }
    }
}

impl From<wire::RichParameterOption> for ParameterOption {
    fn from(option: wire::RichParameterOption) -> Self {
        Self {
            name: option.name,
            description: option.description,
            value: option.value,
            icon: option.icon,
        }
    }
}

impl From<ParameterOption> for wire::RichParameterOption {
    fn from(option: ParameterOption) -> Self {
        Self {
            name: option.name,
            description: option.description,
            value: option.value,
            icon: option.icon,
        }
    }
}

impl TryFrom<wire::Preset> for Preset {
    type Error = FieldError;

    fn try_from(preset: wire::Preset) -> Result<Self, FieldError> {
        let value = |value: wire::PresetParameter| ParameterValue {
            name: value.name,
            value: value.value,
        };
        Ok(Self {
            name: preset.name,
            description: preset.description,
            icon: preset.icon,
            default: preset.default,
            parameters: preset.parameters.into_iter().map(value).collect(),
            prebuild: preset.prebuild.unwrap_or_default().into(),
        })
    }
}

impl From<Preset> for wire::Preset {
    fn from(preset: Preset) -> Self {
        let value = |value: ParameterValue| wire::PresetParameter {
            name: value.name,
            value: value.value,
        };
        Self {
            name: preset.name,
            parameters: preset.parameters.into_iter().map(value).collect(),
            prebuild: Some(preset.prebuild.into()),
            default: preset.default,
            description: preset.description,
            icon: preset.icon,
        }
    }
}

impl From<wire::Prebuild> for Prebuild {
    fn from(prebuild: wire::Prebuild) -> Self {
        let schedule = |schedule: wire::Schedule| PrebuildSchedule {
            cron: schedule.cron,
            instances: schedule.instances,
        };
        let scheduling = |scheduling: wire::Scheduling| PrebuildScheduling {
            timezone: scheduling.timezone,
            schedules: scheduling.schedule.into_iter().map(schedule).collect(),
        };
        Self {
            instances: prebuild.instances,
            expiration_ttl: prebuild.expiration_policy.map(|policy| policy.ttl),
            scheduling: prebuild.scheduling.map(scheduling),
        }
    }
}

impl From<Prebuild> for wire::Prebuild {
    fn from(prebuild: Prebuild) -> Self {
        let schedule = |schedule: PrebuildSchedule| wire::Schedule {
            cron: schedule.cron,
            instances: schedule.instances,
        };
        let scheduling = |scheduling: PrebuildScheduling| wire::Scheduling {
            timezone: scheduling.timezone,
            schedule: scheduling.schedules.into_iter().map(schedule).collect(),
        };
        Self {
            instances: prebuild.instances,
            expiration_policy: prebuild
                .expiration_ttl
                .map(|ttl| wire::ExpirationPolicy { ttl }),
            scheduling: prebuild.scheduling.map(scheduling),
        }
    }
}

impl From<wire::Module> for Module {
    fn from(module: wire::Module) -> Self {
        Self {
            source: module.source,
            version: module.version,
            key: module.key,
        }
    }
}

impl From<Module> for wire::Module {
    /// The directory is ours alone, so it is never sent.
    fn from(module: Module) -> Self {
        Self {
            source: module.source,
            version: module.version,
            key: module.key,
            dir: String::new(),
        }
    }
}

impl From<wire::ExternalAuthProviderResource> for ExternalAuthRequirement {
    fn from(auth: wire::ExternalAuthProviderResource) -> Self {
        Self {
            id: auth.id,
            optional: auth.optional,
        }
    }
}

impl From<ExternalAuthRequirement> for wire::ExternalAuthProviderResource {
    fn from(auth: ExternalAuthRequirement) -> Self {
        Self {
            id: auth.id,
            optional: auth.optional,
        }
    }
}

/// Presets, in the server's order.
pub(super) fn presets(presets: Vec<wire::Preset>) -> Result<Vec<Preset>, FieldError> {
    all(presets, Preset::try_from)
}
