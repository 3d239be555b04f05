//! The data sources `coder_workspace` and `coder_workspace_owner`.

use outpost_plugin::{Diagnostic, Field, Schema, Shape, computed};
use outpost_value::{Object, Value};
use serde::Deserialize;
use serde_json::Deserializer;

use crate::{
    context::Context,
    resource::{Call, DataSource, new_id},
};

pub(super) fn workspace() -> DataSource {
    DataSource {
        schema: || Schema::new("Workspace that is being built.", workspace_fields()).version(1),
        read: read_workspace,
    }
}

fn workspace_fields() -> Vec<Field> {
    let text = |name, description| computed(name, Shape::String, description);
    let flag = |name, description| computed(name, Shape::Bool, description);
    let number = |name, description| computed(name, Shape::Int, description);
    vec![
        number("access_port", "Port of the server's URL."),
        text("access_url", "URL of the server, without a trailing slash."),
        text("id", "ID of the workspace."),
        flag(
            "is_prebuild",
            "Whether this is an unclaimed prebuilt workspace.",
        ),
        flag(
            "is_prebuild_claim",
            "Whether a prebuilt workspace is being claimed.",
        ),
        text("name", "Name of the workspace."),
        number("prebuild_count", "1 if `is_prebuild`, else 0; for `count`."),
        number("start_count", "1 if it is started, else 0; for `count`."),
        text("template_id", "ID of the template."),
        text("template_name", "Name of the template."),
        text("template_version", "Version of the template."),
        text(
            "transition",
            "Transition of the workspace: `start`, `stop` or `destroy`.",
        ),
    ]
}

fn read_workspace(state: &mut Object, call: &Call<'_>) -> Result<(), Diagnostic> {
    let context = call.context;
    let or = |name, default: &str| context.non_empty(name).unwrap_or(default).to_owned();
    let transition = or("CODER_WORKSPACE_TRANSITION", "start");
    let is_true = |name| context.text(name).eq_ignore_ascii_case("true");
    let claim = is_true("CODER_WORKSPACE_IS_PREBUILD_CLAIM");
    // A claim follows the prebuild, so it has priority.
    let prebuild = is_true("CODER_WORKSPACE_IS_PREBUILD") && !claim;
    state.set("start_count", i64::from(transition == "start"));
    state.set("transition", transition);
    state.set("prebuild_count", i64::from(prebuild));
    state.set("is_prebuild", prebuild);
    state.set("is_prebuild_claim", claim);
    state.set("name", or("CODER_WORKSPACE_NAME", "default"));
    state.set(
        "id",
        context
            .non_empty("CODER_WORKSPACE_ID")
            .map_or_else(new_id, str::to_owned),
    );
    for (name, variable, what) in TEMPLATE {
        let value = context.required(variable);
        let value = value.map_err(|e| Diagnostic::error(format!("{what} is missing: {e}")))?;
        state.set(name, value.to_owned());
    }
    state.set("access_url", context.url.0.clone());
    state.set("access_port", port(context)?);
    Ok(())
}

const TEMPLATE: [(&str, &str, &str); 3] = [
    ("template_id", "CODER_WORKSPACE_TEMPLATE_ID", "template ID"),
    (
        "template_name",
        "CODER_WORKSPACE_TEMPLATE_NAME",
        "template name",
    ),
    (
        "template_version",
        "CODER_WORKSPACE_TEMPLATE_VERSION",
        "template version",
    ),
];

fn port(context: &Context) -> Result<i64, Diagnostic> {
    let url = &context.url.1;
    match (url.port(), url.scheme.as_str()) {
        ("", "https") => Ok(443),
        ("", _) => Ok(80),
        (port, _) => port
            .parse()
            .map_err(|_| Diagnostic::error(format!("couldn't parse port {port:?}"))),
    }
}

pub(super) fn owner() -> DataSource {
    DataSource {
        schema: || {
            Schema::new(
                "Owner of the workspace that is being built.",
                owner_fields(),
            )
        },
        read: read_owner,
    }
}

