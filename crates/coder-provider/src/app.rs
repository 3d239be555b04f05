//! The resource `coder_app` as Terraform sees it, an app of an agent. What a server gets of it is converted in
//! `terraform/resources/apps.rs`.

use outpost_plugin::{Diagnostic, Field, Outcome, Schema, Shape, optional, required, set};
use outpost_value::Object;

use crate::{
    check, go,
    resource::{Call, Resource, new_id},
};

/// Maximum length of a name in bytes, which is that of the server's column.
const LONGEST_NAME: usize = 64;
/// Maximum length of a tooltip in bytes.
const LONGEST_TOOLTIP: usize = 2048;
/// Regular expression for a slug in errors.
const SLUG: &str = "^[a-z0-9](-?[a-z0-9])*$";

pub(super) fn app() -> Resource {
    Resource {
        check_plan,
        create,
        ..Resource::plain(schema)
    }
}

fn schema() -> Schema {
    Schema::new(
        "App of a workspace that users open from the dashboard.",
        fields(),
    )
    .version(1)
}

fn fields() -> Vec<Field> {
    vec![
        required("agent_id", Shape::String, "The agent's `id`."),
        optional("command", Shape::String, "Command to run in a web terminal, in place of `url`.")
            .conflicts(["url", "subdomain"]),
        optional("display_name", Shape::String, "Name shown to users in place of the slug.")
            .check(check::text(|text| at_most("display name", LONGEST_NAME, text))),
        optional("external", Shape::Bool, "Whether `url` opens on the user's machine instead of through the server.")
            .default(false)
            .conflicts(["healthcheck", "command", "subdomain", "share"]),
        optional("group", Shape::String, "Name of the group under which the app is listed.")
            .check(check::text(|text| at_most("group name", LONGEST_NAME, text))),
        optional("hidden", Shape::Bool, "Whether to hide the app from users.").default(false),
        optional("icon", Shape::String, "The URL of an icon.").check(check::url),
        optional("open_in", Shape::String, "Window in which the app opens: `tab` or `slim-window`.")
            .default("slim-window")
            .check(check::text(check_open_in)),
        optional("order", Shape::Int, "Position of the app in lists: lower numbers first, equal ones by name."),
        optional("share", Shape::String, "Users with access to the app: the `owner` alone, every user who is `authenticated`, or the `public`.")
            .default("owner")
            .check(check::text(check_share)),
        required("slug", Shape::String, "Name of the app in URLs.").check(check::text(check_slug)),
        optional("subdomain", Shape::Bool, "Whether the app is served at a subdomain instead of a path."),
        optional("tooltip", Shape::String, "Markdown text of the tooltip.")
            .check(check::text(|text| at_most("tooltip", LONGEST_TOOLTIP, text))),
        optional("url", Shape::String, "URL of the app as seen from the workspace; of an external app, any URL.")
            .conflicts(["command"]),
        healthcheck(),
    ]
}

fn healthcheck() -> Field {
    let fields = vec![
        required(
            "interval",
            Shape::Int,
            "Interval between two requests, in seconds.",
        ),
        required(
            "threshold",
            Shape::Int,
            "Number of consecutive failures after which the app is unhealthy.",
        ),
        required(
            "url",
            Shape::String,
            "URL to request; a status below 500 means that the app is healthy.",
        ),
    ];
    set("healthcheck", "HTTP health check of the app.", fields)
        .at_most(1)
        .conflicts(["command"])
}

fn at_most(what: &str, bytes: usize, text: &str) -> Result<(), String> {
    match text.len() > bytes {
        true => Err(format!("{what} is too long (max {bytes} characters)")),
        false => Ok(()),
    }
}

fn check_open_in(value: &str) -> Result<(), String> {
    match value {
        "tab" | "slim-window" => Ok(()),
        _ => Err(format!(
            r#"invalid "coder_app" open_in value, must be one of "tab", "slim-window": {value:?}"#
        )),
    }
}

fn check_share(value: &str) -> Result<(), String> {
    match value {
        "owner" | "authenticated" | "public" => Ok(()),
        _ => Err(format!(
            r#"invalid app share {value:?}, must be one of "owner", "authenticated", "public""#
        )),
    }
}

fn check_slug(slug: &str) -> Result<(), String> {
    let is_word = |word: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        !word.is_empty() && word.bytes().all(allowed)
    };
    match slug.split('-').all(is_word) {
        true => Ok(()),
        false => Err(format!(
            r#"invalid "coder_app" slug, must be a valid hostname ({SLUG:?}, cannot contain two consecutive hyphens or start/end with a hyphen): {slug:?}"#
        )),
    }
}

/// Checks the app's URL, unless it is not known yet.
fn check_plan(planned: &Object) -> Result<(), Diagnostic> {
    let later = planned.get("external").is_unknown() || planned.get("url").is_unknown();
    if later || planned.flag("external") != Some(true) {
        return Ok(());
    }
    go::check_external(planned.text("url").unwrap_or_default()).map_err(Diagnostic::error)
}

fn create(state: &mut Object, _: &Call<'_>) -> Outcome {
    state.set("id", new_id());
    let is_hidden = state.flag("hidden") == Some(true);
    let useless = ["display_name", "icon", "order"].into_iter();
    let useless = useless.filter(|name| is_hidden && state.has(name));
    let warning = |name| Diagnostic::warning(format!("`{name}` set when app is hidden"));
    Ok(useless.map(warning).collect())
}

#[cfg(test)]
mod tests {
    use outpost_value::Value;

    use super::*;
    use crate::context::tests::{context, warnings};

    #[test]
    fn a_slug_is_a_host_name() {
        for good in ["valid", "a", "1", "a-b-c", "web-1"] {
            assert_eq!(check_slug(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "$$$ invalid slug $$$",
            "invalid--slug",
            "invalid_slug",
            "Invalid-slug",
            "-a",
            "a-",
        ] {
            assert!(check_slug(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_external_app_needs_a_url_unless_it_is_known_later() {
        let summary = |url: Value| {
            let app = Object::from([("external", true.into()), ("url", url)]);
            check_plan(&app).err().map(|diagnostic| diagnostic.summary)
        };

        assert!(
            summary("localhost:80".into())
                .unwrap()
                .contains("must include a host")
        );
        assert!(
            summary(Value::Null)
                .unwrap()
                .contains("must include a scheme")
        );
        assert_eq!(summary(Value::Unknown), None);
    }

    #[test]
    fn a_hidden_app_needs_nothing_to_look_at() {
        let looks = |hidden: bool| {
            Object::from([
                ("hidden", Value::from(hidden)),
                ("icon", "/x.svg".into()),
                ("display_name", "".into()),
            ])
        };

        assert_eq!(
            warnings(&app(), looks(true), &context(&[])),
            ["`icon` set when app is hidden"]
        );
        assert!(warnings(&app(), looks(false), &context(&[])).is_empty());
    }
}
