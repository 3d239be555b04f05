//! Parameters of a template with their allowed values, and presets with theirs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::output::Row;
use crate::proto::{outpost::v1::ParameterValue, provisioner};

/// A parameter of a template.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct ParameterRow {
    name: String,
    display_name: String,
    #[serde(rename = "type")]
    kind: String,
    default: String,
    required: bool,
    mutable: bool,
    ephemeral: bool,
    description: String,
    /// Values that are allowed; empty for any.
    options: Vec<Choice>,
}

/// A parameter with its value in a build.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct AnsweredParameter {
    #[serde(flatten)]
    parameter: ParameterRow,
    value: String,
}

/// A value that a parameter allows.
#[derive(Debug, Serialize)]
struct Choice {
    name: String,
    value: String,
    description: String,
}

impl From<provisioner::RichParameter> for ParameterRow {
    fn from(parameter: provisioner::RichParameter) -> Self {
        let choice = |option: provisioner::RichParameterOption| Choice {
            name: option.name,
            value: option.value,
            description: option.description,
        };
        Self {
            name: parameter.name,
            display_name: parameter.display_name,
            kind: parameter.r#type,
            default: parameter.default_value,
            required: parameter.required,
            mutable: parameter.mutable,
            ephemeral: parameter.ephemeral,
            description: parameter.description,
            options: parameter.options.into_iter().map(choice).collect(),
        }
    }
}

impl ParameterRow {
    /// The default, or a note that there is none.
    fn default_cell(&self) -> String {
        match self.required {
            true => "(required)".to_owned(),
            false => self.default.clone(),
        }
    }

    /// When the value may change.
    fn changes(&self) -> String {
        let changes = match (self.ephemeral, self.mutable) {
            (true, _) => "one build",
            (false, true) => "any time",
            (false, false) => "never",
        };
        changes.to_owned()
    }
}

impl AnsweredParameter {
    /// The parameter with its answer, or else its default.
    pub(in crate::cli) fn new(
        parameter: provisioner::RichParameter,
        answers: &[ParameterValue],
    ) -> Self {
        let answer = answers.iter().find(|it| it.name == parameter.name);
        let value = answer
            .map_or(&parameter.default_value, |it| &it.value)
            .clone();
        Self {
            parameter: parameter.into(),
            value,
        }
    }
}

impl Row for AnsweredParameter {
    const COLUMNS: &'static [&'static str] = &[
        "Parameter",
        "Type",
        "Value",
        "Default",
        "Changes",
        "Meaning",
    ];

    fn cells(&self) -> Vec<String> {
        let Self { parameter, value } = self;
        vec![
            parameter.name.clone(),
            parameter.kind.clone(),
            value.clone(),
            parameter.default_cell(),
            parameter.changes(),
            parameter.description.clone(),
        ]
    }
}

impl Choice {
    /// Formats the value to pass, followed by its name for people where that differs.
    fn summary(&self) -> String {
        match self.name == self.value {
            true => self.value.clone(),
            false => format!("{} ({})", self.value, self.name),
        }
    }
}

impl Row for ParameterRow {
    const COLUMNS: &'static [&'static str] = &[
        "Parameter",
        "Type",
        "Default",
        "Options",
        "Changes",
        "Meaning",
    ];

    fn cells(&self) -> Vec<String> {
        let options: Vec<_> = self.options.iter().map(Choice::summary).collect();
        vec![
            self.name.clone(),
            self.kind.clone(),
            self.default_cell(),
            options.join("\n"),
            self.changes(),
            self.description.clone(),
        ]
    }
}

/// A preset: a named set of parameter values.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Preset {
    name: String,
    description: String,
    /// Set if the preset is selected by default.
    default: bool,
    /// Number of prebuilt workspaces for it.
    prebuilds: i32,
    parameters: BTreeMap<String, String>,
}

impl From<provisioner::Preset> for Preset {
    fn from(preset: provisioner::Preset) -> Self {
        let answer = |answer: provisioner::PresetParameter| (answer.name, answer.value);
        Self {
            name: preset.name,
            description: preset.description,
            default: preset.default,
            prebuilds: preset.prebuild.map_or(0, |prebuild| prebuild.instances),
            parameters: preset.parameters.into_iter().map(answer).collect(),
        }
    }
}

impl Row for Preset {
    const COLUMNS: &'static [&'static str] = &["Preset", "Default", "Prebuilds", "Values"];

    fn cells(&self) -> Vec<String> {
        let default = if self.default { "yes" } else { "" };
        let prebuilds = match self.prebuilds {
            0 => String::new(),
            count => count.to_string(),
        };
        let values = self.parameters.iter();
        let values: Vec<_> = values
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        vec![
            self.name.clone(),
            default.to_owned(),
            prebuilds,
            values.join("\n"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_listed_by_the_value_to_pass() {
        let option = |name: &str, value: &str| provisioner::RichParameterOption {
            name: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        };
        let parameter = ParameterRow::from(provisioner::RichParameter {
            name: "region".to_owned(),
            options: vec![option("Europe", "eu"), option("us", "us")],
            ..Default::default()
        });

        assert_eq!(parameter.cells()[3], "eu (Europe)\nus");
    }

    #[test]
    fn presets_tell_their_values() {
        let answer = |name: &str, value: &str| provisioner::PresetParameter {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let preset = Preset::from(provisioner::Preset {
            name: "large".to_owned(),
            default: true,
            parameters: vec![answer("size", "9"), answer("region", "a, b")],
            ..Default::default()
        });

        assert_eq!(preset.cells(), ["large", "yes", "", "region=a, b\nsize=9"]);
    }
}