fn owner_fields() -> Vec<Field> {
    let text = |name, description| computed(name, Shape::String, description);
    vec![
        text("email", "Email address of the owner."),
        text("full_name", "Full name of the owner."),
        computed("groups", Shape::List, "Groups of the owner."),
        text("id", "ID of the owner."),
        text("login_type", "Login method of the owner."),
        text("name", "User name of the owner."),
        text(
            "oidc_access_token",
            "OpenID Connect access token of the owner; empty without one.",
        )
        .sensitive(),
        computed(
            "rbac_roles",
            Shape::objects(&["name", "org_id"]),
            "Roles of the owner, with their organization.",
        ),
        text(
            "session_token",
            "Session token of the owner, renewed with every start.",
        )
        .sensitive(),
        text(
            "ssh_private_key",
            "Private SSH key that Coder generated for the owner.",
        )
        .sensitive(),
        text(
            "ssh_public_key",
            "Public SSH key that Coder generated for the owner.",
        ),
    ]
}

fn read_owner(state: &mut Object, call: &Call<'_>) -> Result<(), Diagnostic> {
    let context = call.context;
    let id = context.non_empty("CODER_WORKSPACE_OWNER_ID");
    state.set("id", id.map_or_else(new_id, str::to_owned));
    for (name, variable, default) in OWNER {
        state.set(
            name,
            context.non_empty(variable).unwrap_or(default).to_owned(),
        );
    }
    if let Some(login_type) = context.non_empty("CODER_WORKSPACE_OWNER_LOGIN_TYPE") {
        state.set("login_type", login_type.to_owned());
    }
    let groups: Vec<Option<String>> = json(context, "CODER_WORKSPACE_OWNER_GROUPS", "groups")?;
    let groups = groups.into_iter().map(Option::unwrap_or_default);
    state.set("groups", Value::texts(groups));
    let roles: Vec<Option<Role>> = json(context, "CODER_WORKSPACE_OWNER_RBAC_ROLES", "rbac roles")?;
    let roles = roles.into_iter().map(Option::unwrap_or_default);
    state.set_blocks("rbac_roles", roles.map(Object::from));
    Ok(())
}

const OWNER: [(&str, &str, &str); 7] = [
    ("name", "CODER_WORKSPACE_OWNER", "default"),
    ("full_name", "CODER_WORKSPACE_OWNER_NAME", "default"),
    (
        "email",
        "CODER_WORKSPACE_OWNER_EMAIL",
        "default@example.com",
    ),
    ("ssh_public_key", "CODER_WORKSPACE_OWNER_SSH_PUBLIC_KEY", ""),
    (
        "ssh_private_key",
        "CODER_WORKSPACE_OWNER_SSH_PRIVATE_KEY",
        "",
    ),
    ("session_token", "CODER_WORKSPACE_OWNER_SESSION_TOKEN", ""),
    (
        "oidc_access_token",
        "CODER_WORKSPACE_OWNER_OIDC_ACCESS_TOKEN",
        "",
    ),
];

#[derive(Default, Deserialize)]
struct Role {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    org_id: Option<String>,
}

impl From<Role> for Object {
    fn from(role: Role) -> Self {
        Self::from([
            ("name", role.name.unwrap_or_default()),
            ("org_id", role.org_id.unwrap_or_default()),
        ])
    }
}

