//! Values available to conditions, from the result of a build.

mod agents;
mod resources;

use std::collections::BTreeMap;

use outpost_base::job::{Parameter, ParameterValue, Persistence, Preset, Resource};
use serde_json::{Map, Value, json};

pub(super) use self::resources::Row;

/// Result of one build.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The plan as `terraform show -json` prints it; null if there was nothing to plan.
    pub plan: Value,
    /// The state's file after the build; null for none.
    pub state: Value,
    /// Resources after the build.
    pub resources: Vec<Resource>,
    /// Resources before the build, for those that are gone.
    pub before: Vec<Resource>,
    /// Persistence of each resource by address; empty if nobody asks.
    pub persistence: BTreeMap<String, Persistence>,
    /// Parameters of the template.
    pub parameters: Vec<Parameter>,
    /// Answers that were passed to the build.
    pub answers: Vec<ParameterValue>,
    /// Presets of the template.
    pub presets: Vec<Preset>,
    /// Cost in whole units a day.
    pub daily_cost: i32,
}

impl Facts {
    /// The values of all roots.
    pub fn context(&self) -> BTreeMap<String, Value> {
        let roots = [
            ("agent", agents::agents(self)),
            ("resource", resources::resources(self)),
            ("parameter", self.parameters()),
            ("preset", self.presets()),
            ("tags", self.tags()),
            ("daily_cost", self.daily_cost.into()),
            ("variable", field_of_each(&self.plan["variables"])),
            ("output", self.outputs()),
        ];
        roots.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// The resources of a table: those of the build and those that it destroyed, by address.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        resources::rows(self)
    }

    fn parameters(&self) -> Value {
        let mut values: BTreeMap<&str, &Value> = BTreeMap::new();
        for data in self.data("coder_parameter") {
            if let Some(name) = data["name"].as_str() {
                values.insert(name, &data["value"]);
            }
        }
        let entry = |parameter: &Parameter| {
            let name = parameter.name.as_str();
            let answer = self.answers.iter().find(|answer| answer.name == name);
            let value = match (values.get(name), answer) {
                (Some(value), _) => Value::clone(value),
                (None, Some(answer)) => answer.value.clone().into(),
                (None, None) => parameter.default_value.clone().into(),
            };
            (name.to_owned(), parameter_value(parameter, value))
        };
        Value::Object(self.parameters.iter().map(entry).collect())
    }

    fn presets(&self) -> Value {
        let entry = |preset: &Preset| {
            let answers = preset.parameters.iter();
            let answers = answers.map(|it| (it.name.clone(), Value::from(it.value.clone())));
            let value = json!({
                "description": preset.description,
                "icon": preset.icon,
                "default": preset.default,
                "parameters": answers.collect::<Map<_, _>>(),
                "prebuilds": preset.prebuild.instances,
            });
            (preset.name.clone(), value)
        };
        Value::Object(self.presets.iter().map(entry).collect())
    }

    fn tags(&self) -> Value {
        let data = self.data("coder_workspace_tags").into_iter();
        let tags = data.filter_map(|values| values["tags"].as_object());
        Value::Object(
            tags.flatten()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )
    }

    /// Those of the state, as plans do not know all values; those of the plan without one.
    fn outputs(&self) -> Value {
        match self.state["outputs"].is_object() {
            true => field_of_each(&self.state["outputs"]),
            false => field_of_each(&self.plan["planned_values"]["outputs"]),
        }
    }

    /// Values of all data sources of a type.
    fn data(&self, kind: &str) -> Vec<&Value> {
        let mut found = Vec::new();
        let values = [
            &self.plan["prior_state"]["values"],
            &self.plan["planned_values"],
        ];
        for module in values {
            collect(&module["root_module"], kind, &mut found);
        }
        found
    }
}

fn collect<'v>(module: &'v Value, kind: &str, found: &mut Vec<&'v Value>) {
    let resources = module["resources"].as_array().into_iter().flatten();
    let wanted = resources.filter(|it| it["mode"] == "data" && it["type"] == kind);
    found.extend(wanted.map(|it| &it["values"]));
    for child in module["child_modules"].as_array().into_iter().flatten() {
        collect(child, kind, found);
    }
}

/// The field `value` of every member.
fn field_of_each(object: &Value) -> Value {
    let members = object.as_object().into_iter().flatten();
    Value::Object(
        members
            .map(|(name, it)| (name.clone(), it["value"].clone()))
            .collect(),
    )
}

fn parameter_value(parameter: &Parameter, value: Value) -> Value {
    let options = parameter.options.iter().map(|option| option.value.clone());
    json!({
        "type": parameter.kind,
        "default": parameter.default_value,
        "value": value,
        "mutable": parameter.mutable,
        "ephemeral": parameter.ephemeral,
        "required": parameter.required,
        "options": options.collect::<Vec<_>>(),
        "display_name": parameter.display_name,
        "description": parameter.description,
    })
}
