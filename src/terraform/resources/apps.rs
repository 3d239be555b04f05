//! Apps: checked across the whole template, then put on their agent or container.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{ConvertError, agents::Agents, decode::Attributes, index::Index};
use crate::{
    job::{App, Healthcheck, OpenIn, SharingLevel},
    rules,
    terraform::plan::ResourceValues,
};

pub(super) fn attach(agents: &mut Agents<'_>, index: &Index<'_>) -> Result<(), ConvertError> {
    let mut slugs = BTreeSet::new();
    for resource in index.of_type("coder_app") {
        let values = Attributes::new("decode app attributes", &resource.values);
        let app = read_app(resource, &values)?;
        if !rules::is_app_slug(&app.slug) {
            return Err(ConvertError::AppSlug(app.slug, rules::APP_SLUG));
        }
        if !slugs.insert(app.slug.clone()) {
            return Err(ConvertError::DuplicateAppSlug(app.slug));
        }
        agents.attach_app(resource, &values.string("agent_id")?, app);
    }
    Ok(())
}

fn read_app(resource: &ResourceValues, values: &Attributes<'_>) -> Result<App, ConvertError> {
    let or = |text: String, otherwise: &str| {
        if text.is_empty() {
            otherwise.to_owned()
        } else {
            text
        }
    };
    let slug = or(values.string("slug")?, &resource.name);
    let display_name = or(values.string("display_name")?, &values.string("name")?);
    let id = values.string("id")?;
    Ok(App {
        id: if id.is_empty() {
            Uuid::new_v4().to_string()
        } else {
            id
        },
        display_name: or(display_name, &slug),
        slug,
        command: values.string("command")?,
        url: values.string("url")?,
        icon: values.string("icon")?,
        subdomain: values.bool("subdomain")?,
        healthcheck: values
            .objects("healthcheck")?
            .first()
            .map(read_healthcheck)
            .transpose()?,
        sharing_level: sharing_level(&values.string("share")?),
        external: values.bool("external")?,
        order: values.i64("order")?,
        hidden: values.bool("hidden")?,
        open_in: if values.string("open_in")? == "tab" {
            OpenIn::Tab
        } else {
            OpenIn::SlimWindow
        },
        group: values.string("group")?,
        tooltip: values.string("tooltip")?,
    })
}

fn read_healthcheck(block: &Attributes<'_>) -> Result<Healthcheck, ConvertError> {
    Ok(Healthcheck {
        url: block.string("url")?,
        interval: block.i32("interval")?,
        threshold: block.i32("threshold")?,
    })
}

/// Words that nobody knows mean the owner.
fn sharing_level(word: &str) -> SharingLevel {
    match word.to_lowercase().as_str() {
        "authenticated" => SharingLevel::Authenticated,
        "public" => SharingLevel::Public,
        _ => SharingLevel::Owner,
    }
}
