//! Conversion between messages and our own types.

use bytes::Bytes;
use outpost_value::{Object, Path, Step, Type, Value};
use outpost_wire::proto::tfplugin5::{
    self as wire, attribute_path::step::Selector, schema::nested_block::NestingMode,
};

use crate::{Diagnostic, Diagnostics, Field, Nesting, Presence, Schema, Severity, Shape};

/// A value that was decoded from a message.
pub(super) struct Decoded(Value);

impl Decoded {
    /// Returns the object; `None` for null.
    pub(super) fn object(self) -> Result<Option<Object>, Diagnostic> {
        match self.0 {
            Value::Object(object) => Ok(Some(object)),
            Value::Null => Ok(None),
            other => Err(
                Diagnostic::error("Terraform sent a value that is not an object")
                    .detail(other.to_string()),
            ),
        }
    }
}

/// Decodes a value; a message without one is null.
pub(super) fn decode(of: &Type, value: Option<&wire::DynamicValue>) -> Result<Decoded, Diagnostic> {
    let unreadable = |why: String| {
        Diagnostic::error("Terraform sent a value that cannot be decoded").detail(why)
    };
    let read = match value {
        Some(value) if !value.msgpack.is_empty() => {
            Value::from_msgpack(of, &value.msgpack).map_err(|error| unreadable(error.to_string()))
        }
        Some(value) if !value.json.is_empty() => {
            Value::from_json(of, &value.json).map_err(|error| unreadable(error.to_string()))
        }
        _ => Ok(Value::Null),
    };
    read.map(Decoded)
}

/// Decodes an object; null becomes an object without attributes.
pub(super) fn decode_object(
    of: &Type,
    value: Option<&wire::DynamicValue>,
) -> Result<Object, Diagnostic> {
    Ok(decode(of, value)?.object()?.unwrap_or_default())
}

pub(super) fn encode(of: &Type, value: &Value) -> wire::DynamicValue {
    wire::DynamicValue {
        msgpack: value.to_msgpack(of).into(),
        json: Bytes::new(),
    }
}

pub(super) fn encode_object(of: &Type, object: &Object) -> wire::DynamicValue {
    encode(of, &Value::Object(object.clone()))
}

pub(super) fn diagnostics(diagnostics: Diagnostics) -> Vec<wire::Diagnostic> {
    let convert = |one: Diagnostic| wire::Diagnostic {
        severity: match one.severity {
            Severity::Error => wire::diagnostic::Severity::Error,
            Severity::Warning => wire::diagnostic::Severity::Warning,
        }
        .into(),
        summary: one.summary,
        detail: one.detail,
        attribute: Some(path(&one.path)).filter(|path| !path.steps.is_empty()),
    };
    diagnostics.into_iter().map(convert).collect()
}

pub(super) fn path(path: &Path) -> wire::AttributePath {
    let convert = |step: &Step| wire::attribute_path::Step {
        selector: Some(match step {
            Step::Attribute(name) => Selector::AttributeName(name.clone()),
            Step::Key(key) => Selector::ElementKeyString(key.clone()),
            Step::Index(index) => {
                Selector::ElementKeyInt(i64::try_from(*index).unwrap_or(i64::MAX))
            }
        }),
    };
    wire::AttributePath {
        steps: path.0.iter().map(convert).collect(),
    }
}

pub(super) fn schema(schema: &Schema) -> wire::Schema {
    let deprecated = schema.deprecated.as_deref();
    wire::Schema {
        version: schema.version,
        block: Some(block(&schema.fields, &schema.description, deprecated)),
    }
}

fn block(fields: &[Field], description: &str, deprecated: Option<&str>) -> wire::schema::Block {
    let (blocks, attributes): (Vec<_>, Vec<_>) =
        fields.iter().partition(|field| field.block().is_some());
    wire::schema::Block {
        version: 0,
        attributes: attributes.into_iter().map(attribute).collect(),
        block_types: blocks.into_iter().filter_map(nested).collect(),
        description: description.to_owned(),
        description_kind: wire::StringKind::Plain.into(),
        deprecated: deprecated.is_some(),
        deprecation_message: deprecated.unwrap_or_default().to_owned(),
    }
}

fn attribute(field: &Field) -> wire::schema::Attribute {
    wire::schema::Attribute {
        name: field.name.to_string(),
        r#type: field.shape.value_type().to_json().to_string().into(),
        description: field.description.to_string(),
        required: field.presence == Presence::Required,
        optional: field.presence.is_optional(),
        computed: field.presence.is_computed(),
        sensitive: field.sensitive,
        description_kind: wire::StringKind::Plain.into(),
        deprecated: field.deprecated.is_some(),
        write_only: false,
        deprecation_message: field.deprecated.as_deref().unwrap_or_default().to_owned(),
    }
}

fn nested(field: &Field) -> Option<wire::schema::NestedBlock> {
    let Shape::Block(blocks) = &field.shape else {
        return None;
    };
    let inner = block(
        &blocks.fields,
        &field.description,
        field.deprecated.as_deref(),
    );
    Some(wire::schema::NestedBlock {
        type_name: field.name.to_string(),
        block: Some(inner),
        nesting: match blocks.nesting {
            Nesting::List => NestingMode::List,
            Nesting::Set => NestingMode::Set,
        }
        .into(),
        min_items: blocks.min.into(),
        max_items: blocks.max.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{computed, optional, required, set};

    #[test]
    fn a_schema_becomes_attributes_and_blocks() {
        let apps = vec![optional("vscode", Shape::Bool, "shown")];
        let ours = Schema::new(
            "An agent.",
            vec![
                required("os", Shape::String, "its system"),
                computed("token", Shape::String, "").sensitive(),
                set("apps", "buttons", apps)
                    .at_most(1)
                    .deprecated("no more"),
            ],
        )
        .version(1);

        let theirs = schema(&ours);

        let block = theirs.block.unwrap();
        assert_eq!((theirs.version, &*block.description), (1, "An agent."));
        assert_eq!(&block.attributes[0].r#type[..], br#""string""#);
        assert!(block.attributes[0].required && !block.attributes[0].optional);
        assert!(block.attributes[1].computed && block.attributes[1].sensitive);
        let nested = &block.block_types[0];
        assert_eq!(
            (nested.nesting(), nested.min_items, nested.max_items),
            (NestingMode::Set, 0, 1)
        );
        assert!(nested.block.as_ref().unwrap().deprecated);
    }

    #[test]
    fn the_root_is_no_path() {
        let at = Diagnostic::error("x").at(Path::from("a").index(1).key("k"));
        let found = diagnostics([Diagnostic::warning("y"), at].into_iter().collect());

        assert_eq!(found[0].attribute, None);
        let steps = &found[1].attribute.as_ref().unwrap().steps;
        let selectors: Vec<_> = steps
            .iter()
            .filter_map(|step| step.selector.clone())
            .collect();
        assert_eq!(
            selectors,
            [
                Selector::AttributeName("a".to_owned()),
                Selector::ElementKeyInt(1),
                Selector::ElementKeyString("k".to_owned())
            ]
        );
    }
}
