//! Input that a template version needs: variables, parameters, presets, modules.

use serde::{Deserialize, Serialize};

/// A Terraform input variable of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateVariable {
    /// Name of the variable in the template.
    pub name: String,
    /// Purpose of the variable, as the author describes it.
    pub description: String,
    /// The variable's type as the author wrote it, such as `list(string)`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The default value: a string as it is, anything else as compact JSON; empty for none.
    pub default_value: String,
    /// `true` if there is no default value, or if it is null.
    pub required: bool,
    /// `true` if the value must not be shown to people.
    pub sensitive: bool,
}

/// A `coder_parameter`, whose value is chosen by the person who creates a workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameter {
    /// Name of the parameter, unique in the template.
    pub name: String,
    /// Name that people read.
    pub display_name: String,
    /// Description of the parameter in Markdown.
    pub description: String,
    /// Type of the parameter: `string`, `number`, `bool` or `list(string)`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Form control that a user interface shows.
    pub form_type: FormType,
    /// `true` if the value may change after the first build.
    pub mutable: bool,
    /// Value if none is given; empty if `required`.
    pub default_value: String,
    /// URL of the parameter's icon.
    pub icon: String,
    /// Values that are allowed; empty for any.
    pub options: Vec<ParameterOption>,
    /// Regular expression that strings must match; empty for none.
    pub validation_regex: String,
    /// Message that is shown if validation fails.
    pub validation_error: String,
    /// Smallest number that is allowed.
    pub validation_min: Option<i32>,
    /// Largest number that is allowed.
    pub validation_max: Option<i32>,
    /// Direction in which a number may change: `increasing`, `decreasing`, or empty for any.
    pub validation_monotonic: String,
    /// `true` if there is no default value.
    pub required: bool,
    /// Position among the template's parameters.
    pub order: i32,
    /// `true` if the value applies to one build only.
    pub ephemeral: bool,
}

/// A value that a parameter may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParameterOption {
    /// Name that people read.
    pub name: String,
    /// Description of the option in Markdown.
    pub description: String,
    /// Value of the parameter if this option is chosen.
    pub value: String,
    /// URL of the option's icon.
    pub icon: String,
}

/// Form control for a parameter. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is the name of a form control")]
pub enum FormType {
    #[default]
    Default = 0,
    Error = 1,
    Radio = 2,
    Dropdown = 3,
    Input = 4,
    Textarea = 5,
    Slider = 6,
    Checkbox = 7,
    Switch = 8,
    TagSelect = 9,
    MultiSelect = 10,
}

/// A named set of parameter values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preset {
    /// Name of the preset, unique in the template.
    pub name: String,
    /// Purpose of the preset, as the author describes it.
    pub description: String,
    /// URL of the preset's icon.
    pub icon: String,
    /// `true` if the preset is offered first; at most one is.
    pub default: bool,
    /// Parameter values, sorted by parameter name.
    pub parameters: Vec<super::ParameterValue>,
    /// Prebuilt workspaces with this preset.
    pub prebuild: Prebuild,
}

/// Number and lifetime of a preset's prebuilt workspaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prebuild {
    /// Number of prebuilt workspaces.
    pub instances: i32,
    /// Seconds after which a prebuilt workspace is replaced; `None` without an expiration policy.
    pub expiration_ttl: Option<i32>,
    /// Schedule with other numbers of prebuilt workspaces.
    pub scheduling: Option<PrebuildScheduling>,
}

/// Other numbers of prebuilt workspaces at certain times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrebuildScheduling {
    /// Time zone of the schedules, an IANA name such as `Europe/Berlin`.
    pub timezone: String,
    /// Schedules that do not overlap.
    pub schedules: Vec<PrebuildSchedule>,
}

/// Number of prebuilt workspaces at certain times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrebuildSchedule {
    /// Times in five fields; the minute is `*`.
    pub cron: String,
    /// Number of prebuilt workspaces at these times.
    pub instances: i32,
}

/// A module that a template calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Module {
    /// Source of the module, as the author wrote it.
    pub source: String,
    /// Version that was selected; empty for sources without versions.
    pub version: String,
    /// Names of the module calls that lead to the module, joined by dots.
    pub key: String,
}

/// An external service whose token a template needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExternalAuthRequirement {
    /// Id of the external auth provider at the server.
    pub id: String,
    /// `true` if the workspace can be built without the token.
    pub optional: bool,
}
