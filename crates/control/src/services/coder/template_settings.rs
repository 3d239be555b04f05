//! Changes of a template's settings by Coder's clients, which send all settings whenever one changes. This server's
//! templates have a name, and none of the others.
//!
//! # Source
//! coder `codersdk/templates.go` `UpdateTemplateMeta`, `cli/templateedit.go`.

use serde_json::{Map, Value};

/// Names of settings in `asked` that differ from those in `described`, except for the template's name. Settings that
/// are off count as equal to missing ones.
pub(super) fn unsupported(asked: &Map<String, Value>, described: &Value) -> Vec<String> {
    let differs = |(name, value): &(&String, &Value)| {
        let now = &described[name.as_str()];
        *name != "name" && *value != now && !(is_off(value) && is_off(now))
    };
    let changed = asked.iter().filter(differs);
    let mut names: Vec<_> = changed.map(|(name, _)| name.clone()).collect();
    names.sort();
    names
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_on) => !is_on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.values().all(is_off),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_settings_that_would_change_are_named() {
        let described = json!({
            "name": "small", "display_name": "", "default_ttl_ms": 0,
            "autostop_requirement": { "days_of_week": [], "weeks": 0 }, "allow_user_cancel_workspace_jobs": true,
        });
        let changed = |asked: Value| {
            let mut all = described.as_object().unwrap().clone();
            all.extend(asked.as_object().unwrap().clone());
            unsupported(&all, &described)
        };

        let same = json!({ "name": "large", "failure_ttl_ms": 0, "deprecation_message": null });
        assert!(changed(same).is_empty());
        let others = json!({
            "display_name": "Small", "allow_user_cancel_workspace_jobs": false, "failure_ttl_ms": 1000,
            "autostop_requirement": { "days_of_week": ["monday"], "weeks": 1 },
        });
        let names = [
            "allow_user_cancel_workspace_jobs",
            "autostop_requirement",
            "display_name",
            "failure_ttl_ms",
        ];
        assert_eq!(changed(others), names);
    }
}
