//! The resource `coder_ai_task` and the data source `coder_task`.

use outpost_plugin::{
    Diagnostic, Diagnostics, Field, Outcome, Schema, Shape, computed, optional, required, set,
};
use outpost_value::Object;
use uuid::Uuid;

use crate::{
    check,
    context::Context,
    resource::{Call, DataSource, Resource, new_id},
};

const DEPRECATED: &str = "Coder deprecated tasks in 2.34 and will remove them; use Coder Agents instead: \
                          https://coder.com/docs/ai-coder/agents/tasks-to-chats-migration";
const DEPRECATED_ARGUMENT: &str = "Coder deprecated tasks in 2.34 and will remove them.";
const SIDEBAR_APP: &str =
    "Replaced by `app_id`. Coder deprecated tasks in 2.34 and will remove them.";

pub(super) fn ai_task() -> Resource {
    Resource {
        create,
        ..Resource::plain(ai_task_schema)
    }
}

fn ai_task_schema() -> Schema {
    Schema::new("Task of an AI agent in the workspace.", ai_task_fields())
        .version(1)
        .deprecated(DEPRECATED)
}

fn ai_task_fields() -> Vec<Field> {
    let app = required("id", Shape::String, "The app's `id`.")
        .deprecated(DEPRECATED_ARGUMENT)
        .check(check::uuid);
    vec![
        optional(
            "app_id",
            Shape::String,
            "The `id` of the app that displays the task.",
        )
        .optional_computed()
        .deprecated(DEPRECATED_ARGUMENT)
        .check(check::uuid)
        .conflicts(["sidebar_app"]),
        enabled(),
        computed("id", Shape::String, "ID of the task."),
        prompt(),
        set("sidebar_app", "App to show in the sidebar.", vec![app])
            .at_most(1)
            .deprecated(SIDEBAR_APP)
            .conflicts(["app_id"]),
    ]
}

fn enabled() -> Field {
    computed(
        "enabled",
        Shape::Bool,
        "Whether the workspace is built for a task. Requires Coder 2.28.",
    )
    .deprecated(DEPRECATED_ARGUMENT)
}

fn prompt() -> Field {
    computed(
        "prompt",
        Shape::String,
        "Prompt of the task. Requires Coder 2.28.",
    )
    .deprecated(DEPRECATED_ARGUMENT)
}

fn create(state: &mut Object, call: &Call<'_>) -> Outcome {
    let task = task_id(call.context).ok().flatten();
    state.set("enabled", task.is_some());
    state.set("id", task.map_or_else(new_id, |id| id.to_string()));
    let prompt = call.context.non_empty("CODER_TASK_PROMPT");
    state.set("prompt", prompt.map(str::to_owned));
    let sidebar = state
        .blocks("sidebar_app")
        .next()
        .and_then(|app| app.text("id"));
    let apps = [state.text("app_id"), sidebar].into_iter().flatten();
    let app = apps.map(str::to_owned).find(|app| !app.is_empty());
    match app {
        Some(app) => state.set("app_id", app),
        None => return Err(Diagnostic::error("'app_id' must be set").into()),
    }
    Ok(Diagnostics::none())
}

/// Returns the id of the task that this build is for, if there is one.
fn task_id(context: &Context) -> Result<Option<Uuid>, Diagnostic> {
    let Some(text) = context.non_empty("CODER_TASK_ID") else {
        return Ok(None);
    };
    let id: Uuid = text
        .parse()
        .map_err(|error| Diagnostic::error(format!("invalid CODER_TASK_ID {text:?}: {error}")))?;
    Ok(Some(id).filter(|id| !id.is_nil()))
}

pub(super) fn task() -> DataSource {
    DataSource {
        schema: || {
            let fields = vec![
                enabled(),
                computed(
                    "id",
                    Shape::String,
                    "ID of the task; a random one outside of a task.",
                ),
                prompt(),
            ];
            Schema::new("Task of the workspace that is being built.", fields).deprecated(DEPRECATED)
        },
        read: read_task,
    }
}

fn read_task(state: &mut Object, call: &Call<'_>) -> Result<(), Diagnostic> {
    let id = task_id(call.context)?.map(|_| call.context.text("CODER_TASK_ID").to_owned());
    state.set("enabled", id.is_some());
    state.set("id", id.unwrap_or_else(new_id));
    state.set("prompt", call.context.text("CODER_TASK_PROMPT"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{context, created, read};

    const ID: &str = "5d1d5a6a-5fbc-4d11-a1a1-000000000001";
    const NIL: &str = "00000000-0000-0000-0000-000000000000";

    #[test]
    fn a_task_is_known_by_its_id() {
        let environment = context(&[("CODER_TASK_ID", ID), ("CODER_TASK_PROMPT", "do it")]);

        let task = created(&ai_task(), Object::from([("app_id", ID)]), &environment).unwrap();

        assert_eq!(
            (task.text("id"), task.text("prompt")),
            (Some(ID), Some("do it"))
        );
        assert_eq!(task.flag("enabled"), Some(true));
    }

    #[test]
    fn without_an_id_there_is_no_task() {
        for environment in [&[][..], &[("CODER_TASK_ID", NIL)], &[("CODER_TASK_ID", "")]] {
            let environment = context(environment);
            let task = created(&ai_task(), Object::from([("app_id", ID)]), &environment).unwrap();
            assert_eq!(
                (task.flag("enabled"), task.text("prompt")),
                (Some(false), None)
            );
            let task = read(&task_source(), Object::new(), &environment).unwrap();
            assert_eq!(
                (task.flag("enabled"), task.text("prompt")),
                (Some(false), Some(""))
            );
        }
    }

    #[test]
    fn an_id_that_is_none_fails_the_data_source_only() {
        let environment = context(&[("CODER_TASK_ID", "x")]);

        assert!(created(&ai_task(), Object::from([("app_id", ID)]), &environment).is_ok());
        let error = read(&task_source(), Object::new(), &environment).unwrap_err();
        assert!(error.starts_with("invalid CODER_TASK_ID \"x\""), "{error}");
    }

    #[test]
    fn the_app_is_named_in_one_of_two_ways() {
        let mut sidebar = Object::new();
        sidebar.set_blocks("sidebar_app", [Object::from([("id", ID)])]);

        let task = created(&ai_task(), sidebar, &context(&[])).unwrap();
        assert_eq!(task.text("app_id"), Some(ID));
        let error = created(&ai_task(), Object::new(), &context(&[])).unwrap_err();
        assert_eq!(error, "'app_id' must be set");
    }

    fn task_source() -> DataSource {
        task()
    }
}
