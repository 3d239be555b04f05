//! Workspace tags of a template, which decide which daemons may build its workspaces.

use std::collections::BTreeMap;

use hcl_edit::expr::{Expression, Object, ObjectKey};

use super::module::{Located, Module};

/// Reason why a `coder_workspace_tags` block cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The block has no tags.
    #[error("\"tags\" attribute is required by coder_workspace_tags")]
    Missing,
    /// The tags are not written as a map.
    #[error("\"tags\" attribute is expected to be a key-value map")]
    NoMap,
    /// A tag has two values.
    #[error("workspace tag {key:?} is defined multiple times")]
    Repeated {
        /// Name of the tag.
        key: String,
    },
}

/// A tag in a template's source.
struct Tag<'a> {
    key: String,
    /// Source text of the tag.
    source: &'a str,
}

/// Returns the tags of a template with the source text of their values, including quotes. JSON files are not read.
///
/// # Errors
/// [`TagError`] if the tags are not written as a map with unique keys.
///
/// # Source
/// coder `provisioner/terraform/tfparse/tfparse.go`, `WorkspaceTags`.
pub fn workspace_tags_raw(module: &Module) -> Result<BTreeMap<String, String>, TagError> {
    let mut raw = BTreeMap::new();
    for tag in tags(module)? {
        if raw.insert(tag.key.clone(), tag.source.to_owned()).is_some() {
            return Err(TagError::Repeated { key: tag.key });
        }
    }
    Ok(raw)
}

fn tags(module: &Module) -> Result<Vec<Tag<'_>>, TagError> {
    let mut tags = Vec::new();
    for located in data_sources(module, "coder_workspace_tags") {
        let attribute = located.block.body.get_attribute("tags");
        let Expression::Object(object) = &attribute.ok_or(TagError::Missing)?.value else {
            return Err(TagError::NoMap);
        };
        tags.extend(items(object, located));
    }
    Ok(tags)
}

fn items<'a>(object: &'a Object, located: Located<'a>) -> impl Iterator<Item = Tag<'a>> {
    let tag = move |(key, value): (&'a ObjectKey, &'a hcl_edit::expr::ObjectValue)| Tag {
        key: key_source(located, key),
        source: located.file.source(value.expr()),
    };
    object.iter().map(tag)
}

/// Returns the key in its source text; the parser saw another one if the key is repeated.
fn key_source(located: Located<'_>, key: &ObjectKey) -> String {
    use hcl_edit::Span;
    let start = key.span().map_or(0, |span| span.start);
    let keys = &located.file.repeated_keys;
    match keys.get(&start).or_else(|| keys.get(&(start + 1))) {
        Some(real) => real.clone(),
        None => located.file.source(key).trim().trim_matches('"').to_owned(),
    }
}

fn data_sources<'a>(module: &'a Module, kind: &'a str) -> impl Iterator<Item = Located<'a>> {
    let all = module
        .blocks("data")
        .filter(|located| !located.file.is_json);
    all.filter(move |located| located.label(0) == kind)
}

#[cfg(test)]
mod tests;
