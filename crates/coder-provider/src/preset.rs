//! The data source `coder_workspace_preset`, a named set of parameter values.

use outpost_plugin::{Diagnostic, Field, Schema, Shape, computed, list, optional, required, set};
use outpost_value::Object;

use crate::{
    check, go,
    resource::{Call, DataSource},
    schedule,
};

/// Lifetime of a prebuilt workspace in seconds: from an hour to a year, or zero forever.
const TTL: std::ops::RangeInclusive<i64> = 3600..=31_536_000;

pub(super) fn workspace_preset() -> DataSource {
    DataSource { schema, read }
}

fn schema() -> Schema {
    Schema::new(
        "Answers to the template's questions that users can choose by one name. Questions it does not answer are \
         asked as ever.",
        vec![
            optional("default", Shape::Bool, "Whether the preset is preselected; at most one of a template can be.")
                .default(false),
            optional("description", Shape::String, "Description shown to users below the name.")
                .check(check::length(128)),
            optional("icon", Shape::String, "The URL of an icon.")
                .check(check::url)
                .check(check::length(256)),
            computed("id", Shape::String, "Name of the preset; prefer `name`."),
            required("name", Shape::String, "Name of the preset.").check(check::not_empty),
            optional("parameters", Shape::Map, "Values of parameters by name."),
            prebuilds(),
        ],
    )
    .version(1)
}

fn prebuilds() -> Field {
    let ttl = required(
        "ttl",
        Shape::Int,
        "Time in seconds after which an unclaimed workspace is deleted; 0 disables expiration.",
    )
    .check(check::number(check_ttl));
    set(
        "prebuilds",
        "Prebuilt workspaces, which users can claim without waiting for a build.",
        vec![
            required(
                "instances",
                Shape::Int,
                "Number of workspaces to keep ready.",
            )
            .check(check::at_least(0)),
            set(
                "expiration_policy",
                "Expiration of unclaimed workspaces.",
                vec![ttl],
            )
            .at_most(1),
            scheduling(),
        ],
    )
    .at_most(1)
}

fn scheduling() -> Field {
    let schedule = list(
        "schedule",
        "Time range with a different number of workspaces.",
        vec![
            required(
                "cron",
                Shape::String,
                "Time range in cron format: `*` for the minute, then hour, day, month and weekday.",
            )
            .check(check::text(schedule::check)),
            required(
                "instances",
                Shape::Int,
                "Number of workspaces to keep ready during the time range.",
            ),
        ],
    );
    let timezone = required(
        "timezone",
        Shape::String,
        "IANA name of the schedules' time zone.",
    )
    .check(check::text(check_timezone));
    list(
        "scheduling",
        "Different numbers of workspaces at certain times.",
        vec![timezone, schedule.at_least(1)],
    )
    .at_most(1)
}

fn check_timezone(name: &str) -> Result<(), String> {
    go::check_timezone(name).map_err(|error| format!("failed to load timezone {name:?}: {error}"))
}

fn check_ttl(argument: &str, seconds: i64) -> Result<(), String> {
    match seconds == 0 || TTL.contains(&seconds) {
        true => Ok(()),
        false => Err(format!(
            "{argument:?} must be 0 or between {} and {}, got {seconds}",
            TTL.start(),
            TTL.end()
        )),
    }
}

fn read(state: &mut Object, call: &Call<'_>) -> Result<(), Diagnostic> {
    let crons: Vec<&str> = call
        .config
        .blocks("prebuilds")
        .flat_map(|prebuild| prebuild.blocks("scheduling"))
        .flat_map(|scheduling| scheduling.blocks("schedule"))
        .filter_map(|schedule| schedule.text("cron"))
        .collect();
    schedule::check_overlaps(&crons).map_err(|error| {
        Diagnostic::error(format!("schedules overlap with each other: {error}"))
    })?;
    state.set("id", call.config.text("name").unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{self, context};

    fn read_with(crons: [&str; 2]) -> Result<Object, String> {
        let nested = |name, blocks: Vec<Object>| {
            let mut object = Object::new();
            object.set_blocks(name, blocks);
            object
        };
        let schedules = crons.map(|cron| Object::from([("cron", cron)]));
        let scheduling = nested("schedule", schedules.to_vec());
        let prebuild = nested("scheduling", vec![scheduling]);
        let mut preset = nested("prebuilds", vec![prebuild]);
        preset.set("name", "big");
        tests::read(&workspace_preset(), preset, &context(&[]))
    }

    #[test]
    fn a_presets_id_is_its_name() {
        let preset = read_with(["* 8-12 * * *", "* 13-18 * * *"]).unwrap();

        assert_eq!(preset.text("id"), Some("big"));
    }

    #[test]
    fn schedules_that_overlap_are_refused() {
        assert_eq!(
            read_with(["* 8-12 * * *", "* 12-18 * * *"]).unwrap_err(),
            "schedules overlap with each other: schedules overlap: * 8-12 * * * and * 12-18 * * *"
        );
    }

    #[test]
    fn a_prebuild_lives_for_ever_or_from_an_hour_to_a_year() {
        for (seconds, ok) in [
            (0, true),
            (3600, true),
            (31_536_000, true),
            (3599, false),
            (-1, false),
            (31_536_001, false),
        ] {
            assert_eq!(check_ttl("ttl", seconds).is_ok(), ok, "{seconds}");
        }
    }
}
