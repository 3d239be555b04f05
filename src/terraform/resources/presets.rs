//! Presets: named sets of answers, and workspaces to make in advance.

use super::{ConvertError, decode::Attributes, index::Index};
use crate::{
    job::{Parameter, ParameterValue, Prebuild, PrebuildSchedule, PrebuildScheduling, Preset},
    terraform::plan::ResourceValues,
};

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
    for preset in &presets {
        let is_unknown =
            |value: &&ParameterValue| !parameters.iter().any(|known| known.name == value.name);
        warnings.extend(preset.parameters.iter().filter(is_unknown).map(|value| {
            format!(
                "preset {:?} answers {:?}, which no coder_parameter asks",
                preset.name, value.name
            )
        }));
    }
    Ok(presets)
}

fn read(resource: &ResourceValues) -> Result<Preset, ConvertError> {
    let values = Attributes::new("decode preset attributes", &resource.values);
    let parameters = values.strings("parameters")?.into_iter();
    Ok(Preset {
        name: values.string("name")?,
        description: values.string("description")?,
        icon: values.string("icon")?,
        default: values.bool("default")?,
        parameters: parameters
            .map(|(name, value)| ParameterValue { name, value })
            .collect(),
        prebuild: values
            .objects("prebuilds")?
            .first()
            .map_or(Ok(Prebuild::default()), read_prebuild)?,
    })
}

fn read_prebuild(block: &Attributes<'_>) -> Result<Prebuild, ConvertError> {
    let policy = block.objects("expiration_policy")?;
    let scheduling = block.objects("scheduling")?;
    Ok(Prebuild {
        instances: block.i32("instances")?,
        expiration_ttl: policy.first().map(|policy| policy.i32("ttl")).transpose()?,
        scheduling: scheduling.first().map(read_scheduling).transpose()?,
    })
}

fn read_scheduling(block: &Attributes<'_>) -> Result<PrebuildScheduling, ConvertError> {
    let schedule = |schedule: &Attributes<'_>| {
        Ok::<_, ConvertError>(PrebuildSchedule {
            cron: schedule.string("cron")?,
            instances: schedule.i32("instances")?,
        })
    };
    Ok(PrebuildScheduling {
        timezone: block.string("timezone")?,
        schedules: block
            .objects("schedule")?
            .iter()
            .map(schedule)
            .collect::<Result<_, _>>()?,
    })
}
