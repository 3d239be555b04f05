//! External needs of a template: tokens of external services, AI tasks, and external agents.

use std::collections::BTreeMap;

use outpost_base::job::{AiTask, ExternalAuthRequirement};
use serde_json::Value;

use super::{
    ConvertError,
    decode::{Attributes, decode},
    index::Index,
};
use crate::{graph::Graph, plan::ResourceValues};

/// Returns external services by id; the newer of two types replaces the older.
pub(super) fn auth(index: &Index<'_>) -> Result<Vec<ExternalAuthRequirement>, ConvertError> {
    let mut by_id = BTreeMap::new();
    let resources = index
        .of_type("coder_git_auth")
        .chain(index.of_type("coder_external_auth"));
    for resource in resources {
        let id = resource
            .values
            .get("id")
            .and_then(Value::as_str)
            .ok_or(ConvertError::ExternalAuthId)?;
        let optional = resource.values.get("optional") == Some(&Value::Bool(true));
        by_id.insert(id, optional);
    }
    let requirement = |(id, optional): (&str, bool)| ExternalAuthRequirement {
        id: id.to_owned(),
        optional,
    };
    Ok(by_id.into_iter().map(requirement).collect())
}

/// Returns AI tasks in the order of the document. A task without an app has that of its sidebar.
pub(super) fn ai_tasks(index: &Index<'_>) -> Result<Vec<AiTask>, ConvertError> {
    let task = |resource: &&ResourceValues| {
        decode(
            "decode coder_ai_task attributes",
            &resource.values,
            read_task,
        )
    };
    let tasks: Result<_, _> = index.in_order("coder_ai_task").iter().map(task).collect();
    Ok(tasks?)
}

fn read_task(values: &Attributes<'_>) -> AiTask {
    values.string("prompt");
    let sidebars = values.objects("sidebar_app");
    let sidebars: Vec<_> = sidebars.iter().map(|app| app.string("id")).collect();
    let mut app_id = values.string("app_id");
    if app_id.is_empty() {
        app_id = sidebars.into_iter().next().unwrap_or_default();
    }
    AiTask {
        id: values.string("id"),
        app_id,
    }
}

/// Returns whether the graph contains an external agent, even if its `count` is 0.
pub(super) fn has_agents(graph: &Graph) -> bool {
    graph.labels().any(|label| {
        label.starts_with("coder_external_agent.") || label.contains(".coder_external_agent.")
    })
}