/// Parses a JSON array in a variable; unset and `null` give an empty one. Text after the array is ignored.
fn json<T>(context: &Context, variable: &str, what: &str) -> Result<Vec<T>, Diagnostic>
where
    T: for<'de> Deserialize<'de>,
{
    let Some(text) = context.variable(variable) else {
        return Ok(Vec::new());
    };
    let mut values = Deserializer::from_str(text).into_iter::<Option<Vec<T>>>();
    match values.next() {
        Some(Ok(list)) => Ok(list.unwrap_or_default()),
        Some(Err(error)) => Err(Diagnostic::error(format!("invalid user {what}: {error}"))),
        None => Err(Diagnostic::error(format!("invalid user {what}: EOF"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::{context, read};

    fn workspace_with(environment: &[(&str, &str)]) -> Result<Object, String> {
        read(&workspace(), Object::new(), &context(environment))
    }

    fn owner_with(environment: &[(&str, &str)]) -> Result<Object, String> {
        read(&owner(), Object::new(), &context(environment))
    }

    #[test]
    fn only_a_start_counts_as_one() {
        for (transition, count) in [
            ("", 1),
            ("start", 1),
            ("stop", 0),
            ("destroy", 0),
            ("START", 0),
        ] {
            let state = workspace_with(&[("CODER_WORKSPACE_TRANSITION", transition)]).unwrap();
            assert_eq!(state.integer("start_count"), Some(count), "{transition}");
        }
    }

    #[test]
    fn a_claim_is_no_prebuild_any_more() {
        let prebuild = ("CODER_WORKSPACE_IS_PREBUILD", "TRUE");
        let claim = ("CODER_WORKSPACE_IS_PREBUILD_CLAIM", "true");
        for (environment, count, is_prebuild, is_claim) in [
            (&[][..], 0, false, false),
            (&[prebuild], 1, true, false),
            (&[claim], 0, false, true),
            (&[prebuild, claim], 0, false, true),
        ] {
            let state = workspace_with(environment).unwrap();
            assert_eq!(state.integer("prebuild_count"), Some(count));
            assert_eq!(state.flag("is_prebuild"), Some(is_prebuild));
            assert_eq!(state.flag("is_prebuild_claim"), Some(is_claim));
        }
    }

    #[test]
    fn a_build_knows_its_template() {
        let error = workspace_with(&[("CODER_WORKSPACE_BUILD_ID", "1")]).unwrap_err();

        assert_eq!(
            error,
            "template ID is missing: CODER_WORKSPACE_TEMPLATE_ID is required"
        );
    }

    #[test]
    fn the_port_is_that_of_the_url_or_of_its_scheme() {
        for (url, port) in [
            ("http://a:3000", 3000),
            ("http://a", 80),
            ("https://a", 443),
        ] {
            let state = workspace_with(&[("CODER_AGENT_URL", url)]).unwrap();
            assert_eq!(state.integer("access_port"), Some(port));
        }
    }

    #[test]
    fn an_owner_that_nobody_names_has_defaults() {
        let owner = owner_with(&[]).unwrap();

        assert_eq!(owner.text("name"), Some("default"));
        assert_eq!(owner.text("email"), Some("default@example.com"));
        assert_eq!(owner.text("session_token"), Some(""));
        assert_eq!(owner.text("login_type"), None);
    }

    #[test]
    fn groups_and_roles_are_read_from_json() {
        let owner = owner_with(&[
            ("CODER_WORKSPACE_OWNER_GROUPS", r#"["a","b"]"#),
            (
                "CODER_WORKSPACE_OWNER_RBAC_ROLES",
                r#"[{"name":"member"},{"name":"admin","org_id":"o"}]"#,
            ),
        ])
        .unwrap();

        assert_eq!(owner.get("groups"), &Value::texts(["a", "b"]));
        let roles: Vec<_> = owner
            .blocks("rbac_roles")
            .map(|role| (role.text("name"), role.text("org_id")))
            .collect();
        assert_eq!(
            roles,
            [(Some("member"), Some("")), (Some("admin"), Some("o"))]
        );
    }

    #[test]
    fn null_is_an_empty_list_and_anything_else_an_error() {
        assert!(owner_with(&[("CODER_WORKSPACE_OWNER_GROUPS", "null")]).is_ok());
        for bad in ["", "{}", "[1]"] {
            let error = owner_with(&[("CODER_WORKSPACE_OWNER_GROUPS", bad)]).unwrap_err();
            assert!(error.starts_with("invalid user groups: "), "{error}");
        }
    }
}
