//! Conversion of `coder_app`: apps, checked across the whole template, then put on their agent or container.

use std::collections::BTreeMap;

use outpost_base::{
    job::{App, Healthcheck, OpenIn, SharingLevel},
    rules,
};
use uuid::Uuid;

use super::{
    ConvertError,
    agents::Agents,
    decode::{Attributes, decode},
    index::{Granularity, Index},
};
use crate::{go_text::quoted, plan::ResourceValues};

pub(super) fn attach(agents: &mut Agents<'_>, index: &Index<'_>) -> Result<(), ConvertError> {
    let mut slugs = BTreeMap::new();
    for resource in index.of_type("coder_app") {
        let (agent_id, mut app) = decode("decode app attributes", &resource.values, |values| {
            (values.string("agent_id"), read_app(resource, values))
        })?;
        if !rules::is_app_slug(&app.slug) {
            let slug = quoted(&app.slug);
            return Err(ConvertError::AppSlug(slug, rules::APP_SLUG));
        }
        let duplicate = || ConvertError::DuplicateAppSlug(quoted(&app.slug));
        let block = index.label(&resource.address);
        let is_shared = match slugs.insert(app.slug.clone(), block.clone()) {
            None => false,
            // Instances of one block may share a slug if each belongs to a different agent.
            Some(other) if index.granularity == Granularity::Instance && other == block => true,
            Some(_) => return Err(duplicate()),
        };
        let duplicate = is_shared.then(duplicate);
        if app.id.is_empty() {
            // Before an apply apps have no ids.
            app.id = Uuid::new_v4().to_string();
        }
        let is_first = agents.attach_app(resource, &agent_id, app);
        if let (Some(duplicate), false) = (duplicate, is_first) {
            return Err(duplicate);
        }
    }
    Ok(())
}

fn read_app(resource: &ResourceValues, values: &Attributes<'_>) -> App {
    let or = |text: String, otherwise: &str| {
        if text.is_empty() {
            otherwise.to_owned()
        } else {
            text
        }
    };
    let slug = or(values.string("slug"), &resource.name);
    let display_name = or(values.string("display_name"), &values.string("name"));
    App {
        id: values.string("id"),
        display_name: or(display_name, &slug),
        slug,
        command: values.string("command"),
        url: values.string("url"),
        icon: values.string("icon"),
        subdomain: values.bool("subdomain"),
        healthcheck: read_healthcheck(values),
        sharing_level: sharing_level(&values.string("share")),
        external: values.bool("external"),
        order: values.i64("order"),
        hidden: values.bool("hidden"),
        open_in: if values.string("open_in").eq_ignore_ascii_case("tab") {
            OpenIn::Tab
        } else {
            OpenIn::SlimWindow
        },
        group: values.string("group"),
        tooltip: values.string("tooltip"),
    }
}

/// Reads the health check; only the first block counts.
fn read_healthcheck(values: &Attributes<'_>) -> Option<Healthcheck> {
    let blocks = values.objects("healthcheck");
    let read = |block: &Attributes<'_>| Healthcheck {
        url: block.string("url"),
        interval: block.i32("interval"),
        threshold: block.i32("threshold"),
    };
    let blocks: Vec<_> = blocks.iter().map(read).collect();
    blocks.into_iter().next()
}

/// Parses the sharing level; unknown words mean the owner.
fn sharing_level(word: &str) -> SharingLevel {
    match word.to_lowercase().as_str() {
        "authenticated" => SharingLevel::Authenticated,
        "public" => SharingLevel::Public,
        _ => SharingLevel::Owner,
    }
}
