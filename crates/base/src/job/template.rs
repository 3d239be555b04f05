//! What a template version asks of people: variables, parameters, presets, modules.

use serde::{Deserialize, Serialize};

/// A Terraform input variable of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateVariable {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its type as the author wrote it, such as `list(string)`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A string as it is, anything else as compact JSON; empty for none.
    pub default_value: String,
    /// Whether it has no default, or a null one.
    pub required: bool,
    /// Whether people must not see it.
    pub sensitive: bool,
}

/// A `coder_parameter`: a question to whoever makes a workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Unique in the template.
    pub name: String,
    /// What people read.
    pub display_name: String,
    /// Markdown.
    pub description: String,
    /// `string`, `number`, `bool` or `list(string)`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How it is asked.
    pub form_type: FormType,
    /// Whether the answer may change after the first build.
    pub mutable: bool,
    /// The answer if none is given; empty if `required`.
    pub default_value: String,
    /// URL of a picture.
    pub icon: String,
    /// The answers that are allowed; empty for any.
    pub options: Vec<ParameterOption>,
    /// A regular expression for strings; empty for none.
    pub validation_regex: String,
    /// What to say when validation fails.
    pub validation_error: String,
    /// The smallest number.
    pub validation_min: Option<i32>,
    /// The largest number.
    pub validation_max: Option<i32>,
    /// `increasing`, `decreasing` or empty.
    pub validation_monotonic: String,
    /// Whether there is no default.
    pub required: bool,
    /// Its place among parameters.
    pub order: i32,
    /// Whether the answer counts for one build only.
    pub ephemeral: bool,
}

/// One allowed answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterOption {
    /// What people read.
    pub name: String,
    /// Markdown.
    pub description: String,
    /// The answer.
    pub value: String,
    /// URL of a picture.
    pub icon: String,
}

/// How a parameter is asked. The numbers are those of the wire.
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

/// A named set of answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preset {
    /// Unique in the template.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// URL of a picture.
    pub icon: String,
    /// Whether it is offered first; at most one is.
    pub default: bool,
    /// The answers, sorted by parameter name.
    pub parameters: Vec<super::ParameterValue>,
    /// Workspaces to make in advance.
    pub prebuild: Prebuild,
}

/// Workspaces to make in advance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prebuild {
    /// How many.
    pub instances: i32,
    /// Seconds after which one is made anew; `None` without a policy.
    pub expiration_ttl: Option<i32>,
    /// Other numbers at other times.
    pub scheduling: Option<PrebuildScheduling>,
}

/// Other numbers of prebuilt workspaces at other times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrebuildScheduling {
    /// An IANA name, such as `Europe/Berlin`.
    pub timezone: String,
    /// The rules; they do not overlap.
    pub schedules: Vec<PrebuildSchedule>,
}

/// How many prebuilt workspaces there are at certain times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrebuildSchedule {
    /// Five fields; the minute is `*`.
    pub cron: String,
    /// How many.
    pub instances: i32,
}

/// A module that a template calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Where it comes from, as the author wrote it.
    pub source: String,
    /// The version that was chosen; empty for sources without versions.
    pub version: String,
    /// Its path of calls, joined by dots.
    pub key: String,
}

/// An external service that a template needs a token of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExternalAuthRequirement {
    /// The provider's id at the server.
    pub id: String,
    /// Whether the workspace can be built without.
    pub optional: bool,
}
