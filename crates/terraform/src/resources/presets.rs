//! Presets: named sets of parameter values, and prebuilt workspaces.

use std::collections::BTreeSet;

use outpost_base::job::{
    Parameter, ParameterValue, Prebuild, PrebuildSchedule, PrebuildScheduling, Preset,
};

use super::{
    ConvertError,
    decode::{Attributes, decode},
    index::Index,
};
use crate::plan::ResourceValues;

pub(super) fn collect(
    index: &Index<'_>,
    parameters: &[Parameter],
    warnings: &mut Vec<String>,
) -> Result<Vec<Preset>, ConvertError> {
    let presets = index
        .in_order("coder_workspace_preset")
        .iter()
        .map(|resource| read(resource));
    let presets = presets.collect::<Result<Vec<_>, _>>()?;
    let defaults = presets.iter().filter(|preset| preset.default).count();
    if defaults > 1 {
        return Err(ConvertError::DefaultPresets(defaults));
    }
    let known: BTreeSet<_> = parameters.iter().map(|known| &known.name).collect();
    for preset in &presets {
        let answers = preset.parameters.iter();
        let unknown = answers.filter(|answer| !known.contains(&answer.name));
        warnings.extend(unknown.map(|answer| {
            format!(
                "preset {:?} sets {:?}, which is not a coder_parameter of this template",
                preset.name, answer.name
            )
        }));
    }
    Ok(presets)
}

fn read(resource: &ResourceValues) -> Result<Preset, ConvertError> {
    let preset = decode("decode preset attributes", &resource.values, |values| {
        let blocks = values.objects("prebuilds");
        let prebuilds: Vec<_> = blocks.iter().map(read_prebuild).collect();
        let answer = |(name, value)| ParameterValue { name, value };
        Preset {
            name: values.string("name"),
            description: values.string("description"),
            icon: values.string("icon"),
            default: values.bool("default"),
            parameters: values
                .strings("parameters")
                .into_iter()
                .map(answer)
                .collect(),
            prebuild: prebuilds.into_iter().next().unwrap_or_default(),
        }
    })?;
    Ok(preset)
}

fn read_prebuild(block: &Attributes<'_>) -> Prebuild {
    let policies = block.objects("expiration_policy");
    let ttls: Vec<_> = policies
        .iter()
        .map(|policy| at_most_i32(policy.int("ttl")))
        .collect();
    let schedulings = block.objects("scheduling");
    let schedulings: Vec<_> = schedulings.iter().map(read_scheduling).collect();
    Prebuild {
        instances: at_most_i32(block.int("instances")),
        expiration_ttl: ttls.first().copied(),
        scheduling: schedulings.into_iter().next(),
    }
}

fn read_scheduling(block: &Attributes<'_>) -> PrebuildScheduling {
    let schedules = block.objects("schedule");
    let schedule = |schedule: &Attributes<'_>| PrebuildSchedule {
        cron: schedule.string("cron"),
        instances: at_most_i32(schedule.int("instances")),
    };
    PrebuildScheduling {
        timezone: block.string("timezone"),
        schedules: schedules.iter().map(schedule).collect(),
    }
}

/// Replaces large numbers by the maximum of the wire's type, as in the reference; small numbers are not limited.
fn at_most_i32(number: i64) -> i32 {
    number.min(i32::MAX.into()) as i32
}
